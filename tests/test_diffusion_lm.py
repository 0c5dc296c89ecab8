"""Diffusion LMs: attention both ways, additions to the target's weights, drafting, loading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from scipy.stats import chisquare
from transformers import DynamicCache

from drafters.block_diffusion.data import TrainingSequence
from drafters.build import build_drafter
from drafters.diffusion_lm import checkpoint, families
from drafters.diffusion_lm import denoiser as denoiser_module
from drafters.diffusion_lm.config import RANK, DiffusionConfig
from drafters.diffusion_lm.denoiser import (
    AdaptedTarget,
    PretrainedModel,
    private_decoder,
    two_way_outputs,
)
from drafters.diffusion_lm.drafter import DiffusionDrafter
from drafters.diffusion_lm.low_rank import attach, factor_shapes, merge
from drafters.ngram_model import FILE, NgramModel
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness.cli import main
from harness.decode import generate
from harness.errors import UserError
from harness.kv_cache import KVCache
from harness.sampling import Sampling
from harness.verify import verify
from targets.attention import two_way_inputs
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tasks.hub import Hub
from tests.tiny_model import write_model

MASK = 5
PLACE = (torch.device("cpu"), torch.float32)
IDS = torch.randint(6, 40, (11,), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def one_thread(own_cache: Path) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def target(tiny: Path) -> TransformersTarget:
    found = load_target(TargetOptions(name=str(tiny), dtype="float32"))
    assert isinstance(found, TransformersTarget)
    return found


def shape(target: TransformersTarget, **changes: Any) -> DiffusionConfig:
    facts: dict[str, Any] = {
        "hidden_size": target.hidden_size,
        "num_target_layers": target.num_layers,
        "vocab_size": target.vocab_size,
        "mask_token_id": MASK,
        "shifted": True,
        "block_size": 7,
        "rank": 4,
    }
    return DiffusionConfig(**{**facts, **changes})


def random_factors(
    target: TransformersTarget, config: DiffusionConfig, size: float = 0.02
) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    wanted = factor_shapes(target.model.get_decoder(), config.rank)
    return {key: size * torch.randn(rows, generator=draw) for key, rows in wanted.items()}


def saved(
    target: TransformersTarget, directory: Path, weights: str | None = None, **changes: Any
) -> Path:
    config = shape(target, **changes)
    ngrams = NgramModel.fit([TrainingSequence(tuple(range(6, 40)), 0)], target.vocab_size)
    training = {} if weights is None else {"target": {"weights_sha256": weights}}
    checkpoint.save(directory, config, random_factors(target, config), training, ngrams)
    return directory


def built(target: TransformersTarget, text: str, **changes: Any) -> Any:
    return build_drafter(target, DrafterOptions(**{**parsed(text), **changes}))


def parsed(text: str) -> dict[str, Any]:
    options = DrafterOptions.parse(text)
    return {name: getattr(options, name) for name in ("name", "policies", "argument")}


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_every_row_sees_what_stands_behind_it_and_the_targets_own_does_not(name: str) -> None:
    target = toy.TARGETS[name]()
    decoder = private_decoder(target)
    # Within eight tokens: some layers of one target look no further.
    one, other = IDS[:6], torch.cat((IDS[:5], IDS[:1]))
    both_ways = [two_way_outputs(decoder, ids, [6])[0] for ids in (one, other)]
    causal = [target.model(input_ids=ids[None]).logits[0, 0] for ids in (one, other)]
    assert not torch.allclose(*both_ways, atol=1e-3)
    assert torch.allclose(*causal, atol=1e-6)


@pytest.mark.parametrize("attn", ["sdpa", "eager", "grouped"])
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_without_an_addition_it_is_the_target_under_a_mask_that_hides_nothing(
    name: str, attn: str
) -> None:
    target = toy.TARGETS[name](attn=attn)
    config = shape(target, mask_token_id=63)
    decoder = private_decoder(target)
    nothing = random_factors(target, config, size=0.0)
    merge(decoder, nothing)
    length = len(IDS)
    distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    whole = torch.zeros(1, 1, length, length)
    near = whole.masked_fill(distance >= 8, torch.finfo(torch.float32).min)
    mask = whole if name == "llama" else {"full_attention": whole, "sliding_attention": near}
    expected = target.model(input_ids=IDS[None], attention_mask=mask, use_cache=False).logits[0]
    for shifted, rows in ((True, expected[-4:-1]), (False, expected[-3:])):
        denoiser = AdaptedTarget(decoder, target, shifted=shifted)
        torch.testing.assert_close(denoiser.logits(IDS, 3), rows, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_a_pass_behind_a_cache_reads_the_prefix_as_it_was_committed(
    name: str, shifted: bool
) -> None:
    target = toy.TARGETS[name](attn="grouped")
    decoder = private_decoder(target)
    denoiser = AdaptedTarget(decoder, target, shifted=shifted)
    masks = torch.full((4,), MASK)
    first, second = torch.cat((IDS[:7], masks)), torch.cat((IDS, masks))
    cache = denoiser.new_cache()
    torch.testing.assert_close(denoiser.logits(first, 4, cache), denoiser.logits(first, 4))
    assert cache.length == 6  # all before the pending token
    again = denoiser.logits(first, 4, cache)
    torch.testing.assert_close(again, denoiser.logits(first, 4), atol=1e-4, rtol=1e-4)
    found = denoiser.logits(second, 4, cache)
    assert cache.length == 10

    # The same with the library's cache: six rows of the first pass, then all behind them.
    kept = DynamicCache()
    decoder(first[None], past_key_values=kept, **two_way_inputs(decoder.config, [11], *PLACE))
    for layer in kept.layers:
        layer.keys, layer.values = layer.keys[:, :, :6], layer.values[:, :, :6]
    inputs = two_way_inputs(decoder.config, [15], *PLACE)
    mask = inputs["attention_mask"]
    inputs["attention_mask"] = (
        {kind: part[:, :, 6:] for kind, part in mask.items()}
        if isinstance(mask, dict)
        else mask[:, :, 6:]
    )
    inputs["position_ids"] = inputs["position_ids"][:, 6:]
    hidden = decoder(second[None, 6:], past_key_values=kept, **inputs).last_hidden_state[0]
    expected = target.lm_head(hidden[-4 - shifted : len(hidden) - shifted])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, denoiser.logits(second, 4), atol=1e-4)


def test_a_drafter_reads_only_what_is_new(
    target: TransformersTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = built(target, f"dlm={saved(target, tmp_path / 'dlm')}")
    read = []
    inner = denoiser_module.two_way_outputs
    monkeypatch.setattr(
        denoiser_module,
        "two_way_outputs",
        lambda *given: read.append(len(rows := inner(*given))) or rows,
    )
    prompt = IDS.tolist()
    for _ in range(2):
        drafter.start(IDS, None, Sampling())
        alone = drafter.propose(prompt, 8, 100).tokens.tolist()
        drafter.propose([*prompt, 8, 9, 10], 11, 100)
        drafter.propose([*prompt, 8, 9, 10, 11], 12, 2)
        # Prompt, pending and six masks; three tokens instead of the prompt; one.
        assert read == [18, 10, 4]
        read.clear()
    with pytest.raises(ValueError, match="15 rows are kept of 11"):
        drafter.propose(prompt, 8, 100)
    drafter.reset()
    assert drafter.propose(prompt, 8, 100).tokens.tolist() == alone


def test_sequences_end_to_end_are_sequences_alone() -> None:
    target = toy.qwen3()
    decoder = private_decoder(target)
    together = two_way_outputs(decoder, IDS, [4, 7])
    for part, ids in zip(together.split([4, 7]), IDS.split([4, 7]), strict=True):
        torch.testing.assert_close(part, two_way_outputs(decoder, ids, [len(ids)]))


def test_the_copy_is_the_targets_in_nothing_but_the_embedding(
    target: TransformersTarget,
) -> None:
    target.start(40, 4, (0, 2))  # hooks that keep outputs stay with the target
    before = target.model(input_ids=IDS[None]).logits
    decoder = private_decoder(target)
    assert decoder.embed_tokens is target.embed_tokens
    config = shape(target)
    merge(decoder, random_factors(target, config, size=1.0))
    torch.testing.assert_close(target.model(input_ids=IDS[None]).logits, before)
    assert all(not layer._forward_hooks for layer in decoder.layers)
    assert all(target.decoder_layers[i]._forward_hooks for i in (0, 2))


def test_merged_is_attached(target: TransformersTarget) -> None:
    decoder = private_decoder(target)
    factors = attach(decoder, 4, seed=3)
    alone = two_way_outputs(private_decoder(target), IDS, [11])
    torch.testing.assert_close(two_way_outputs(decoder, IDS, [11]), alone)
    wanted = random_factors(target, shape(target))
    assert {key: tuple(value.shape) for key, value in factors.items()} == {
        key: tuple(value.shape) for key, value in wanted.items()
    }
    with torch.no_grad():
        for key, value in wanted.items():
            factors[key].copy_(value)
    merged = private_decoder(target)
    merge(merged, wanted)
    expected = two_way_outputs(merged, IDS, [11])
    torch.testing.assert_close(two_way_outputs(decoder, IDS, [11]), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, alone, atol=1e-2)


def test_the_shipped_rank_fits_the_embedded_target() -> None:
    """Thirty layers of 576 (192 for keys and values) and 1536, two bytes a number."""
    square, narrow, wide = 2 * 576, 576 + 192, 576 + 1536
    numbers = 30 * RANK * (2 * square + 2 * narrow + 3 * wide)
    assert 19e6 < 2 * numbers < 20e6


def test_a_checkpoint_comes_back(target: TransformersTarget, tmp_path: Path) -> None:
    directory = saved(target, tmp_path / "dlm")
    assert {path.name for path in directory.iterdir()} == {
        *("config.json", "model.safetensors", "training.json", FILE)
    }
    found = checkpoint.load(str(directory), target)
    assert (found.mask_token_id, found.block_size) == (MASK, 7)
    decoder = private_decoder(target)
    factors = random_factors(target, shape(target))
    merge(decoder, {key: value.bfloat16() for key, value in factors.items()})
    expected = AdaptedTarget(decoder, target, shifted=True).logits(IDS, 4)
    torch.testing.assert_close(found.denoiser.logits(IDS, 4), expected)
    facts = found.describe()
    assert facts["path"] == str(directory) and len(facts["weights_sha256"]) == 64
    assert facts["num_parameters"] > sum(value.numel() for value in factors.values())


def test_drafters_of_one_checkpoint_share_its_weights(
    target: TransformersTarget, tmp_path: Path
) -> None:
    directory = saved(target, tmp_path / "dlm")
    first, second = (checkpoint.load(str(directory), target) for _ in range(2))
    assert first.denoiser is second.denoiser
    saved(target, directory, shifted=False)
    assert checkpoint.load(str(directory), target).denoiser is not first.denoiser


def test_drafts_are_the_denoisers_at_the_masks(target: TransformersTarget, tmp_path: Path) -> None:
    directory = saved(target, tmp_path / "dlm")
    drafter = built(target, f"dlm={directory}")
    assert isinstance(drafter, DiffusionDrafter)
    assert (drafter.block_size, drafter.max_nodes, drafter.draft) == (7, 6, "argmax")
    for budget, count in ((100, 6), (2, 2)):
        drafter.start(IDS, None, Sampling())
        found = drafter.marginals(IDS.tolist(), 8, budget)
        ids = torch.tensor([*IDS.tolist(), 8, *[MASK] * count])
        denoiser = checkpoint.load(str(directory), target).denoiser
        torch.testing.assert_close(found.logits, denoiser.logits(ids, count))
        assert found.vocabulary is None
        proposal = drafter.propose(IDS.tolist(), 8, budget)
        assert proposal.tokens.tolist() == found.logits.argmax(-1).tolist()
        assert proposal.rule == "match"
    assert built(target, f"dlm={directory}", block_size=4).max_nodes == 3


NAMES = ("dlm", "dlm+adl", "dlm+cps", "dlm+adl+cps", "diffuspec")


@pytest.mark.parametrize("shifted", [True, False])
def test_output_is_the_targets(target: TransformersTarget, tmp_path: Path, shifted: bool) -> None:
    directory = saved(target, tmp_path / "dlm", shifted=shifted)
    target.stop_ids = frozenset({7})
    accepted = 0
    for seed in range(3):
        prompt = torch.randint(6, 40, (9,), generator=torch.Generator().manual_seed(seed)).tolist()
        plain = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=24)
        for name in NAMES:
            drafter = built(target, f"{name}={directory}")
            done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=24)
            assert done.new_tokens == plain.new_tokens, name
            assert done.finish_reason == plain.finish_reason
            accepted += sum(item.accepted for item in done.rounds or ())
    if shifted:  # else nothing in an untrained model speaks of the masks
        assert accepted > 0


def test_diffuspec_is_its_parts(target: TransformersTarget, tmp_path: Path) -> None:
    directory = saved(target, tmp_path / "dlm")
    whole, parts = (built(target, f"{name}={directory}") for name in ("diffuspec", "dlm+adl+cps"))
    proposals = []
    for drafter in (whole, parts):
        drafter.start(IDS, None, Sampling())
        proposals.append(drafter.propose(IDS.tolist(), 8, 100))
        assert (drafter.max_nodes, drafter.block_size, drafter.draft) == (6, 7, "argmax")
    assert proposals[0].tokens.tolist() == proposals[1].tokens.tolist()


def test_the_ablation_is_one_command(
    target: TransformersTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setattr(Hub, "snapshot", lambda self, files: None)
    directory = saved(target, tmp_path / "dlm", str(target.describe()["weights_sha256"]))
    names = ("dlm", "dlm+adl", "dlm+cps", "diffuspec")
    status = main(
        [
            *("run", "--target", target.name, "--device", "cpu", "--dtype", "float32"),
            *("--drafter", ",".join(f"{name}={directory}" for name in names)),
            *("--baseline", "ar_loop", "--tasks", "gsm8k", "--limit", "1"),
            *("--max-new-tokens", "8", "--output-dir", str(tmp_path / "runs")),
        ]
    )
    out = capsys.readouterr().out
    assert status == 0, out
    run_dir = Path(json.loads(out.splitlines()[-1])["run_dir"])
    facts = json.loads((run_dir / "config.json").read_text())["methods"]
    assert [item["method"] for item in facts] == ["ar_loop", *names]
    assert len({item["checkpoint"]["weights_sha256"] for item in facts[1:]}) == 1
    searched = [item["checkpoint"].get("ngram_sha256") is not None for item in facts[1:]]
    assert searched == [False, False, True, True]


class Fixed:
    """Says the same of every mask."""

    num_parameters = 0

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits

    def new_cache(self) -> None:
        return None

    def logits(self, ids: torch.Tensor, count: int, cache: KVCache | None = None) -> torch.Tensor:
        return self._logits[:count]


def test_sampled_drafts_are_drawn_from_the_q_they_state() -> None:
    target = toy.llama()
    draw = torch.Generator().manual_seed(0)
    # A model with fewer columns than the target: the rest have probability 0.
    logits, p = torch.randn(2, 5, generator=draw), torch.randn(3, toy.VOCAB, generator=draw)
    p[:, 8:] = -torch.inf
    sampling = Sampling(temperature=0.8, top_p=0.95)
    drafter = DiffusionDrafter(Fixed(logits), target, 63, 3, "sample")
    drafter.start(torch.tensor([1]), None, sampling)
    coins = torch.Generator().manual_seed(1)
    counts = np.zeros(8)
    for _ in range(3000):
        proposal = drafter.propose([1], 2, 100)
        assert proposal.rule == "rejection" and proposal.q is not None
        verdict = verify(p, proposal, sampling, coins)
        counts[(*verdict.tokens, verdict.next_token)[0]] += 1
    torch.testing.assert_close(proposal.q[:, :5], sampling.probs(logits))
    assert not proposal.q[:, 5:].any()
    expected = sampling.probs(p[0])[:8].double().numpy()
    seen = expected > 0
    expected *= counts.sum() / expected.sum()
    assert chisquare(counts[seen], expected[seen]).pvalue > 1e-4
    assert not counts[~seen].any()


def refuses(target: TransformersTarget, location: Path | str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        built(target, f"dlm={location}")
    assert "\n" not in str(caught.value)


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    body = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in body.items() if value is not None}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shifted": None}, "lacks shifted"),
        ({"shifted": 1}, "shifted should be bool"),
        ({"mask_token_id": 46}, "mask_token_id must be below 46"),
        ({"block_size": 1}, "block_size must be at least 2"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"rank": 5}, "do not fit"),
        ({"vocab_size": 99}, "made for another target: its vocabulary size"),
        ({"num_target_layers": 6}, "made for another target"),
    ],
)
def test_other_configs_are_refused(
    target: TransformersTarget, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    directory = saved(target, tmp_path / "dlm")
    edit(directory, **changes)
    refuses(target, directory, words)


def test_other_weights_are_refused(target: TransformersTarget, tmp_path: Path) -> None:
    directory = saved(target, tmp_path / "dlm")
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    refuses(target, directory, "truncated or broken")
    weights.write_bytes(whole)
    factors = load_file(weights)
    save_file({key: value.int() for key, value in factors.items()}, weights)
    refuses(target, directory, "do not fit")
    factors.popitem()
    save_file(factors, weights)
    refuses(target, directory, "do not fit")
    weights.unlink()
    refuses(target, directory, "holds no weights")
    refuses(target, tmp_path / "nowhere", "no drafter directory")


def test_for_weights_of_the_same_shapes_there_is_a_warning(
    target: TransformersTarget, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = str(target.describe()["weights_sha256"])
    built(target, f"dlm={saved(target, tmp_path / 'own', own)}")
    assert not caplog.records
    built(target, f"dlm={saved(target, tmp_path / 'other', 'b' * 64)}")
    (record,) = caplog.records
    assert "was trained for other weights" in record.getMessage()


def test_without_a_checkpoint_the_command_is_named(
    target: TransformersTarget, tmp_path: Path
) -> None:
    for name in ("dlm", "diffuspec"):
        with pytest.raises(UserError, match=r"python -m harness train --drafter dlm --target "):
            built(target, name)
    directory = saved(target, tmp_path / "dlm")
    with pytest.raises(UserError, match="block-size 1 leaves nothing"):
        built(target, f"dlm={directory}", block_size=1)
    (directory / FILE).unlink()
    built(target, f"dlm+adl={directory}")
    with pytest.raises(UserError, match=r"there is no .*name a file: cps:ngram=PATH"):
        built(target, f"diffuspec={directory}")


def test_weights_that_were_laid_out_cannot_be_copied(
    target: TransformersTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersTarget, "lm_head", torch.nn.Identity())
    with pytest.raises(UserError, match="before the first answer"):
        private_decoder(target)


STAND_IN = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class StandInConfig(PretrainedConfig):
    model_type = "Dream"

    def __init__(self, vocab_size=46, hidden_size=8, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)


class StandIn(PreTrainedModel):
    config_class = StandInConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        x = self.embed(input_ids)
        return CausalLMOutput(logits=self.head(x + x.mean(1, keepdim=True)))
"""


@pytest.fixture
def stand_in(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model with code of its own beside the target's tokenizer, as a hub repository has it."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.setenv(families.ALLOW, "1")
    directory = tmp_path / "stand_in"
    directory.mkdir()
    for path in tiny.glob("*token*"):
        shutil.copy(path, directory)
    (directory / "stand_in.py").write_text(STAND_IN)
    names = {"AutoConfig": "stand_in.StandInConfig", "AutoModel": "stand_in.StandIn"}
    body = {"model_type": "Dream", "auto_map": names, "vocab_size": 46, "hidden_size": 8}
    (directory / "config.json").write_text(json.dumps({**body, "mask_token_id": MASK}))
    draw = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (46, 8), "head.weight": (46, 8), "head.bias": (46,)}
    state = {key: torch.randn(rows, generator=draw) for key, rows in shapes.items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def stand_in_logits(directory: Path, ids: list[int]) -> torch.Tensor:
    state = load_file(directory / "model.safetensors")
    x = state["embed.weight"][torch.tensor(ids)]
    return (x + x.mean(0)) @ state["head.weight"].T + state["head.bias"]


def test_a_model_with_its_own_code(
    target: TransformersTarget, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small stand-in: no published model was run."""
    drafter = built(target, f"dlm={stand_in}", block_size=4)
    drafter.start(IDS, None, Sampling())
    found = drafter.marginals(IDS.tolist(), 8, 100)
    expected = stand_in_logits(stand_in, [*IDS.tolist(), 8, MASK, MASK, MASK])
    torch.testing.assert_close(found.logits, expected[-4:-1])
    assert built(target, f"dlm={stand_in}").max_nodes == 30

    prompt = IDS.tolist()
    plain = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=16)
    done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=16)
    assert done.new_tokens == plain.new_tokens

    edit(stand_in, shifted=False)
    drafter = built(target, f"dlm={stand_in}", block_size=4)
    torch.testing.assert_close(drafter.marginals(prompt, 8, 100).logits, expected[-3:])

    monkeypatch.delenv(families.ALLOW)
    edit(stand_in, shifted=True)
    refuses(target, stand_in, f"allow it with {families.ALLOW}=1")


def test_a_model_with_other_tokens_is_refused(target: TransformersTarget, stand_in: Path) -> None:
    path = stand_in / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7"', '"other"'))
    refuses(target, stand_in, r"another tokenizer .*'w7' is missing there and 13 here")


def test_a_model_that_cannot_be_loaded_is_a_sentence(
    target: TransformersTarget, stand_in: Path
) -> None:
    (stand_in / "stand_in.py").write_text("import no_such_package")
    refuses(target, stand_in, "cannot be loaded .*another version of transformers")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model_type": "Dream"}, (151666, True)),
        ({"model_type": "llada"}, (126336, False)),
        ({"model_type": "Dream", "mask_token_id": 7}, (7, True)),
        ({"model_type": "new", "mask_token_id": 7, "shifted": False}, (7, False)),
    ],
)
def test_families(body: dict[str, Any], expected: tuple[int, bool]) -> None:
    family = families.family_of(body, "here")
    assert (family.mask_token_id, family.shifted) == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model_type": "llama"}, "is a llama model, and no diffusion LM that is known"),
        ({"model_type": "llama", "mask_token_id": 7}, "put mask_token_id and shifted"),
        ({"model_type": "Dream", "mask_token_id": "7"}, "must be a token id"),
        ({"model_type": "Dream", "shifted": "no"}, "true or false"),
    ],
)
def test_other_families_are_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        families.family_of(body, "here")


def test_columns_that_are_no_tokens_of_the_targets_are_dropped() -> None:
    class Wide:
        def parameters(self) -> list[torch.Tensor]:
            return []

        def __call__(self, input_ids: torch.Tensor) -> Any:
            class Output:
                logits = torch.arange(12.0).view(1, 3, 4).expand(input_ids.shape[0], -1, -1)

            return Output

    model = PretrainedModel(Wide(), shifted=False, vocab_size=3)
    assert model.logits(torch.tensor([1, 2, 3]), 2).tolist() == [[4, 5, 6], [8, 9, 10]]


def test_another_kind_of_target_is_refused() -> None:
    class Other:
        name = "other"

    build: Callable[..., Any] = build_drafter
    with pytest.raises(UserError, match="shares no weights or tokenizer"):
        build(Other(), DrafterOptions(name="dlm"))
