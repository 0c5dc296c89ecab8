"""Targets whose rotary factors change with length: one set of them an answer, whoever asks."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import write_model
from toy import SIZES, VOCAB, Script, ToyTarget, wider
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
)

from drafters.none import build
from drafters.options import DrafterOptions
from harness.auditor import expect_answer
from harness.baselines import hf_generate
from harness.cli import main
from harness.decode import generate
from harness.sampling import Sampling
from targets.exact import hold
from targets.transformers_lm import TransformersTarget

SWITCH = 24
"""Tokens that still have the factors of short sequences."""
NEW = 30
GREEDY = Sampling()
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": SWITCH,
}


def llama(rules: dict[str, Any] = LONGROPE, **sizes: Any) -> Any:
    config = LlamaConfig(num_hidden_layers=2, rope_parameters=rules, **{**SIZES, **sizes})
    return LlamaForCausalLM(config)


def phi3() -> Any:
    """`generate` of this one throws its cache away at the switch."""
    config = Phi3Config(
        num_hidden_layers=2,
        original_max_position_embeddings=SWITCH,
        **{**SIZES, "pad_token_id": 0},
    )
    config.rope_parameters = {**LONGROPE, "partial_rotary_factor": 1.0}
    return Phi3ForCausalLM(config)


def phimoe() -> Any:
    """Another class of rotary module, whose scale changes and not its frequencies."""
    config = PhimoeConfig(num_hidden_layers=2, num_local_experts=2, num_experts_per_tok=1, **SIZES)
    config.rope_parameters = {**LONGROPE, "short_mscale": 1.0, "long_mscale": 1.7}
    return PhimoeForCausalLM(config)


def gemma3() -> Any:
    """Rules by layer type, of which one changes."""
    config = Gemma3TextConfig(
        num_hidden_layers=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": LONGROPE,
        },
        **{**SIZES, "initializer_range": 0.2},
    )
    return Gemma3ForCausalLM(config)


def made(build_model: Any) -> ToyTarget:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build_model().eval().requires_grad_(False)
    model.set_attn_implementation("sdpa")
    return ToyTarget(model, None, name=build_model.__name__)


def prompt(length: int = 11, seed: int = 0) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(VOCAB) for _ in range(length)]


def ar_loop(target: ToyTarget, prompt_ids: Sequence[int], count: int = NEW) -> list[int]:
    none = build(target, DrafterOptions(name="none"))
    return list(
        generate(target, none, prompt_ids, sampling=GREEDY, max_new_tokens=count).new_tokens
    )


MODELS = (llama, phi3, phimoe, gemma3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_an_answer_across_the_switch_is_the_same_for_every_method(model: Any, seed: int) -> None:
    target, prompt_ids = made(model), prompt(seed=seed)
    answer = ar_loop(target, prompt_ids)
    assert len(answer) == NEW
    for block in (3, 8):
        drafter = Script(answer, block, lambda round_: round_ % 5)
        found = generate(target, drafter, prompt_ids, sampling=GREEDY, max_new_tokens=NEW)
        assert list(found.new_tokens) == answer
    foreign = hf_generate(target, prompt_ids, sampling=GREEDY, max_new_tokens=NEW)
    assert list(foreign.new_tokens) == answer


@pytest.mark.parametrize("model", MODELS)
def test_the_audit_reads_an_answer_with_the_factors_it_was_written_with(model: Any) -> None:
    """Both lie below the switch in length here; the answer could have crossed it."""
    target, prompt_ids = made(model), prompt()
    answer = ar_loop(target, prompt_ids)[:8]
    # The library has no float64 experts.
    for scorer in (target,) if model is phimoe else (target, wider(target)):
        expect_answer(scorer, prompt_ids, 2)  # an earlier answer's
        expect_answer(scorer, prompt_ids, NEW)
        logits = torch.cat(list(scorer.score(prompt_ids, answer)))
        assert logits.argmax(-1).tolist() == answer
        stepwise = torch.cat(list(scorer.score_stepwise(prompt_ids, answer)))
        torch.testing.assert_close(stepwise, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("count", (8, NEW))
def test_factors_are_the_librarys_for_the_longest_the_answer_may_become(
    model: Any, count: int
) -> None:
    """One pass of the bare model over as many tokens as the answer may have with its prompt."""
    target, prompt_ids = made(model), prompt()
    answer = ar_loop(target, prompt_ids, count)
    bare = made(model).model
    filler = prompt(11 + count, seed=7)[11 + len(answer) :]
    ids = torch.tensor([[*prompt_ids, *answer, *filler]])
    with torch.inference_mode():
        logits = bare(input_ids=ids, use_cache=False).logits[0, 10 : 10 + len(answer)]
    assert logits.argmax(-1).tolist() == answer


def test_short_answers_keep_the_factors_of_short_sequences() -> None:
    target, prompt_ids = made(llama), prompt()
    short, long = ar_loop(target, prompt_ids, 8), ar_loop(target, prompt_ids, NEW)
    assert short != long[:8] and ar_loop(target, prompt_ids, 8) == short


def test_rows_that_fill_a_pass_up_choose_no_factors() -> None:
    """In exact mode passes are wider than an answer; copies of its last token fill them."""
    target, prompt_ids = made(llama), prompt()
    count = SWITCH - len(prompt_ids)
    answer = ar_loop(target, prompt_ids, count)
    hold(target, 8)
    assert ar_loop(target, prompt_ids, count) == answer


def test_what_has_one_set_of_factors_is_left_alone() -> None:
    target = made(lambda: llama({"rope_type": "default", "rope_theta": 10000.0}))
    assert "rope_switch" not in target.describe()
    assert not any(module._forward_pre_hooks for module in target.model.modules())


def test_dynamic_factors_begin_behind_the_context() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    target, prompt_ids = made(lambda: llama(dynamic, max_position_embeddings=32)), prompt()
    assert target.describe()["rope_switch"] == 33 and target.max_context == 32
    answer = ar_loop(target, prompt_ids)
    assert len(answer) == 32 - len(prompt_ids)
    drafter = Script(answer, 8, lambda _: 3)
    found = generate(target, drafter, prompt_ids, sampling=GREEDY, max_new_tokens=NEW)
    assert list(found.new_tokens) == answer


def test_a_copied_decoder_follows_the_choice() -> None:
    """Drafters that draft with the target's own layers copy them."""
    target = made(llama)
    decoder = copy.deepcopy(target.model.get_decoder())
    ids = torch.tensor([prompt()])
    outputs = []
    for length in (12, 40):
        target.expect(length)
        outputs.append(decoder(input_ids=ids, use_cache=False).last_hidden_state)
    expected = target.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.equal(outputs[1], expected) and not torch.equal(*outputs)


def test_the_switch_of_each_target_is_a_fact() -> None:
    assert [made(model).describe()["rope_switch"] for model in MODELS] == [SWITCH + 1] * 4


@pytest.mark.parametrize("temperature", (0, 1))
def test_a_run_says_where_factors_change_and_its_audit_keeps_to_them(
    temperature: int,
    toy_plugin: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = write_model(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config["rope_parameters"] = {**LONGROPE, "original_max_position_embeddings": 16}
    (directory / "config.json").write_text(json.dumps(config))
    scored: list[tuple[int, int | None]] = []
    honest = TransformersTarget.score

    def score(self: TransformersTarget, prompt_ids: Any, new_tokens: Any) -> Iterator[torch.Tensor]:
        scored.append((len(prompt_ids), self._rope.last))
        return honest(self, prompt_ids, new_tokens)

    monkeypatch.setattr(TransformersTarget, "score", score)
    status = main(
        [
            *("run", "--target", str(directory), "--tasks", "counting", "--dtype", "float32"),
            *("--plugin", str(toy_plugin), "--device", "cpu", "--drafter", "ngram"),
            *("--max-new-tokens", "24", "--temperature", str(temperature)),
            *("--output-dir", str(tmp_path / "runs")),
        ]
    )
    out, err = capsys.readouterr()
    assert status == 0 and not json.loads(out.splitlines()[-1])["num_mismatches"]
    assert "rope     factors change at 17 tokens; each answer has one set of them" in err
    assert scored and all(last == length + 24 - 1 for length, last in scored)
