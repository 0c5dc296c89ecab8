"""DFlash 2 and the layers of newer DFlash checkpoints: loaded, drafted with, and lossless."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from drafters.base import MarginalDrafter, Proposal
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.dflash_config import config_from_json, config_to_json
from drafters.block_diffusion.drafter import BlockDiffusionDrafter, build
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.replay import draft_behind
from drafters.block_diffusion.span import Span
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import best_tokens, verify
from tests import dflash2, toy
from tests.mangle import mangled_object
from tests.test_block_diffusion import layout

FULL, SLIDING = "full_attention", "sliding_attention"

PUBLISHED: dict[str, Any] = {
    "architectures": ["DFlash2DraftModel"],
    "attention_bias": False,
    "is_causal": False,
    "dflash_config": {
        "block_size": 16,
        "conv_group_size": 16,
        "conv_kernel_size": 2,
        "final_logit_softcapping": 20.0,
        "mask_token_id": 201818,
        "output_multiplier": 0.19611613513818404,
        "selector_rank": 256,
        "selector_top_k": 16,
        "target_layer_ids": [1, 13, 25, 37, 49],
    },
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 6656,
    "intermediate_size": 19968,
    "layer_types": [SLIDING] * 5,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 5,
    "num_key_value_heads": 8,
    "num_target_layers": 52,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    "sliding_window": 2048,
    "use_sliding_window": True,
    "vocab_size": 202048,
}
"""What z-lab/Muse-Glimmer-30B-DFlash2 says of itself, as far as it is read."""


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


@pytest.fixture(scope="module")
def few() -> toy.ToyTarget:
    return dflash2.tiny_vocabulary()


@pytest.fixture
def saved(target: toy.ToyTarget, tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "drafter", dflash2.random_model(target, dflash2.config(target)), {})
    return tmp_path / "drafter"


def change(directory: Path, **changes: Any) -> None:
    """Set fields of ``config.json``, those of ``dflash_config`` one by one; None takes one out."""
    path = directory / "config.json"
    body = json.loads(path.read_text())
    own = changes.pop("dflash_config", {})
    for part, fields in ((body, changes), (body["dflash_config"], own)):
        part.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del part[name]
    path.write_text(json.dumps(body))


def refuses(target: toy.ToyTarget, directory: Path, words: str) -> None:
    with pytest.raises(UserError) as caught:
        build(target, DrafterOptions(name="dflash", argument=str(directory)))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# Configuration and files


def test_a_published_config_and_the_tensors_it_asks_for() -> None:
    found = config_from_json(PUBLISHED, "somewhere")
    assert found.spans == (Span(causal=False, window=2048),) * 5
    assert (found.output_multiplier, found.final_logit_softcapping) == (0.19611613513818404, 20.0)
    with torch.device("meta"):
        tensors = BlockDiffusionModel(found).state_dict()
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    assert len(shapes) == 81
    for name in ("attention_conv", "mlp_conv"):
        assert shapes[f"layers.4.{name}.base_kernel"] == (2, 2, 6656)
        assert shapes[f"layers.4.{name}.kernel_projection.weight"] == (1664, 6656)
    assert shapes["candidate_selector.hidden_projection.weight"] == (256, 6656)
    assert shapes["candidate_selector.predecessor_codebook"] == (202048, 256)
    assert shapes["candidate_selector.successor_codebook"] == (202048, 256)


def test_round_trip(target: toy.ToyTarget, saved: Path) -> None:
    body = json.loads((saved / "config.json").read_text())
    assert body["architectures"] == ["DFlash2DraftModel"]
    assert body["dflash_config"]["conv_group_size"] == 4
    found = checkpoint.load(str(saved), target).model
    expected = dflash2.random_model(target, dflash2.config(target))
    assert found.config == expected.config
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


SPANS = {
    "a window in one layer": (Span(causal=True, window=8), Span()),
    "windows": (Span(causal=False, window=8),) * 2,
    "causal": (Span(causal=True),) * 2,
    "causal windows": (Span(causal=True, window=3),) * 2,
}


@pytest.mark.parametrize("name", SPANS)
def test_spans_and_scales_survive_json(target: toy.ToyTarget, name: str) -> None:
    for make in (dflash2.config, dflash2.plain_config):
        given = make(target, spans=SPANS[name], output_multiplier=0.5, input_embedding_scale=2.0)
        body = json.loads(json.dumps(config_to_json(given, "float32")))
        assert config_from_json(body, "somewhere") == given


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"layer_types": [SLIDING, FULL]}, (Span(True, 5), Span())),
        ({"layer_types": [SLIDING, FULL], "is_causal": False}, (Span(False, 5), Span())),
        ({"layer_types": [SLIDING, FULL], "is_causal": True}, (Span(True, 5), Span(True))),
        ({"layer_types": [FULL, FULL], "is_causal": False}, ()),
        ({"layer_types": [FULL, FULL], "dflash_config": {"causal": True}}, (Span(True),) * 2),
        (
            {
                "layer_types": [SLIDING] * 2,
                "is_causal": False,
                "dflash_config": {"causal": True},
            },
            (Span(False, 5),) * 2,
        ),
    ],
)
def test_what_a_layer_sees(
    target: toy.ToyTarget, saved: Path, fields: dict[str, Any], expected: tuple[Span, ...]
) -> None:
    change(saved, use_sliding_window=True, sliding_window=5, **fields)
    assert checkpoint.load(str(saved), target).model.config.spans == expected


def test_fields_of_the_second_architecture_may_stand_at_the_top(
    target: toy.ToyTarget, saved: Path
) -> None:
    body = json.loads((saved / "config.json").read_text())
    own = body.pop("dflash_config")
    (saved / "config.json").write_text(json.dumps({**body, **own}))
    assert checkpoint.load(str(saved), target).model.config == dflash2.config(target)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["DSparkDraftModel"]}, "is a 'DSparkDraftModel', and this version runs"),
        ({"architectures": ["DFlashDraftModel"]}, "do not match its config.json"),
        ({"architectures": "DFlash2DraftModel"}, "architectures should be a list"),
        ({"dflash_config": {"conv_kernel_size": None}}, "conv lacks kernel_size"),
        ({"dflash_config": {"selector_rank": None, "selector_top_k": None}}, "selector lacks"),
        ({"dflash_config": {"selector_rank": "256"}}, "rank should be int"),
        ({"dflash_config": {"selector_rank": 9}}, "do not match its config.json"),
        ({"dflash_config": {"selector_top_k": 65}}, "more than the vocabulary"),
        ({"dflash_config": {"selector_top_k": 0}}, "at least 1"),
        ({"dflash_config": {"conv_group_size": 5}}, "conv_group_size 5 does not divide"),
        ({"dflash_config": {"conv_kernel_size": 3}}, "do not match its config.json"),
        ({"layer_types": [SLIDING] * 2}, "need use_sliding_window and sliding_window"),
        ({"layer_types": [SLIDING] * 2, "sliding_window": 8}, "need use_sliding_window"),
        ({"layer_types": None, "use_sliding_window": True}, "need layer_types"),
        ({"layer_types": None, "is_causal": True}, "need layer_types"),
        ({"layer_types": ["chunked_attention"] * 2}, "should be one of full_attention"),
        (
            {"layer_types": [SLIDING], "use_sliding_window": True, "sliding_window": 8},
            "layer_types must name 2 layers",
        ),
        (
            {"layer_types": [SLIDING] * 2, "use_sliding_window": True, "sliding_window": 0},
            "sliding_window must be at least 1",
        ),
    ],
)
def test_what_cannot_be_loaded(
    target: toy.ToyTarget, saved: Path, fields: dict[str, Any], words: str
) -> None:
    change(saved, **fields)
    refuses(target, saved, words)


def test_plain_weights_under_the_name_of_the_second(target: toy.ToyTarget, saved: Path) -> None:
    whole = (saved / "config.json").read_bytes()
    checkpoint.save(saved, dflash2.random_model(target, dflash2.plain_config(target)), {})
    (saved / "config.json").write_bytes(whole)
    refuses(target, saved, "do not match its config.json")


def test_a_config_without_a_name_is_plain(target: toy.ToyTarget, tmp_path: Path) -> None:
    model = dflash2.random_model(target, dflash2.plain_config(target))
    checkpoint.save(tmp_path / "drafter", model, {})
    change(tmp_path / "drafter", architectures=None)
    assert checkpoint.load(str(tmp_path / "drafter"), target).model.config == model.config


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_configs_are_one_sentence(
    target: toy.ToyTarget, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    spans = (Span(causal=False, window=8),) * 2
    model = dflash2.random_model(target, dflash2.config(target, spans=spans))
    directory = tmp_path_factory.mktemp("damaged") / "drafter"
    checkpoint.save(directory, model, {})
    whole = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_bytes(data.draw(mangled_object(whole)))
    try:
        found = checkpoint.load(str(directory), target).model
    except UserError as error:
        assert "\n" not in str(error)
        return
    features = dflash2.random_features(target, found.config, 12)
    tokens = dflash2.started(found, target, features).propose(range(12), 3, 3).tokens
    assert all(0 <= token < target.vocab_size for token in tokens.tolist())


# The network


def test_convolutions_that_change_nothing_leave_plain_dflash(target: toy.ToyTarget) -> None:
    plain = dflash2.random_model(target, dflash2.plain_config(target))
    model = BlockDiffusionModel(dflash2.config(target))
    model.load_state_dict(plain.state_dict(), strict=False)
    features = dflash2.random_features(target, plain.config, 9)
    with torch.inference_mode():
        expected = dflash2.started(plain, target, features)._block(3)
        assert torch.equal(dflash2.started(model, target, features)._block(3), expected)
        random = dflash2.random_model(target, dflash2.config(target))
        assert not torch.allclose(dflash2.started(random, target, features)._block(3), expected)


def test_a_layer_convolves_before_and_behind_both_sublayers(target: toy.ToyTarget) -> None:
    layer = dflash2.random_model(target, dflash2.config(target)).stack()[0]
    assert layer.attention_conv is not None and layer.mlp_conv is not None
    draw = torch.Generator().manual_seed(0)
    x, attended = (torch.randn(1, 4, target.hidden_size, generator=draw) for _ in range(2))
    read, first = layer.attention_conv.before(layer.input_layernorm(x))
    between = x + layer.attention_conv.after(attended, first)
    inner, second = layer.mlp_conv.before(layer.post_attention_layernorm(between))
    h, correction = layer.enter(x)
    assert torch.equal(h, read)
    expected = between + layer.mlp_conv.after(layer.mlp(inner), second)
    assert torch.equal(layer.finish(x, attended, correction), expected)


def test_training_output_of_a_block_equals_inference(target: toy.ToyTarget) -> None:
    model = dflash2.random_model(target, dflash2.config(target))
    features = dflash2.random_features(target, model.config, 20)
    blocks = layout((20,), ((5, 11, 16),))
    with torch.inference_mode():
        trained = model.drafts(blocks, features, target.embed_tokens.weight)
        for index, anchor in enumerate((5, 11, 16)):
            drafter = dflash2.started(model, target, features[:anchor], split=anchor - 2)
            block = drafter._block(int(blocks.tokens[index]))
            torch.testing.assert_close(trained[index], block[1:], atol=2e-5, rtol=2e-5)


def by_one_mask(
    model: BlockDiffusionModel, noise: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """One block ``[K, D]`` behind all of ``features``, by masks over everything there is."""
    length, size = len(features), len(noise)
    context, x = model.context(features[None]), noise[None]
    far_rope = model.rope(torch.arange(length)[None], noise)
    rope = model.rope(torch.arange(length, length + size)[None], noise)
    rows, keys = torch.arange(length, length + size)[:, None], torch.arange(length + size)
    for layer in model.stack():
        h, correction = layer.enter(x)
        attention, span = layer.self_attn, layer.span
        k, v = (
            torch.cat(pair, dim=2)
            for pair in zip(
                attention.keys_values(context, *far_rope),
                attention.keys_values(h, *rope),
                strict=True,
            )
        )
        seen = torch.ones(size, length + size, dtype=torch.bool)
        if span.causal:
            seen &= keys <= rows
        if span.window is not None:
            seen &= (rows - keys).abs() < span.window
        out = torch.nn.functional.scaled_dot_product_attention(
            attention.queries(h, *rope), k, v, attn_mask=seen, enable_gqa=True
        )
        x = layer.finish(x, attention.o_proj(out.transpose(1, 2).flatten(2)), correction)
    return model.norm(x)[0]


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("make", [dflash2.config, dflash2.plain_config])
def test_windows_and_causal_layers_equal_one_mask(
    target: toy.ToyTarget, name: str, make: Any
) -> None:
    model = dflash2.random_model(target, make(target, spans=SPANS[name]))
    whole = dflash2.random_model(target, make(target))
    size = model.config.block_size
    for length in (1, 2, 4, 5, 7, 20):
        features = dflash2.random_features(target, model.config, length)
        drafter = dflash2.started(model, target, features, split=max(1, length - 3))
        noise = target.embed_tokens.weight[[3] + [model.config.mask_token_id] * (size - 1)]
        with torch.inference_mode():
            found = drafter._block(3)
            expected = by_one_mask(model, noise, features)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
            sees_all = dflash2.started(whole, target, features)._block(3)
        hides = any(s.view(length, size, target.device)[1] is not None for s in model.config.spans)
        assert torch.allclose(found, sees_all, atol=1e-3) != hides


def test_what_only_decodes_says_so(target: toy.ToyTarget) -> None:
    blocks, features = layout((20,), ((5, 11),)), torch.randn(20, 2 * target.hidden_size)
    narrow = dflash2.random_model(target, dflash2.plain_config(target, spans=SPANS["windows"]))
    with pytest.raises(ValueError, match="for decoding only"):
        narrow.drafts(blocks, features, target.embed_tokens.weight)
    drafter = dflash2.started(
        dflash2.random_model(target, dflash2.config(target)), target, features
    )
    with pytest.raises(ValueError, match="cannot be replayed"):
        draft_behind(
            drafter.model,
            target,
            drafter.head,
            [],
            lambda indices: features,
            block_size=4,
            max_new_tokens=4,
        )


# Drafts


def test_a_policy_is_shown_the_base_logits(target: toy.ToyTarget) -> None:
    model = dflash2.random_model(target, dflash2.config(target))
    drafter = dflash2.started(model, target, dflash2.random_features(target, model.config, 9))
    assert isinstance(drafter, MarginalDrafter)
    with torch.inference_mode():
        hidden = drafter._block(3)[1:3]
        assert torch.equal(drafter.marginals(range(9), 3, 2).logits, target.lm_head(hidden))


def test_without_successors_drafts_are_those_of_the_base_logits(target: toy.ToyTarget) -> None:
    model = dflash2.random_model(target, dflash2.config(target))
    features = dflash2.random_features(target, model.config, 9)
    drafter = dflash2.started(model, target, features)
    best = best_tokens(drafter.marginals(range(9), 3, 3).logits)
    chosen = drafter.propose(range(9), 3, 3).tokens
    assert not torch.equal(chosen, best)
    assert model.candidate_selector is not None
    model.candidate_selector.successor_codebook.zero_()
    assert torch.equal(drafter.propose(range(9), 3, 3).tokens, best)


def test_a_sampled_draft_comes_with_the_selectors_distribution(target: toy.ToyTarget) -> None:
    model = dflash2.random_model(target, dflash2.config(target))
    features = dflash2.random_features(target, model.config, 9)
    sampling = Sampling(temperature=0.8, top_p=0.5, top_k=2, seed=3)

    def proposal() -> Proposal:
        drafter = dflash2.started(model, target, features, draft="sample", sampling=sampling)
        return drafter.propose(range(9), 3, 2)

    made = proposal()
    assert made.rule == "rejection" and made.q is not None and made.q.shape == (2, toy.VOCAB)
    torch.testing.assert_close(made.q.sum(-1), torch.ones(2))
    assert ((made.q > 0).sum(-1) == 6).all()  # the run's top-k and top-p are the target's
    assert torch.equal(proposal().tokens, made.tokens)


# Losslessness


@pytest.mark.parametrize("block_size", [2, 4, 8])
def test_greedy_output_is_the_targets_own(few: toy.ToyTarget, block_size: int) -> None:
    shape = dflash2.config(few, block_size, spans=(Span(causal=False, window=9), Span()))
    prompts = [[3, 1, 4, 1, 5], [2, 6, 0, 5, 3]]
    answers = toy.plain_greedy(few, prompts, 40)
    accepted: Counter[int] = Counter()
    for seed in range(2):
        model = dflash2.random_model(few, shape, seed)
        for prompt, answer in zip(prompts, answers, strict=True):
            drafter = BlockDiffusionDrafter(model, few, block_size)
            done = generate(few, drafter, prompt, sampling=Sampling(), max_new_tokens=40)
            assert list(done.new_tokens) == answer
            accepted.update(item.accepted for item in done.rounds or ())
    assert accepted[0] and sum(accepted.values()) > accepted[0], accepted


def joint_of_two(
    target: toy.ToyTarget, drafter: BlockDiffusionDrafter, prompt: list[int], draws: int
) -> Counter[tuple[int, int]]:
    """The two tokens behind a prompt, as rounds of drafts two deep bring them about."""
    sampling = drafter._sampling
    generator = sampling.generator("verify")
    pairs = list(itertools.product(range(dflash2.FEW), repeat=2))
    ids = torch.tensor([[*prompt, *pair] for pair in pairs])
    rows = dict(zip(pairs, target.model(ids).logits[:, -3:], strict=True))
    counts: Counter[tuple[int, int]] = Counter()
    for _ in range(draws):
        proposal = drafter.propose(prompt[:-1], prompt[-1], 2)
        first, second = proposal.tokens.tolist()
        verdict = verify(rows[first, second], proposal, sampling, generator)
        written = [*verdict.tokens, verdict.next_token]
        if len(written) == 1:
            p = sampling.probs(rows[written[0], 0][1])
            written.append(int(torch.multinomial(p, 1, generator=generator)))
        counts[written[0], written[1]] += 1
    return counts


def p_value(
    target: toy.ToyTarget, sampling: Sampling, prompt: list[int], counts: Counter[tuple[int, int]]
) -> float:
    """Pearson's test against exact enumeration; cells expected below 5 are one."""
    after = torch.tensor([[*prompt, token] for token in range(dflash2.FEW)])
    logits = target.model(after).logits
    joint = sampling.probs(logits[0, -2])[:, None] * sampling.probs(logits[:, -1])
    expected = joint.double() / joint.double().sum() * sum(counts.values())
    seen, means, rest = [], [], [0.0, 0.0]
    for pair in itertools.product(range(dflash2.FEW), repeat=2):
        mean = float(expected[pair])
        if mean >= 5:
            seen.append(counts[pair])
            means.append(mean)
        else:
            rest = [rest[0] + counts[pair], rest[1] + mean]
    if rest[1] > 0:
        seen, means = [*seen, rest[0]], [*means, rest[1]]
    elif rest[0]:
        return 0.0
    return float(chisquare(seen, means).pvalue)


@pytest.mark.parametrize(
    "sampling", [Sampling(2.0, seed=1), Sampling(1.6, top_p=0.9, top_k=5, seed=1)]
)
@torch.inference_mode()
def test_sampled_output_has_the_targets_distribution(
    few: toy.ToyTarget, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [3, 1, 4, 1, 5]
    model = dflash2.random_model(few, dflash2.config(few, top_k=4))
    target_features = few.features_of(
        torch.tensor([prompt[:-1]]), torch.ones(1, 4), model.config.target_layer_ids
    )[0]
    drafter = dflash2.started(model, few, target_features, draft="sample", sampling=sampling)
    counts = joint_of_two(few, drafter, prompt, 1200)
    assert p_value(few, sampling, prompt, counts) > 1e-4

    honest = drafter.propose

    def mislabelled(*arguments: Any) -> Proposal:
        """Planted: q as if each position had been drawn by itself."""
        base = Sampling(sampling.temperature).probs(drafter.marginals(*arguments).logits)
        return dataclasses.replace(honest(*arguments), q=base)

    monkeypatch.setattr(drafter, "propose", mislabelled)
    assert p_value(few, sampling, prompt, joint_of_two(few, drafter, prompt, 400)) < 1e-6
