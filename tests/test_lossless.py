"""Whatever is proposed, float32 greedy output is the target's own, token for token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import toy

from drafters.base import Drafter
from drafters.ngram import NgramDrafter
from drafters.none import NoDrafter
from drafters.synthetic import SyntheticDrafter
from harness.baselines import hf_generate
from harness.decode import Decoded, generate
from harness.sampling import Sampling

BLOCK_SIZES = (1, 2, 4, 8, 16)
LONGEST = 18
GREEDY = Sampling()

Make = Callable[[list[int], list[int], int], Drafter]


def _synthetic(prompt: list[int], answer: list[int], block_size: int) -> Drafter:
    drafter = SyntheticDrafter("cpu", toy.VOCAB, 0.7, block_size)
    drafter.prepare(prompt, answer)
    return drafter


DRAFTERS: dict[str, Make] = {
    "none": lambda prompt, answer, size: NoDrafter(),
    "ngram": lambda prompt, answer, size: NgramDrafter("cpu", size),
    "synthetic": _synthetic,
    "always right": lambda prompt, answer, size: toy.Script(answer, size, lambda turn: size),
    "always wrong": lambda prompt, answer, size: toy.Script(answer, size, lambda turn: 0),
    "one right": lambda prompt, answer, size: toy.Script(answer, size, lambda turn: 1),
    "right k times": lambda prompt, answer, size: toy.Script(
        answer, size, lambda turn: turn % max(size, 1)
    ),
    "tree": lambda prompt, answer, size: toy.RandomTree(
        answer, size, lambda turn: (size - 1 - turn) % max(size, 1)
    ),
}


@pytest.fixture(scope="module", params=sorted(toy.TARGETS))
def scene(request: pytest.FixtureRequest) -> tuple[toy.ToyTarget, list[int], list[int]]:
    target = toy.TARGETS[request.param]()
    prompt, answer = toy.varied_prompt(target, LONGEST)
    return target, prompt, answer


def _run(
    target: toy.ToyTarget, drafter: Drafter, prompt: list[int], limit: int, stops: set[int]
) -> Decoded:
    target.stop_ids = frozenset(stops)
    return generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=limit)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_every_drafter_stops_right_at_every_offset(
    scene: tuple[toy.ToyTarget, list[int], list[int]], block_size: int
) -> None:
    target, prompt, answer = scene
    histogram: Counter[str] = Counter()
    for name, make in DRAFTERS.items():
        for last in (*range(block_size + 2), LONGEST - 1):
            drafter = make(prompt, answer, block_size)
            done = _run(target, drafter, prompt, LONGEST, {answer[last]})
            assert list(done.new_tokens) == answer[: last + 1], (name, last)
            assert done.finish_reason == "stop"
            assert done.rounds is not None
            assert (not done.rounds) == (last == 0), name
            for item in done.rounds:
                kind = "partial" if 0 < item.accepted < item.depth else "zero"
                full = item.depth > 0 and item.accepted == item.depth
                histogram["full" if full else kind] += 1
    expected = {"zero"} | ({"full"} if block_size > 1 else set())
    expected |= {"partial"} if block_size > 2 else set()
    assert set(histogram) == expected
    assert min(histogram.values()) >= 5, histogram


@pytest.mark.parametrize("block_size", (2, 4, 8))
@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_limits_around_a_block(
    scene: tuple[toy.ToyTarget, list[int], list[int]], name: str, block_size: int
) -> None:
    target, prompt, answer = scene
    for limit in {1, 2, block_size - 1, block_size, block_size + 1}:
        drafter = DRAFTERS[name](prompt, answer, block_size)
        done = _run(target, drafter, prompt, limit, set())
        assert list(done.new_tokens) == answer[:limit]
        assert done.finish_reason == "length"
        assert (done.rounds == ()) == (limit == 1)


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_stop_at_the_limit_is_a_stop(
    scene: tuple[toy.ToyTarget, list[int], list[int]], name: str
) -> None:
    target, prompt, answer = scene
    for limit in (1, 5, 6):
        drafter = DRAFTERS[name](prompt, answer, 4)
        done = _run(target, drafter, prompt, limit, {answer[limit - 1]})
        assert (list(done.new_tokens), done.finish_reason) == (answer[:limit], "stop")


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_the_earlier_of_two_stop_ids_ends_it(
    scene: tuple[toy.ToyTarget, list[int], list[int]], name: str
) -> None:
    target, prompt, answer = scene
    drafter = DRAFTERS[name](prompt, answer, 8)
    done = _run(target, drafter, prompt, LONGEST, {answer[9], answer[6]})
    assert list(done.new_tokens) == answer[:7]


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_a_full_context_ends_it(
    scene: tuple[toy.ToyTarget, list[int], list[int]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, answer = scene
    for room in (1, 2, 7):
        monkeypatch.setattr(target, "max_context", len(prompt) + room)
        done = _run(target, DRAFTERS[name](prompt, answer, 8), prompt, LONGEST, set())
        assert (list(done.new_tokens), done.finish_reason) == (answer[:room], "context")


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_a_stop_string_ends_it(
    scene: tuple[toy.ToyTarget, list[int], list[int]], name: str
) -> None:
    target, prompt, answer = scene
    target.stop_ids = frozenset()
    for last in range(1, 10):
        done = generate(
            target,
            DRAFTERS[name](prompt, answer, 4),
            prompt,
            sampling=GREEDY,
            max_new_tokens=LONGEST,
            stop_strings=("never", target.decode(answer[last - 1 : last + 1])),
        )
        assert (list(done.new_tokens), done.finish_reason) == (answer[: last + 1], "stop_string")


@pytest.mark.parametrize("attn", ("sdpa", "eager", "grouped"))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_baselines_and_drafts_agree_with_whatever_attention(name: str, attn: str) -> None:
    target = toy.TARGETS[name](attn=attn)
    prompt, answer = toy.varied_prompt(target, 12)
    long_answer = toy.plain_greedy(target, [prompt], 60)[0]
    for limit, stops in ((60, set()), (12, {answer[7]})):
        expected = long_answer[: 8 if stops else limit]
        target.stop_ids = frozenset(stops)
        foreign = hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=limit)
        assert list(foreign.new_tokens) == expected
        assert foreign.rounds is None
        assert target.attn == attn
        for make in DRAFTERS.values():
            done = _run(target, make(prompt, long_answer, 8), prompt, limit, stops)
            assert list(done.new_tokens) == expected
            assert done.finish_reason == foreign.finish_reason
