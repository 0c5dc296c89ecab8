"""Prompt lookup."""

from __future__ import annotations

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from drafters.ngram import DEFAULT_BLOCK_SIZE, NgramDrafter, build
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling


def brute_force(ids: list[int], count: int) -> list[int]:
    """What followed the latest earlier occurrence of the longest known suffix of 3, 2 or 1."""
    for size in (3, 2, 1):
        for end in range(len(ids) - 1, size - 1, -1):
            if size < len(ids) and ids[end - size : end] == ids[-size:]:
                return ids[end : end + count]
    return []


@given(
    prompt=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    rounds=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=6),
    budget=st.integers(1, 9),
)
def test_every_round_looks_up_what_a_search_finds(
    prompt: list[int], rounds: list[list[int]], budget: int
) -> None:
    drafter = NgramDrafter("cpu", 8)
    drafter.start(torch.tensor(prompt), None, Sampling())
    ids = list(prompt)
    for committed in rounds:
        ids += committed
        proposal = drafter.propose(ids[:-1], ids[-1], budget)
        assert proposal.tokens.tolist() == brute_force(ids, min(7, budget))
        assert proposal.rule == "match" and proposal.is_chain


def test_a_new_prompt_forgets_the_old_one() -> None:
    drafter = NgramDrafter("cpu", 4)
    drafter.start(torch.tensor([1, 2, 3, 1]), None, Sampling())
    assert drafter.propose([1, 2, 3, 1], 2, 5).tokens.tolist() == [3, 1, 2]
    drafter.start(torch.tensor([4, 1]), None, Sampling())
    assert drafter.propose([4, 1], 2, 5).tokens.tolist() == []


def test_options_are_honoured_or_refused() -> None:
    target = toy.llama()
    assert build(target, DrafterOptions(name="ngram")).block_size == DEFAULT_BLOCK_SIZE
    drafter = build(target, DrafterOptions(name="ngram", block_size=4))
    assert (drafter.block_size, drafter.max_nodes, drafter.feature_layers) == (4, 3, ())
    for options in (
        DrafterOptions(name="ngram", argument="x"),
        DrafterOptions(name="ngram", draft="sample"),
        DrafterOptions(name="ngram", block_size=1),
    ):
        with pytest.raises(UserError, match="ngram"):
            build(target, options)
