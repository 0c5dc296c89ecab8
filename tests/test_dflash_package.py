"""Drafts beside those of the PyPI package ``dflash``, token for token, where it is installed.

pip install --no-deps dflash==0.1.0
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.dynamic_conv import ConvShape, DynamicConv
from drafters.block_diffusion.model import DrafterConfig
from drafters.block_diffusion.span import Span
from harness.decode import generate
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tests import dflash2, toy
from tests.tiny_model import write_model

package = pytest.importorskip("dflash.model", reason="pip install --no-deps dflash==0.1.0")

NARROW = (Span(causal=False, window=6),) * 2
SHAPES: dict[str, Any] = {
    "as published": lambda target: dflash2.config(
        target,
        spans=NARROW,
        group_size=16,
        rank=16,
        top_k=16,
        output_multiplier=0.7,
        final_logit_softcapping=20.0,
    ),
    "one layer, a scaled input": lambda target: dflash2.config(
        target, num_hidden_layers=1, group_size=1, rank=1, top_k=1, input_embedding_scale=1.7
    ),
    "three layers, three taps": lambda target: dflash2.config(
        target, 8, num_hidden_layers=3, taps=3, group_size=32, rank=32, top_k=64
    ),
    "one tap": lambda target: dflash2.config(target, 2, taps=1, group_size=8, rank=4, top_k=2),
    "causal windows": lambda target: dflash2.config(target, spans=(Span(True, 9), Span())),
    "causal": lambda target: dflash2.config(target, spans=(Span(True),) * 2),
    "plain": lambda target: dflash2.plain_config(target),
    "plain, windows": lambda target: dflash2.plain_config(target, spans=NARROW),
    "plain, causal windows": lambda target: dflash2.plain_config(
        target, 8, spans=(Span(True, 9), Span())
    ),
    "plain, capped": lambda target: dflash2.plain_config(
        target, output_multiplier=3.0, final_logit_softcapping=5.0, input_embedding_scale=0.5
    ),
}


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


@pytest.fixture(scope="module")
def few() -> toy.ToyTarget:
    return dflash2.tiny_vocabulary()


def both(
    target: toy.ToyTarget, shape: DrafterConfig, directory: Path, seed: int, draft: Any = "argmax"
) -> tuple[BlockDiffusionDrafter, Any]:
    """One checkpoint written here, loaded by us and by the package."""
    checkpoint.save(directory, dflash2.random_model(target, shape, seed), {})
    model = checkpoint.load(str(directory), target).model
    (name,) = json.loads((directory / "config.json").read_text())["architectures"]
    theirs = getattr(package, name).from_pretrained(directory, dtype=torch.float32).eval()
    return BlockDiffusionDrafter(model, target, shape.block_size, draft), theirs


def their_outputs(
    theirs: Any, target: toy.ToyTarget, shape: DrafterConfig, features: torch.Tensor, pending: int
) -> torch.Tensor:
    """``[1, K − 1, D]`` behind ``features``, read at once and without any cache."""
    block = torch.tensor([[pending] + [shape.mask_token_id] * (shape.block_size - 1)])
    hidden: torch.Tensor = theirs(
        target_hidden=features[None],
        noise_embedding=target.embed_tokens.weight[block] * shape.input_embedding_scale,
        position_ids=torch.arange(len(features) + shape.block_size)[None],
    )
    return hidden[:, 1:]


def their_tokens(theirs: Any, target: toy.ToyTarget, hidden: torch.Tensor, pending: int) -> Any:
    if not isinstance(theirs, package.DFlash2DraftModel):
        return theirs.compute_logits(hidden, target.lm_head)[0].argmax(-1)
    return theirs.propose(hidden, torch.tensor([pending]), target.lm_head, 0.0)[0][0]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_logits_and_drafts_round_by_round(
    target: toy.ToyTarget, tmp_path: Path, name: str, seed: int
) -> None:
    """Contexts that grow by as many rows as a verdict could bring, past every window."""
    shape = SHAPES[name](target)
    ours, theirs = both(target, shape, tmp_path / "drafter", seed)
    draw = random.Random(seed)
    features = dflash2.random_features(target, shape, 40)
    length, depth = 3, shape.block_size - 1
    ours.start(torch.zeros(length, dtype=torch.int64), features[:length], Sampling())
    others = 0
    while True:
        pending = draw.randrange(target.vocab_size)
        hidden = their_outputs(theirs, target, shape, features[:length], pending)
        logits = ours.marginals(range(length), pending, depth).logits
        expected = theirs.compute_logits(hidden, target.lm_head)[0]
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        tokens = ours.propose(range(length), pending, depth).tokens
        assert torch.equal(tokens, their_tokens(theirs, target, hidden, pending))
        others += int((tokens != logits.argmax(-1)).sum())
        grown = length + draw.randint(1, shape.block_size)
        if grown > len(features):
            break
        ours.observe(Verdict((), (), 0), features[length:grown])
        length = grown
    assert (others > 0) == (shape.selector is not None and shape.selector.top_k > 1)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["as published", "plain", "plain, causal windows"])
def test_whole_decodes_draft_by_draft(
    few: toy.ToyTarget, tmp_path: Path, name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last block the package drafts no more than has room; all before are compared."""
    shape = SHAPES[name](few)
    ours, theirs = both(few, shape, tmp_path / "drafter", seed)
    drafted: list[list[int]] = []
    propose, compute_logits = getattr(theirs, "propose", None), theirs.compute_logits

    def recorded_propose(*arguments: Any) -> Any:
        found = propose(*arguments)
        drafted[-1] = found[0][0].tolist()
        return found

    def recorded_logits(*arguments: Any) -> Any:
        logits = compute_logits(*arguments)
        drafted.append(logits[0].argmax(-1).tolist())
        return logits

    monkeypatch.setattr(theirs, "compute_logits", recorded_logits)
    if propose is not None:
        monkeypatch.setattr(theirs, "propose", recorded_propose)
    prompt = torch.randint(0, dflash2.FEW, (1, 9), generator=torch.Generator().manual_seed(seed))
    expected = package.dflash_generate(theirs, few.model, prompt, 48, None)[0, 9:].tolist()
    done = generate(few, ours, prompt[0].tolist(), sampling=Sampling(), max_new_tokens=48)
    assert list(done.new_tokens) == expected
    assert done.rounds is not None
    whole = [
        (list(item.draft_tokens), tokens)
        for item, tokens in zip(done.rounds, drafted, strict=False)
        if len(tokens) == shape.block_size - 1 == item.depth
    ]
    assert len(whole) > 10
    for mine, tokens in whole:
        assert mine == tokens
    assert any(item.accepted for item in done.rounds)


@torch.inference_mode()
def test_sampled_drafts_have_their_distribution(target: toy.ToyTarget, tmp_path: Path) -> None:
    """Row by row, as long as both have drawn the same tokens."""
    shape = dflash2.config(target, rank=16, top_k=4)
    ours, theirs = both(target, shape, tmp_path / "drafter", 1, "sample")
    features = dflash2.random_features(target, shape, 12)
    hidden = their_outputs(theirs, target, shape, features, 5)
    compared = [0] * (shape.block_size - 1)
    torch.manual_seed(0)
    for seed in range(60):
        rules = Sampling(0.7, top_p=0.9, top_k=3, seed=seed)
        ours.start(torch.zeros(12, dtype=torch.int64), features, rules)
        made = ours.propose(range(12), 5, shape.block_size - 1)
        assert made.q is not None
        tokens, indices, q = theirs.propose(hidden, torch.tensor([5]), target.lm_head, 0.7)
        wide = torch.zeros_like(made.q).scatter_(1, indices[0], q[0])
        for place in range(len(compared)):
            if not torch.equal(tokens[0, :place], made.tokens[:place]):
                break
            torch.testing.assert_close(made.q[place], wide[place], atol=1e-5, rtol=1e-4)
            compared[place] += 1
    assert min(compared) > 0, compared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("taps", "group_size"), [(2, 16), (3, 4), (1, 1)])
@torch.inference_mode()
def test_convolutions_are_theirs_to_the_bit(dtype: torch.dtype, taps: int, group_size: int) -> None:
    width = 32
    ours = DynamicConv(width, ConvShape(kernel_size=taps, group_size=group_size)).to(dtype)
    theirs = package.GroupedDynamicCausalConv(width, taps, group_size).to(dtype)
    draw = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    theirs.load_state_dict(ours.state_dict())
    x, made = (torch.randn(1, 7, width, generator=draw).to(dtype) for _ in range(2))
    entered, correction = ours.before(x)
    expected, kernel = theirs.prepare(x)
    assert torch.equal(entered, expected)
    assert torch.equal(ours.after(made, correction), theirs.finish(made, kernel))


@pytest.mark.parametrize("name", ["plain", "as published"])
def test_the_packages_own_loader_takes_a_checkpoint(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``dflash generate transformers --model … --draft …`` calls, and what it then decodes."""
    loader = pytest.importorskip("dflash.benchmark").load_transformers_models
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    place = write_model(tmp_path / "target")
    ours = load_target(TargetOptions(name=str(place), dtype="bfloat16"))
    assert isinstance(ours, TransformersTarget)
    shape = SHAPES[name](ours)
    checkpoint.save(tmp_path / "drafter", dflash2.random_model(ours, shape, 1), {})
    target, theirs, tokenizer = loader(str(place), str(tmp_path / "drafter"), "cpu")
    (architecture,) = json.loads((tmp_path / "drafter/config.json").read_text())["architectures"]
    assert type(theirs) is getattr(package, architecture)
    model = checkpoint.load(str(tmp_path / "drafter"), ours).model
    same = {key: value for key, value in theirs.state_dict().items() if key.startswith("layers.")}
    assert same and all(torch.equal(model.state_dict()[key].bfloat16(), same[key]) for key in same)
    prompt = torch.tensor([ours.encode_chat([{"role": "user", "content": "w3 w9"}])])
    assert package.dflash_generate(theirs, target, prompt, 8, None).shape[1] > prompt.shape[1]
    assert len(tokenizer) == len(ours.tokenizer)


def test_no_checkpoint_names_code_that_is_not_beside_it() -> None:
    """``AutoModel`` would look for it there; the package's classes need no such name."""
    for file in checkpoint.OWN.rglob("config.json"):
        assert "auto_map" not in json.loads(file.read_text()), file


def test_shipped_drafters_load_with_the_packages_class() -> None:
    files = [file for file in checkpoint.OWN.rglob("config.json")]
    shapes = [json.loads(file.read_text()) for file in files]
    own = [f for f, body in zip(files, shapes, strict=True) if "dflash_config" in body]
    assert own
    for file in own:
        theirs, facts = package.DFlashDraftModel.from_pretrained(
            file.parent, output_loading_info=True
        )
        assert not facts["missing_keys"] and not facts["unexpected_keys"]
        assert theirs.mask_token_id is not None
