"""Several sampled chains by their q: the output's law summed up exactly, and what it gains."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy
from marginals import put_over
from test_ddtree import Fixed

from drafters.base import Proposal
from drafters.policy import merged
from harness import verify as rules
from harness.sampling import Sampling
from harness.verify import Verdict, verify

PLAIN = Sampling(temperature=1.0)
EDGE = 1e-4
"""How near to its chance a coin is thrown; coins and chances are from 0 to 1."""

Chains = tuple[tuple[int, ...], ...]


def proposal_of(chains: Chains, q: torch.Tensor) -> Proposal:
    tree = merged(chains)
    return Proposal(torch.tensor(tree.tokens), tree.parents, "multi_round", q, tree.chains)


def residuals(p: torch.Tensor, q: torch.Tensor, refusals: int) -> list[torch.Tensor]:
    """What is left of p after 0, 1, … refusals, normalised each time, as the papers write it."""
    found = [p]
    for _ in range(refusals):
        left = (found[-1] - q).clamp(min=0)
        found.append(left / left.sum() if left.sum() > 0 else left)
    return found


class World:
    """A target of short contexts, a draft that is blind to them, and all that can happen."""

    def __init__(self, vocab: int, chains: int, zero: bool) -> None:
        draw = torch.Generator().manual_seed(vocab + chains)
        self.vocab, self.count = vocab, chains
        contexts = [c for n in range(3) for c in itertools.product(range(vocab), repeat=n)]
        self.p = {
            c: torch.randn(vocab, generator=draw, dtype=torch.float64).softmax(0) for c in contexts
        }
        self.q = torch.randn(2, vocab, generator=draw, dtype=torch.float64).softmax(-1)
        if zero:
            self.q[:, -1] = 0
            self.q /= self.q.sum(-1, keepdim=True)

    def proposals(self) -> list[tuple[Chains, float]]:
        """Every draw of the chains, and its chance."""
        pairs = list(itertools.product(range(self.vocab), repeat=2))
        found = []
        for chains in itertools.product(pairs, repeat=self.count):
            chance = 1.0
            for first, second in chains:
                chance *= float(self.q[0, first] * self.q[1, second])
            if chance > 0:
                found.append((chains, chance))
        return found

    def logits(self, proposal: Proposal) -> torch.Tensor:
        contexts: list[tuple[int, ...]] = [()]
        for token, parent in zip(proposal.tokens.tolist(), proposal.parents, strict=True):
            contexts.append((*contexts[parent + 1], token))
        return torch.stack([self.p[c] for c in contexts]).log()

    def chance(self, text: tuple[int, ...], given: int = 0) -> float:
        """The target's, of what follows the first ``given`` tokens."""
        steps = range(given, len(text))
        return math.prod(float(self.p[text[:step]][text[step]]) for step in steps)

    def outcomes(self, chains: Chains) -> list[tuple[torch.Tensor, tuple[int, ...], float]]:
        """Coins on either side of every chance, the tokens they accept, and how likely it is."""
        found: list[tuple[torch.Tensor, tuple[int, ...], float]] = []

        def at(depth: int, taken: tuple[int, ...], coins: torch.Tensor, chance: float) -> None:
            alive = [i for i, chain in enumerate(chains) if chain[:depth] == taken]
            if depth == 2 or chance == 0:
                found.append((coins, taken, chance))
                return
            left = residuals(self.p[taken], self.q[depth], len(alive))
            refused = coins.clone()  # the coins of chains that are not alive stay at 0: they accept
            for place, chain in enumerate(alive):
                token = chains[chain][depth]
                accept = min(1.0, float(left[place][token] / self.q[depth, token]))
                accepted = refused.clone()
                accepted[depth, chain] = max(accept - EDGE, 0)
                if accept > EDGE:
                    at(depth + 1, (*taken, token), accepted, chance * accept)
                refused[depth, chain] = accept + EDGE
                chance *= 1 - accept
                if chance < 1e-12:
                    return
            found.append((refused, taken, chance))

        at(0, (), torch.zeros(2, len(chains), dtype=torch.float64), 1.0)
        return found


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Coins that are set, and the row that the last token would be drawn from."""
    hand = SimpleNamespace(coins=torch.empty(0), row=torch.empty(0))

    def draw(
        weights: torch.Tensor, otherwise: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        hand.row = weights / weights.sum()
        return torch.zeros(1, dtype=torch.int64)

    monkeypatch.setattr(rules, "_draw_or", draw)
    monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: hand.coins)
    monkeypatch.setattr(Sampling, "probs", lambda self, logits: logits.exp())
    return hand


def largest_error(
    world: World, hand: SimpleNamespace, shown: Callable[[Chains], Chains] = lambda drawn: drawn
) -> float:
    """Of the chances of any three tokens, over every draw of chains and every fall of the coins.

    No sample: a coin a ten-thousandth off its chance pins that chance, and coins that must not
    matter would accept.

    Args:
        shown: what is proposed of the chains that were drawn.
    """
    law: Counter[tuple[int, ...]] = Counter()
    for drawn, likely in world.proposals():
        chains = shown(drawn)
        proposal = proposal_of(chains, world.q)
        logits = world.logits(proposal)
        for hand.coins, taken, chance in world.outcomes(chains):
            verdict = verify(logits, proposal, PLAIN, torch.Generator())
            assert verdict.tokens == taken
            for token, share in enumerate(hand.row.tolist()):
                law[(*taken, token)] += likely * chance * share
    assert sum(law.values()) == pytest.approx(1)
    joint: Counter[tuple[int, ...]] = Counter()
    for text, chance in law.items():
        for rest in itertools.product(range(world.vocab), repeat=3 - len(text)):
            joint[(*text, *rest)] += chance * world.chance((*text, *rest), len(text))
    whole = itertools.product(range(world.vocab), repeat=3)
    return max(abs(joint[text] - world.chance(text)) for text in whole)


@pytest.mark.parametrize(
    ("vocab", "chains", "zero"), [(3, 3, False), (2, 4, False), (3, 2, True), (3, 1, False)]
)
def test_the_output_has_the_targets_law_summed_over_all_draws_and_coins(
    vocab: int, chains: int, zero: bool, by_hand: SimpleNamespace
) -> None:
    assert largest_error(World(vocab, chains, zero), by_hand) < 1e-12


@pytest.mark.parametrize("planted", ("repeats left out", "order lost"))
def test_chains_that_are_not_shown_as_drawn_bend_the_law(
    planted: str, by_hand: SimpleNamespace
) -> None:
    faults: dict[str, Callable[[Chains], Chains]] = {
        "repeats left out": lambda drawn: tuple(dict.fromkeys(drawn)),
        "order lost": lambda drawn: tuple(sorted(drawn)),
    }
    assert largest_error(World(3, 3, False), by_hand, faults[planted]) > 1e-6


def test_a_repeat_takes_its_share_of_the_residual() -> None:
    """(0), (0), (1): what is left for 1 after two refusals of 0 is not what one would leave."""
    p, q = torch.tensor([0.1, 0.35, 0.55]), torch.tensor([0.6, 0.2, 0.2])
    left = residuals(p, q, 2)
    chances = [float(left[i][token] / q[token]) for i, token in enumerate((0, 0, 1))]
    assert 0 < chances[0] < 1 and chances[1] == 0 and 0 < chances[2] < 1
    logits = p.log().expand(3, -1)
    proposal = proposal_of(((0,), (0,), (1,)), q[None])
    generator = torch.Generator().manual_seed(0)
    draws = 3_000
    counts = Counter(verify(logits, proposal, PLAIN, generator).tokens for _ in range(draws))
    reached = 1 - chances[0]
    assert counts[(0,)] / draws == pytest.approx(chances[0], abs=0.03)
    assert counts[(1,)] / draws == pytest.approx(reached * chances[2], abs=0.03)
    assert left[1][1] > q[1]  # after one refusal it would be accepted for sure


def test_chains_that_were_not_tried_go_on_where_their_token_is_the_accepted_one() -> None:
    p = torch.full((5, 3), 1e-9)
    p[0, 1] = p[1, 2] = p[3, 0] = 1.0  # after 1 comes 2, which only the second chain has
    proposal = proposal_of(((1, 0), (1, 2)), torch.full((2, 3), 1 / 3))
    verdict = verify(p.log(), proposal, PLAIN, torch.Generator().manual_seed(0))
    assert verdict == Verdict((0, 2), (1, 2), 0)


def near_the_target(rounds: int, depth: int, vocab: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(7)
    pairs = []
    for _ in range(rounds):
        logits = 3 * torch.randn(depth + 1, vocab, generator=draw)
        pairs.append((logits, logits[:depth] + torch.randn(depth, vocab, generator=draw)))
    return pairs


def accepted_by(pairs: list[tuple[torch.Tensor, torch.Tensor]], policy: str | None) -> float:
    """Draft tokens accepted a round, of a target whose rows depend on the depth alone."""
    total = 0
    generator = torch.Generator().manual_seed(1)
    for seed, (logits, draft) in enumerate(pairs):
        if policy is None:
            q = draft.softmax(-1)
            proposal = Proposal.chain(torch.multinomial(q, 1, generator=generator)[:, 0], q)
        else:
            drafter = put_over(Fixed(draft), policy)
            drafter.start(torch.tensor([0]), None, Sampling(temperature=1.0, seed=seed))
            proposal = drafter.propose([], 0, len(draft))
        rows = logits[[0, *proposal.depths()]]
        total += verify(rows, proposal, PLAIN, generator).accepted
    return total / len(pairs)


def test_four_chains_are_accepted_further_than_one_and_select_less_far() -> None:
    pairs = near_the_target(200, 5, 50)
    one = accepted_by(pairs, None)
    several = accepted_by(pairs, "self_selection:chains=4:temperature=1")
    chosen = accepted_by(pairs, "self_selection:chains=4:temperature=1:rule=select")
    assert several > one + 0.3
    assert chosen < one


def test_sixteen_chains_fit_a_reduced_vocabulary_and_carry_their_q() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    vocabulary = torch.tensor([4, 10, 11])
    drafter = put_over(Fixed(logits, vocabulary), "self_selection:chains=16:temperature=2")
    drafter.start(torch.tensor([0]), None, PLAIN)
    proposal = drafter.propose([], 0, 2)
    assert proposal.rule == "multi_round" and len(proposal.chains) == 16
    assert proposal.q is not None and proposal.q.shape == (2, toy.VOCAB)
    assert torch.equal(proposal.q[:, vocabulary], (logits / 2).softmax(-1))
    assert proposal.q.sum(-1).tolist() == pytest.approx([1, 1])
    assert drafter.record["settings"] == {"chains": 16, "temperature": 2.0, "rule": "multi_round"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": None}, "q goes with the rules rejection and multi_round"),
        ({"q": torch.ones(1, 3)}, "q has 1 rows for a depth of 2"),
        ({"chains": ((0, 2),)}, "are no chain from the root down"),
        ({"chains": ((0, 1),)}, "every node must be on one of the chains"),
        ({"chains": ((0, 1), (2,))}, "chains must be equally long"),
        ({"rule": "select", "q": None}, "chains go with the rule multi_round"),
    ],
)
def test_a_proposal_that_hides_what_was_drawn_is_refused(
    change: dict[str, Any], message: str
) -> None:
    made: dict[str, Any] = {
        "tokens": torch.tensor([1, 2, 0]),
        "parents": (-1, 0, -1),
        "rule": "multi_round",
        "q": torch.ones(2, 3) / 3,
        "chains": ((0, 1), (2,)),
    }
    with pytest.raises(ValueError, match=message):
        Proposal(**(made | change))
