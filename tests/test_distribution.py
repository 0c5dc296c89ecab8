"""Sampled answers against the target's distribution: the test, its power, and whole runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_directories import generation
from test_auditor import Measured, again, answers, tamper
from tiny_model import write_model
from transformers import CohereConfig, CohereForCausalLM

from drafters.base import Proposal
from harness import verify
from harness.distribution import MIN_TOKENS, Check, check, checks, num_wrong, uniforms
from harness.draw_auditor import standing
from harness.draws import Draws, from_json, read_draws, to_json
from harness.records import key_of
from harness.sampling import Sampling
from targets.transformers_lm import TransformersTarget

VOCAB = 12
TOKENS_AN_ANSWER = 100


def logits_of(rows: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def draws_of(logits: torch.Tensor, tokens: torch.Tensor, sampling: Sampling) -> list[Draws]:
    """Answers of `TOKENS_AN_ANSWER` tokens."""
    columns = [item.split(TOKENS_AN_ANSWER) for item in standing(logits, tokens, sampling)]
    return [
        Draws(
            task="t",
            prompt_id=str(index),
            turn=1,
            method="m",
            repeat=0,
            tokens_sha256="",
            above=tuple(above.tolist()),
            given=tuple(given.tolist()),
            top=tuple(top.tolist()),
            num_edge=int(edge.sum()),
        )
        for index, (above, given, top, edge) in enumerate(zip(*columns, strict=True))
    ]


def checked(share: float, num_tokens: int = 20_000, seed: int = 0) -> Check:
    """The check of draws of which a ``share`` was taken greedily."""
    sampling = Sampling(0.8, 0.9, 8)
    logits = logits_of(num_tokens, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    tokens = torch.multinomial(sampling.probs(logits), 1, generator=generator)[:, 0]
    greedy = torch.rand(num_tokens, generator=generator) < share
    found = check(draws_of(logits, torch.where(greedy, logits.argmax(1), tokens), sampling))
    assert found is not None and found.num_tokens == num_tokens
    return found


@given(st.integers(0, 2**32), st.sampled_from([0.3, 1.0]), st.sampled_from([0.6, 1.0]))
def test_standing_is_a_sum_over_the_ordered_distribution(
    seed: int, temperature: float, top_p: float
) -> None:
    sampling = Sampling(temperature, top_p, 7)
    logits = logits_of(3, seed).to(torch.bfloat16)  # coarse: equals happen
    tokens = torch.tensor([seed % VOCAB, 3, 11])
    above, given_, top, edge = standing(logits, tokens, sampling)
    for row, token in enumerate(tokens.tolist()):
        p = sampling.probs(logits)[row].tolist()
        order = sorted(range(VOCAB), key=lambda item: (-p[item], item))
        before = sum(p[item] for item in order[: order.index(token)])
        assert above[row].item() == pytest.approx(min(before, 1), abs=1e-6)
        assert given_[row].item() == pytest.approx(p[token], abs=1e-6)
        assert top[row].item() == pytest.approx(max(p), abs=1e-6)
        whole = Sampling(temperature).probs(logits)[row].tolist()
        least = min(share for share, kept in zip(whole, p, strict=True) if kept)
        assert bool(edge[row]) == (p[token] == 0 and whole[token] >= 0.7 * least)


def test_honest_draws_are_consistent_and_false_alarms_rare() -> None:
    p_values = [checked(0.0, 2_000, seed).p_value for seed in range(60)]
    assert min(p_values) >= 0.001
    # Uniform p values: below one half in 30 ± 3.9 of 60.
    assert 15 <= sum(value < 0.5 for value in p_values) <= 45


def test_rounding_at_the_edge_of_the_nucleus_makes_no_large_run_wrong() -> None:
    """The audit's logits differ a little from those that drew, and so does the nucleus."""
    sampling, num_tokens = Sampling(1.0, 0.9), 200_000
    logits = logits_of(num_tokens, 0)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.multinomial(sampling.probs(logits), 1, generator=generator)[:, 0]
    noisy = logits + 0.06 * torch.randn(logits.shape, generator=generator)
    found = check(draws_of(noisy, tokens, sampling))
    assert found is not None and 0.001 < found.allowance < 0.02
    assert found.distance > 0.8 * found.allowance  # it is this that the distance is made of
    assert found.verdict == "consistent"
    far = torch.where(torch.rand(num_tokens, generator=generator) < 0.02, logits.argmin(1), tokens)
    wrong = check(draws_of(noisy, far, sampling))
    assert wrong is not None and wrong.verdict == "MISMATCH"  # far outside nothing is excused
    plain = check(draws_of(noisy[:2000], tokens[:2000], Sampling(1.0)))
    assert plain is not None and plain.allowance == 0


def test_the_stated_power_is_the_power() -> None:
    """Greed of the size that is called noticeable is noticed about nine times in ten, or more."""
    share = checked(0.0, 4_000).noticeable_greed
    assert share is not None and 0.02 < share < 0.3
    found = [checked(share, 4_000, seed).verdict for seed in range(100, 140)]
    assert found.count("MISMATCH") >= 32
    small = [checked(share / 10, 4_000, seed).verdict for seed in range(100, 110)]
    assert small.count("MISMATCH") <= 2


def test_more_tokens_see_smaller_faults() -> None:
    few, many = checked(0.0, 1_000), checked(0.0, 16_000)
    assert many.noticeable_shift == pytest.approx(few.noticeable_shift / 4, rel=0.05)


def test_a_few_tokens_are_not_judged() -> None:
    logits = logits_of(MIN_TOKENS - 1, 0)
    assert check(draws_of(logits, logits.argmax(1), Sampling(1.0))) is None
    assert check([]) is None


def test_each_method_is_checked_by_itself() -> None:
    """A greedy method, an honest one, one with a few tokens; answers without draws are left out."""
    sampling, logits = Sampling(1.0), logits_of(1_000, 0)
    honest = torch.multinomial(
        sampling.probs(logits), 1, generator=torch.Generator().manual_seed(1)
    )
    found = {
        "greedy": draws_of(logits, logits.argmax(1), sampling),
        "honest": draws_of(logits, honest[:, 0], sampling),
        "few": draws_of(logits[:50], honest[:50, 0], sampling),
    }
    made = {
        name: [
            generation(task="t", prompt_id=item.prompt_id, method=name, accepted=[1])
            for item in draws
        ]
        for name, draws in found.items()
    }
    draws = {
        key_of(answer): dataclasses.replace(item, method=name)
        for name in found
        for answer, item in zip(made[name], found[name], strict=True)
    }
    silent = generation(method="silent", accepted=[1])
    judged = checks([silent, *made["greedy"], *made["honest"], *made["few"]], draws)
    assert list(judged) == ["greedy", "honest", "few"] and judged["few"] is None
    verdicts = {name: item.verdict for name, item in judged.items() if item}
    assert verdicts == {"greedy": "MISMATCH", "honest": "consistent"}
    assert all(item.num_tokens == 1_000 for item in judged.values() if item)
    assert num_wrong(judged) == 1
    assert (num_wrong({"honest": judged["honest"]}), num_wrong({"few": None})) == (0, None)


def test_the_verdict_changes_at_one_in_a_thousand() -> None:
    facts = dataclasses.asdict(checked(0.0, 200))
    assert Check(**{**facts, "p_value": 0.00099}).verdict == "MISMATCH"
    assert Check(**{**facts, "p_value": 0.001}).verdict == "consistent"


def test_uniforms_are_the_same_each_time_and_lie_in_the_tokens_range() -> None:
    logits = logits_of(300, 0)
    for item in draws_of(logits, logits.argmin(1), Sampling(1.0)):
        u = uniforms(item)
        assert np.array_equal(u, uniforms(item))
        assert (u >= np.array(item.above)).all()
        assert (u <= np.array(item.above) + np.array(item.given)).all()


def test_draws_survive_json_and_refuse_what_cannot_be() -> None:
    item = draws_of(logits_of(5, 0), torch.arange(5), Sampling(1.0))[0]
    assert from_json(to_json(item)) == item
    for wrong in (
        {"given": (2.0,) * 5},
        {"above": (-0.1,) * 5},
        {"top": item.top[:4]},
        {"above": (float("nan"),) * 5},
        {"top": (0.0,) * 5},
    ):
        with pytest.raises(ValueError):
            dataclasses.replace(item, **wrong)
    for line in ("[]", "{}", to_json(item).replace('"given"', '"taken"'), '{"schema_version": 9}'):
        with pytest.raises(ValueError):
            from_json(line)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def flags(toy_plugin: Path, model: Path, tmp_path: Path) -> list[str]:
    return [
        *("run", "--target", str(model), "--tasks", "counting", "--plugin", str(toy_plugin)),
        *("--device", "cpu", "--drafter", "ngram,synthetic=0.8", "--max-new-tokens", "40"),
        *("--temperature", "0.9", "--top-p", "0.95", "--repeats", "3"),
        *("--output-dir", str(tmp_path / "runs")),
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sampled_run_is_audited_and_shown(
    flags: list[str], dtype: str, capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags, "--dtype", dtype)
    assert (done.status, done.summary["num_mismatches"]) == (0, 0)
    for method in ("ar_loop", "hf_generate", "ngram", "synthetic"):
        assert f"{method}: consistent" in done.err
    assert "### Losslessness" in done.page and "| consistent " in done.page
    path = done.directory / "draws.jsonl"
    found = read_draws(path, answers(done.directory))
    assert len(found) == len(answers(done.directory)) == 4 * 5 * 3
    before = path.read_bytes()
    path.write_bytes(before[: len(before) // 2])
    repeated = again(capsys, done.directory, toy_plugin)
    assert repeated.status == 0 and "torn last audit" in repeated.err
    assert repeated.summary["num_audited"] == 4 * 5 * 3 and "ngram: consistent" in repeated.out
    assert sorted(path.read_bytes().splitlines()) == sorted(before.splitlines())


def test_a_rule_that_waves_drafts_through_is_caught(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify._descend

    def careless(drawn: torch.Tensor, proposal: Proposal) -> verify.Verdict:
        if len(proposal.parents) > 1:
            drawn = drawn.clone()
            drawn[0] = proposal.tokens[0]  # the first draft token always stands
        return honest(drawn, proposal)

    monkeypatch.setattr(verify, "_descend", careless)
    done = Measured(capsys, *flags, "--dtype", "float32")
    assert done.status == 1 and done.summary["num_mismatches"] >= 1
    assert "synthetic: MISMATCH" in done.err or "ngram: MISMATCH" in done.err
    assert "ar_loop: consistent" in done.err and "hf_generate: consistent" in done.err
    assert "MISMATCH: the draws of" in done.page


def test_tokens_the_target_does_not_have_are_one_sentence(
    flags: list[str], capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags, "--repeats", "1")
    (done.directory / "draws.jsonl").unlink()
    tamper(done.directory, "ngram", 0, token=99999)
    refused = again(capsys, done.directory, toy_plugin)
    assert refused.status == 2 and "tokens that the target does not have" in refused.err


def test_broken_draws_are_one_sentence(
    flags: list[str], capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags, "--repeats", "1")
    path = done.directory / "draws.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    body = json.loads(lines[0])
    body["given"][0] = 7
    path.write_text("\n".join([json.dumps(body), *lines[1:]]) + "\n", encoding="utf-8")
    broken = again(capsys, done.directory, toy_plugin)
    assert broken.status == 2 and "line 1" in broken.err and "remove the file" in broken.err


def test_logits_scaled_behind_the_head_are_scored_as_drawn() -> None:
    torch.manual_seed(0)
    scaled = CohereForCausalLM(
        CohereConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            logit_scale=0.25,
            initializer_range=0.5,
        )
    ).eval()
    target = TransformersTarget(scaled, None, name="scaled")
    prompt, new = [3, 4, 5], [6, 7, 8, 9]
    with torch.inference_mode():
        expected = scaled(torch.tensor([[*prompt, *new[:-1]]])).logits[0, len(prompt) - 1 :]
    found = torch.cat(list(target.score(prompt, new)))
    torch.testing.assert_close(found, expected)
