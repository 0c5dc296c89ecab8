"""The rule of the audit: planted bugs are found, ties and honest drafters are not called bugs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from run_directories import generation
from test_lossless import DRAFTERS

from harness import auditor
from harness.audit import deviations, wrong_end
from harness.audit_records import Deviation
from harness.decode import generate
from harness.sampling import Sampling
from harness.stopping import Stopping
from harness.verdicts import stands

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUM_PROMPTS = 64
NUM_TOKENS = 48
LONGEST = 48


def audit(
    target: toy.ToyTarget, reference: toy.ToyTarget, prompt: Sequence[int], answer: Sequence[int]
) -> list[Deviation]:
    """Deviations of one answer, from whole passes."""
    (wide,) = reference.score(prompt, answer)
    (own,) = target.score(prompt, answer)
    return deviations(wide, own, torch.tensor(answer))


# The rule on tensors


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    vocab=st.integers(2, 90),
    scale=st.sampled_from([0.0, 1e-6, 0.05, 3.0]),
)
def test_what_is_recorded_and_what_always_stands(
    seed: int, rows: int, vocab: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    wide = 4 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    own = wide + scale * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, vocab, (rows,), generator=generator)
    found = {item.position: item for item in deviations(wide, own, tokens, first=7)}
    margins = wide.amax(-1) - wide[torch.arange(rows), tokens]
    assert set(found) == {7 + row for row in range(rows) if margins[row] > 0}
    assert all(found[7 + row].margin == margins[row] for row in range(rows) if 7 + row in found)
    assert all(stands(item) for item in deviations(wide, own, own.argmax(-1)))
    assert deviations(wide, own, wide.argmax(-1)) == []
    shifted = deviations(wide, own + 5, tokens, first=7)
    for item in shifted:
        assert math.isclose(item.noise, found[item.position].noise, abs_tol=1e-12)


def test_noise_is_the_largest_centred_difference() -> None:
    wide = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    own = wide + torch.tensor([[1.1, 0.7, 1.1, 1.1]])
    (found,) = deviations(wide, own, torch.tensor([1]))
    assert (found.position, found.margin) == (0, 1.0)
    assert found.noise == pytest.approx(0.3)
    assert not stands(found)


def test_the_committed_token_is_measured_even_when_it_is_far_down() -> None:
    wide = torch.linspace(9, 0, 100)[None]
    own = wide.clone()
    own[0, 99] += 40
    (found,) = deviations(wide, own, torch.tensor([99]))
    assert found.noise == pytest.approx(40, rel=1e-5) and stands(found)


def test_planted_ties_are_no_bugs() -> None:
    for dtype in DTYPES.values():
        target = toy.llama(dtype=dtype)
        for weight in (target.lm_head.weight, target.embed_tokens.weight):
            weight[1::2] = weight[0::2]  # tokens 2k and 2k + 1 are one in all but name
        reference = toy.wider(target)
        prompt = list(range(11))
        answer = toy.plain_greedy(target, [prompt], 40)[0]
        other = [token ^ 1 for token in answer]
        assert all(stands(item) for item in audit(target, reference, prompt, answer))
        assert all(stands(item) for item in audit(target, reference, prompt, other))
        assert not all(
            stands(item) for item in audit(target, reference, prompt, [t ^ 2 for t in answer])
        )


def test_logits_that_are_not_finite_are_refused() -> None:
    wide = torch.tensor([[1.0, math.nan]])
    with pytest.raises(ValueError, match="margin = nan"):
        deviations(wide, wide, torch.tensor([0]))


# Where an answer ends


@pytest.mark.parametrize(
    ("tokens", "reason", "room", "said"),
    [
        ((4, 5, 2), "stop", 9, ""),
        ((2,), "stop", 9, ""),
        ((4, 5, 4, 5, 4, 5), "length", 9, ""),
        ((4, 5, 4, 5, 4, 5), "length", 6, ""),
        ((4, 5, 4, 5, 4, 2), "stop", 6, ""),
        ((4, 5, 4), "context", 3, ""),
        ((4, 5), "stop_string", 9, ""),
        ((4, 5, 4, 5, 4, 5), "stop_string", 9, ""),
        ((4, 5), "length", 9, "ends after 2 tokens at no stop token, and the limit was 6"),
        ((4, 5), "stop", 9, "ends after 2 tokens at no stop token, and the limit was 6"),
        ((4, 5), "context", 3, "ends after 2 tokens at no stop token, and the limit was 3"),
        ((2, 5, 2), "stop", 9, "goes on behind the stop token at position 0"),
        ((4, 3, 5, 2), "stop", 9, "goes on behind the stop token at position 1"),
        ((4, 2, 5), "stop_string", 9, "goes on behind the stop token at position 1"),
        ((4,) * 7, "length", 9, "has 7 tokens, and the limit was 6"),
        ((4, 5, 2), "context", 2, "has 3 tokens, and the limit was 2"),
        ((4, 5, 2), "length", 9, "ended by stop and says it was length"),
        ((4, 5, 2), "stop_string", 9, "ended by stop and says it was stop_string"),
        ((4, 5, 4), "length", 3, "ended by context and says it was length"),
        ((4, 5, 4, 5, 4, 5), "context", 6, "ended by length and says it was context"),
    ],
)
def test_an_end_has_a_reason(tokens: tuple[int, ...], reason: str, room: int, said: str) -> None:
    made = generation(num_new_tokens=len(tokens), finish_reason=reason, num_prompt_tokens=20)
    answer = dataclasses.replace(made, new_tokens=tokens)
    stop_ids = frozenset({2, 3})
    assert wrong_end(answer, stop_ids=stop_ids, max_new_tokens=6, max_context=20 + room) == said


@given(
    tokens=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    stop_ids=st.frozensets(st.integers(0, 9), max_size=3),
    max_new_tokens=st.integers(1, 9),
    room=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 4), min_size=12, max_size=12),
)
def test_the_loop_ends_answers_as_the_audit_has_it(
    tokens: list[int],
    stop_ids: frozenset[int],
    max_new_tokens: int,
    room: int,
    sizes: list[int],
) -> None:
    stopping = Stopping(stop_ids=stop_ids, max_new_tokens=max_new_tokens, room=room)
    for size in sizes:
        if stopping.reason is None and tokens:
            stopping.commit(tokens[:size])
            tokens = tokens[size:]
    made = generation(num_new_tokens=1, finish_reason=stopping.reason or "stop")
    answer = dataclasses.replace(made, new_tokens=tuple(stopping.tokens))
    found = wrong_end(
        answer, stop_ids=stop_ids, max_new_tokens=max_new_tokens, max_context=20 + room
    )
    assert (found == "") == (stopping.reason is not None)


# Honest decoding


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_honest_drafters_have_no_mismatch(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Script, "expect", lambda self, pending, answered: None)
    target = toy.TARGETS[name](attn="grouped", dtype=DTYPES[dtype])
    reference = toy.wider(target)
    prompt = list(range(11))
    known = toy.plain_greedy(target, [prompt], LONGEST)[0]
    for drafter, make in DRAFTERS.items():
        done = generate(
            target, make(prompt, known, 8), prompt, sampling=Sampling(), max_new_tokens=LONGEST
        )
        assert len(done.new_tokens) == LONGEST
        found = audit(target, reference, prompt, done.new_tokens)
        assert all(stands(item) for item in found), (drafter, found)


def test_chunks_and_features_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    target = toy.qwen3()
    prompt, answer = toy.varied_prompt(target, 8)
    whole = torch.cat(list(target.score(prompt, answer)))
    target.start(64, 8, (0, 2))
    monkeypatch.setattr("targets.transformers_lm._CHUNK", 3 * toy.VOCAB)
    chunks = list(target.score(prompt, answer))
    assert [chunk.shape[0] for chunk in chunks] == [3, 3, 2]
    assert torch.equal(torch.cat(chunks).argmax(-1), torch.tensor(answer))
    assert torch.allclose(torch.cat(chunks), whole, atol=1e-5)
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    expected = target.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :]
    assert torch.allclose(whole, expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_one_token_passes_score_what_the_whole_pass_scores(name: str) -> None:
    target = toy.TARGETS[name]()
    prompt, answer = toy.varied_prompt(target, 20)
    whole = torch.cat(list(target.score(prompt, answer)))
    steps = list(target.score_stepwise(prompt, answer))
    assert [item.shape for item in steps] == [(1, toy.VOCAB)] * 20
    assert torch.allclose(torch.cat(steps), whole, atol=1e-3)


# Noise measured a second time


class Scripted:
    """Logits that are the wider ones plus an error: one for the whole pass, one for single ones."""

    def __init__(self, wide: torch.Tensor, whole: float, single: float) -> None:
        shape = torch.linspace(-1, 1, wide.shape[1]).sign()
        self.wide, self.whole, self.single = wide, wide + whole * shape, wide + single * shape
        self.num_steps = 0

    def score(self, prompt_ids: Sequence[int], new_tokens: Sequence[int]) -> Iterator[torch.Tensor]:
        yield self.whole[: len(new_tokens)]

    def score_stepwise(
        self, prompt_ids: Sequence[int], new_tokens: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        for row in self.single[: len(new_tokens)]:
            self.num_steps += 1
            yield row[None]


@pytest.mark.parametrize(
    ("margin", "single", "expected", "num_steps"),
    [
        (0.2, 0.3, 0.1, 0),  # stands at once: nothing is measured again
        (0.5, 0.3, 0.3, 6),  # explained by the passes that decoding is made of
        (0.5, 0.01, 0.1, 6),  # the larger noise counts, and it does not explain this
        (5.0, 0.3, 0.3, 6),  # a wrong token stays one
    ],
)
def test_doubtful_tokens_are_measured_a_second_time(
    margin: float, single: float, expected: float, num_steps: int
) -> None:
    wide = torch.zeros(10, 8)
    wide[:, 0] = 10.0
    wide[5, 1] = 10.0 - margin
    own, reference = Scripted(wide, 0.1, single), Scripted(wide, 0.0, 0.0)
    tokens = (0, 0, 0, 0, 0, 1, 0, 0, 0, 0)
    answer = generation(accepted=[0] * 9, depth=0)
    answer = dataclasses.replace(answer, new_tokens=tokens)
    (found,) = auditor._score(own, reference, [3], answer)
    assert (found.position, own.num_steps) == (5, num_steps)
    assert found.margin == pytest.approx(margin, abs=1e-4)
    assert found.noise == pytest.approx(expected, abs=1e-4)
    assert stands(found) == (margin <= 3 * expected)


# Planted bugs


@torch.no_grad()
def tampered(
    target: toy.ToyTarget, prompts: Sequence[Sequence[int]], draw: random.Random, runner_up: bool
) -> tuple[list[list[int]], set[tuple[int, int]]]:
    """Greedy answers in which one token of 200 is a wrong one, and where those are."""
    ids = torch.tensor(prompts)
    cells = [(row, step) for row in range(len(prompts)) for step in range(NUM_TOKENS)]
    planted = set(draw.sample(cells, len(cells) // 200))
    for step in range(NUM_TOKENS):
        order = (
            target.model(input_ids=ids, use_cache=False)
            .logits[:, -1]
            .argsort(descending=True, stable=True)
        )
        chosen = order[:, 0].clone()
        for row in range(len(prompts)):
            if (row, step) in planted:
                chosen[row] = order[row, 1 if runner_up else draw.randrange(1, toy.VOCAB)]
        ids = torch.cat((ids, chosen[:, None]), dim=1)
    return [row[len(prompts[0]) :] for row in ids.tolist()], planted


@pytest.mark.parametrize("runner_up", [True, False], ids=["runner-up", "any wrong token"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_wrong_tokens_are_found(name: str, dtype: str, runner_up: bool) -> None:
    target = toy.TARGETS[name](dtype=DTYPES[dtype])
    reference = toy.wider(target)
    draw = random.Random(1)
    prompts = [[draw.randrange(toy.VOCAB) for _ in range(11)] for _ in range(NUM_PROMPTS)]
    answers, planted = tampered(target, prompts, draw, runner_up)
    found: dict[tuple[int, int], bool] = {}
    margins: dict[tuple[int, int], float] = {}
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        for item in audit(target, reference, prompt, answer):
            found[row, item.position] = not stands(item)
            margins[row, item.position] = item.margin
    # No honest token is called wrong, though this batch's passes are none the audit makes.
    assert {place for place, wrong in found.items() if wrong} <= planted
    shares = detection(found, margins, planted)
    print(name, dtype, "runner-up" if runner_up else "any", shares)
    # These toys are noisy in bfloat16: many a runner-up is within what honest passes differ by.
    least = 0.9 if dtype == "float32" or not runner_up else 0.3
    assert sum(found.get(place, False) for place in planted) >= least * len(planted), shares
    visible = 2.0 if dtype == "bfloat16" else 1e-3
    assert all(found[place] for place in planted if margins.get(place, 0.0) > visible), shares


def detection(
    found: dict[tuple[int, int], bool],
    margins: dict[tuple[int, int], float],
    planted: set[tuple[int, int]],
) -> dict[str, str]:
    """Found of planted, by the margin of the wrong token."""
    edges = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, math.inf)
    shares = {}
    for low, high in itertools.pairwise(edges):
        bin_ = [p for p in planted if low <= margins.get(p, 0.0) < high]
        if bin_:
            caught = sum(found.get(place, False) for place in bin_)
            shares[f"{low:g}-{high:g}"] = f"{caught}/{len(bin_)}"
    return shares
