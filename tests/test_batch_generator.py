"""Responses made many at a time are those made one at a time; draws depend on their query alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from drafters.block_diffusion import batch_generator
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.responses import Query
from drafters.none import build as build_none
from drafters.options import DrafterOptions
from harness.batched_cache import BatchedCache
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from tests import toy

TARGETS = {
    "llama": toy.llama(),
    "eager": toy.llama(attn="eager"),
    "grouped": toy.llama(attn="grouped"),
    "qwen3": toy.qwen3(),
}
PROMPTS = st.lists(
    st.lists(st.integers(0, toy.VOCAB - 1), min_size=1, max_size=24), min_size=1, max_size=9
)


def alone(target: toy.ToyTarget, prompt: Sequence[int], count: int) -> list[int]:
    """What the harness's own loop writes."""
    drafter = build_none(target, DrafterOptions(name="none"))
    answer = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=count)
    return list(answer.new_tokens)


def together(generator: BatchGenerator, prompts: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """All responses by number, none given twice."""
    found = list(
        generator.generate([Query(tuple(prompt), seed) for seed, prompt in enumerate(prompts)])
    )
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=8)
@given(
    prompts=PROMPTS,
    batch_size=st.integers(1, 5),
    count=st.integers(1, 12),
    stops=st.sets(st.integers(0, toy.VOCAB - 1), max_size=12),
)
def test_greedy_responses_are_those_of_one_sequence_at_a_time(
    name: str, prompts: list[list[int]], batch_size: int, count: int, stops: set[int]
) -> None:
    target = TARGETS[name]
    target.stop_ids = frozenset(stops)
    found = together(BatchGenerator(target, count, batch_size=batch_size), prompts)
    assert found == {i: alone(target, prompt, count) for i, prompt in enumerate(prompts)}


def test_a_slot_that_is_free_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six responses of 2 tokens beside one of 12; in pairs that wait it would be 14 passes."""
    target = TARGETS["llama"]
    target.stop_ids = frozenset()
    generator = BatchGenerator(target, 12, batch_size=2)
    monkeypatch.setattr(generator, "_limit", lambda query: query.ids[0])
    passes = 0
    whole = generator._pass

    def counted(slots: Any, cache: BatchedCache) -> list[int]:
        nonlocal passes
        passes += 1
        return whole(slots, cache)

    monkeypatch.setattr(generator, "_pass", counted)
    found = together(generator, [[2], [2], [2], [2], [2], [2], [12]])
    assert [len(found[i]) for i in range(7)] == [2, 2, 2, 2, 2, 2, 12]
    assert passes == 11


def test_prompts_are_read_in_several_passes_where_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = TARGETS["llama"]
    target.stop_ids = frozenset()
    monkeypatch.setattr(batch_generator, "_JOIN_TOKENS", 20)
    prompts = [[(7 * i + j) % toy.VOCAB for j in range(1 + i % 9)] for i in range(12)]
    found = together(BatchGenerator(target, 5, batch_size=12), prompts)
    assert found == {i: alone(target, prompt, 5) for i, prompt in enumerate(prompts)}


def test_the_context_ends_a_response_and_a_prompt_that_fills_it_has_none() -> None:
    target = TARGETS["llama"]
    target.stop_ids = frozenset()
    prompts = [[1] * 125, [2] * 128, [3] * 130, [4] * 3]
    found = together(BatchGenerator(target, 6, batch_size=4), prompts)
    assert {i: len(tokens) for i, tokens in found.items()} == {0: 3, 3: 6}


def test_nothing_to_do() -> None:
    assert together(BatchGenerator(TARGETS["llama"], 6), []) == {}


SAMPLED = Sampling(temperature=0.8, top_p=0.9, top_k=30)


@settings(max_examples=5)
@given(prompts=PROMPTS, batch_size=st.integers(1, 5), draw=st.randoms(use_true_random=False))
def test_draws_depend_on_their_query_alone(prompts, batch_size, draw) -> None:
    target = TARGETS["llama"]
    target.stop_ids = frozenset({5, 6})
    queries = [Query(tuple(prompt), seed) for seed, prompt in enumerate(prompts)]
    first = {
        queries[i]: ids
        for i, ids in BatchGenerator(target, 9, sampling=SAMPLED, batch_size=1).generate(queries)
    }
    shuffled = list(queries)
    draw.shuffle(shuffled)
    generator = BatchGenerator(target, 9, sampling=SAMPLED, batch_size=batch_size)
    assert first == {shuffled[i]: ids for i, ids in generator.generate(shuffled)}


def test_draws_follow_the_targets_distribution() -> None:
    target = TARGETS["llama"]
    target.stop_ids = frozenset()
    prompt, count = (9, 4, 33), 2000
    queries = [Query(prompt, seed) for seed in range(count)]
    generator = BatchGenerator(target, 1, sampling=SAMPLED, batch_size=64)
    drawn = Counter(ids[0] for _, ids in generator.generate(queries))
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = SAMPLED.probs(logits).double()
    assert set(drawn) <= set(expected.nonzero()[:, 0].tolist())
    likely = [token for token, p in enumerate(expected.tolist()) if p * count >= 5]
    seen = [drawn[token] for token in likely]
    scale = sum(seen) / expected[likely].sum().item()
    assert len(likely) > 5
    assert chisquare(seen, [expected[token].item() * scale for token in likely]).pvalue > 1e-4


def test_another_seed_is_another_response() -> None:
    target = TARGETS["llama"]
    target.stop_ids = frozenset()
    generator = BatchGenerator(target, 12, sampling=SAMPLED)
    found = dict(generator.generate([Query((1, 2, 3), seed) for seed in range(4)]))
    assert len({tuple(ids) for ids in found.values()}) == 4


def test_a_cache_that_does_not_fit_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = BatchGenerator(TARGETS["llama"], 4)

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(generator, "_read", full)
    with pytest.raises(UserError, match="--batch-size smaller"):
        together(generator, [[1, 2]])
