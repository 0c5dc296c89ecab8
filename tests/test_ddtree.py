"""Draft trees: the heap against a search over every prefix."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marginals import TableDrafter, put_over

from drafters.base import Marginals
from drafters.ddtree import DraftTree, Settings, likeliest_prefixes
from targets.attention import ancestor_visibility

SCORES = st.one_of(st.sampled_from((0.0, -0.5, -1.0, -1.5)), st.floats(-30, 0))
"""Halves make equal sums."""
LOG_PROBS = st.lists(
    st.lists(SCORES, min_size=1, max_size=4).map(lambda row: sorted(row, reverse=True)),
    max_size=4,
)


def all_prefixes(log_probs: list[list[float]]) -> dict[tuple[int, ...], float]:
    """Cost of every prefix, by the ranks of its tokens."""
    costs = {(): 0.0}
    for depth, row in enumerate(log_probs):
        for ranks in [item for item in costs if len(item) == depth]:
            costs |= {(*ranks, rank): costs[ranks] - score for rank, score in enumerate(row)}
    del costs[()]
    return costs


@given(log_probs=LOG_PROBS, count=st.integers(1, 60))
def test_the_heap_finds_what_a_search_over_all_prefixes_finds(
    log_probs: list[list[float]], count: int
) -> None:
    costs = all_prefixes(log_probs)
    nodes = likeliest_prefixes(log_probs, count)
    ordered = sorted(costs, key=lambda ranks: (costs[ranks], ranks))
    assert [node.ranks for node in nodes] == ordered[:count]
    for place, node in enumerate(nodes):
        assert node.cost == costs[node.ranks]
        assert -1 <= node.parent < place
        parent = nodes[node.parent].ranks if node.parent >= 0 else ()
        assert parent == node.ranks[:-1]


class Fixed(TableDrafter):
    """Says the same whatever it is asked."""

    def __init__(self, logits: torch.Tensor, vocabulary: torch.Tensor | None = None) -> None:
        self.found = Marginals(logits, vocabulary)

    def marginals(self, *args: Any) -> Marginals:
        return self.found


def paths(tokens: list[int], parents: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Tokens from the root to each node."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(tokens, parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


@given(
    depth=st.integers(1, 4),
    width=st.integers(1, 6),
    budget=st.integers(1, 40),
    seed=st.integers(0, 1000),
    mapped=st.booleans(),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
)
def test_the_tree_is_of_the_likeliest_prefixes(
    depth: int, width: int, budget: int, seed: int, mapped: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(depth, width, generator=generator).to(dtype)
    ids = torch.arange(width) * 7 + 2 if mapped else torch.arange(width)
    drafter = DraftTree(Fixed(logits, ids if mapped else None), budget)
    proposal = drafter.propose([], 0, depth)
    found = paths(proposal.tokens.tolist(), proposal.parents)

    log_probs = logits.double().log_softmax(-1).tolist()
    scores = {
        tuple(int(ids[column]) for column in columns): sum(
            row[column] for row, column in zip(log_probs, columns, strict=False)
        )
        for length in range(1, depth + 1)
        for columns in itertools.product(range(width), repeat=length)
    }
    likeliest = sorted(scores, key=lambda path: -scores[path])[:budget]
    assert len(found) == min(budget, len(scores)) <= drafter.max_nodes
    torch.testing.assert_close(
        torch.tensor([scores[path] for path in found]),
        torch.tensor([scores[path] for path in likeliest]),
    )
    assert (proposal.rule, proposal.q) == ("match", None)


def test_with_one_token_a_depth_the_tree_is_the_chain() -> None:
    proposal = DraftTree(Fixed(torch.zeros(3, 1), torch.tensor([5])), 9).propose([], 0, 3)
    assert proposal.is_chain and proposal.tokens.tolist() == [5, 5, 5]
    sure = torch.full((4, 6), -40.0)
    sure[range(4), [3, 1, 1, 0]] = 40.0
    proposal = DraftTree(Fixed(sure), 4).propose([], 0, 4)
    assert proposal.is_chain and proposal.tokens.tolist() == [3, 1, 1, 0]


def test_a_budget_of_one_is_the_best_first_token() -> None:
    drafter = put_over(Fixed(torch.tensor([[0.0, 2.0, 1.0], [9.0, 0.0, 0.0]])), "ddtree:budget=1")
    proposal = drafter.propose([], 0, 2)
    assert (proposal.tokens.tolist(), proposal.parents) == ([1], (-1,))
    assert drafter.max_nodes == 1


def test_the_budget_of_the_policy_unset() -> None:
    drafter = put_over(Fixed(torch.zeros(2, 40)), "ddtree")
    assert drafter.max_nodes == Settings().budget
    assert len(drafter.propose([], 0, 2).parents) == Settings().budget


@pytest.mark.parametrize("budget", (2, 40))
def test_a_tree_takes_one_transfer_whatever_its_size(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one more, in which `Proposal` looks at siblings."""
    drafter = DraftTree(Fixed(torch.zeros(3, 50)), budget)
    transfers = []
    for name in ("tolist", "item", "cpu", "numpy", "__int__", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(
            self: torch.Tensor, *args: Any, original: Any = original, name: str = name
        ) -> Any:
            transfers.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    proposal = drafter.propose([], 0, 3)
    assert not proposal.is_chain
    assert transfers == ["tolist", "tolist"]


@given(data=st.data(), count=st.integers(0, 30), past=st.integers(0, 5), spare=st.integers(0, 3))
def test_a_node_sees_its_ancestors_and_itself(
    data: st.DataObject, count: int, past: int, spare: int
) -> None:
    parents = [data.draw(st.integers(-1, node - 1)) for node in range(count)]
    visible = ancestor_visibility(parents, past, past + count + 1 + spare, torch.device("cpu"))
    expected = [[True] * (past + 1) + [False] * (count + spare)]
    for node, parent in enumerate(parents):
        expected.append(expected[parent + 1].copy())
        expected[-1][past + 1 + node] = True
    assert visible.tolist() == expected
