"""Self-selection: chains as one tree, how they are drawn, and which of them the target takes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from marginals import put_over
from test_ddtree import Fixed, paths

from drafters.base import Proposal
from drafters.policy import merged
from harness.sampling import Sampling
from harness.verify import verify

CHAINS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8)
PLAIN = Sampling(temperature=1.0)


@given(chains=CHAINS)
def test_chains_share_their_beginnings(chains: list[list[int]]) -> None:
    """Duplicates, and chains that another one begins with, need no node of their own."""
    tokens, parents, nodes = merged(chains)
    found = paths(tokens, parents)
    assert [found[chain[-1]] for chain in nodes] == [tuple(chain) for chain in chains]
    expected = {tuple(chain[:length]) for chain in chains for length in range(1, len(chain) + 1)}
    assert set(found) == expected and len(found) == len(expected)
    assert found[: len(chains[0])] == [
        tuple(chains[0][:length]) for length in range(1, len(chains[0]) + 1)
    ]


@given(chains=CHAINS, seed=st.integers(0, 1000))
def test_the_target_takes_the_chain_it_expects_most_of(chains: list[list[int]], seed: int) -> None:
    """What is accepted is the beginning of a chain of the highest score, by the definition."""
    tokens, parents, _ = merged(chains)
    p = torch.rand(1 + len(tokens), 4, generator=torch.Generator().manual_seed(seed))
    p = p / p.sum(-1, keepdim=True)
    node_of = {path: node for node, path in enumerate(paths(tokens, parents))}

    def score(chain: list[int]) -> float:
        total, chance, row = 0.0, 1.0, p[0]
        for length, token in enumerate(chain, start=1):
            chance *= float(row[token])
            total += chance
            row = p[node_of[tuple(chain[:length])] + 1]
        return total

    proposal = Proposal(torch.tensor(tokens), parents, "select")
    best = max(map(score, chains))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        verdict = verify(p.log(), proposal, PLAIN, generator)
        begun = [chain for chain in chains if tuple(chain[: verdict.accepted]) == verdict.tokens]
        assert max(map(score, begun)) == pytest.approx(best)
        assert [node_of[verdict.tokens[: n + 1]] for n in range(verdict.accepted)] == [
            *verdict.path
        ]


@given(chains=CHAINS, seed=st.integers(0, 1000))
def test_a_greedy_target_goes_down_the_chain_that_matches_longest(
    chains: list[list[int]], seed: int
) -> None:
    tokens, parents, _ = merged(chains)
    logits = torch.randn(1 + len(tokens), 3, generator=torch.Generator().manual_seed(seed))
    node_of = {path: node for node, path in enumerate(paths(tokens, parents))}

    def matched(chain: list[int]) -> int:
        row = 0
        for length, token in enumerate(chain):
            if int(logits[row].argmax()) != token:
                return length
            row = node_of[tuple(chain[: length + 1])] + 1
        return len(chain)

    proposal = Proposal(torch.tensor(tokens), parents, "select")
    verdict = verify(logits, proposal, Sampling(), torch.Generator())
    assert verdict.accepted == max(map(matched, chains))


def test_every_chain_is_drawn_at_the_drafts_temperature() -> None:
    """Each position by itself; the run's own temperature or the argmax would show in the counts."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    vocabulary = torch.tensor([4, 10, 11])
    drafter = put_over(Fixed(logits, vocabulary), "self_selection:chains=1:temperature=2")
    counts: Counter[tuple[int, ...]] = Counter()
    draws = 4_000
    drafter.start(torch.tensor([0]), None, Sampling(temperature=0.3, seed=5))
    for _ in range(draws):
        proposal = drafter.propose([], 0, 2)
        assert proposal.is_chain and proposal.rule == "multi_round"
        counts[tuple(proposal.tokens.tolist())] += 1
    first, second = (logits / 2).softmax(-1)
    for i, j in ((i, j) for i in range(3) for j in range(3)):
        share = counts[int(vocabulary[i]), int(vocabulary[j])] / draws
        assert share == pytest.approx(float(first[i] * second[j]), abs=0.035)


def test_the_runs_nucleus_bounds_the_draft() -> None:
    logits = torch.tensor([[3.0, 2.0, 0.0, 0.0]] * 2)
    drafter = put_over(Fixed(logits), "self_selection:chains=8:temperature=3")
    drafter.start(torch.tensor([0]), None, Sampling(temperature=1.0, top_k=2))
    drawn = {token for _ in range(20) for token in drafter.propose([], 0, 2).tokens.tolist()}
    assert drawn == {0, 1}


def test_one_seed_draws_the_same_chains() -> None:
    logits = torch.zeros(3, toy.VOCAB)
    drafter = put_over(Fixed(logits), "self_selection")
    runs = []
    for seed in (1, 1, 2):
        drafter.start(torch.tensor([0]), None, Sampling(seed=seed))
        runs.append([drafter.propose([], 0, 3).tokens.tolist() for _ in range(3)])
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][0] != runs[0][1]


def test_it_offers_as_many_nodes_as_it_states() -> None:
    inner = Fixed(torch.zeros(2, 100_000))
    drafter = put_over(inner, "self_selection:chains=8")
    drafter.start(torch.tensor([0]), None, Sampling())
    proposal = drafter.propose([], 0, inner.max_nodes)
    assert len(proposal.parents) == drafter.max_nodes == 16
