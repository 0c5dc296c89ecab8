"""Adaptive draft length: the recurrence by hand, its bounds, what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from drafters import cps
from drafters.adl import AdaptiveLength, Settings, build
from drafters.base import Marginals, Proposal
from drafters.block_diffusion.data import TrainingSequence
from drafters.cps import PathSearch
from drafters.ngram_model import NgramModel
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict

STOP = 9


class Longest(toy.Script):
    """Drafts token 1, and a stop token at a place of the test's choice."""

    stop_at: int | None = None

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        self.budgets.append(budget)
        tokens = torch.ones(min(budget, self.max_nodes), dtype=torch.int64)
        if self.stop_at is not None:
            tokens[self.stop_at] = STOP
        return Marginals(torch.nn.functional.one_hot(tokens, toy.VOCAB).float())

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        return Proposal.chain(self.marginals(prefix_ids, pending, budget).logits.argmax(-1))


def adaptive(
    lengths: tuple[int, int, int], rho: float = 0.5, longest: int = 30
) -> tuple[AdaptiveLength, Longest]:
    inner = Longest([], longest + 1, lambda turn: 0)
    policy = AdaptiveLength(inner, lengths, rho, frozenset({STOP}))
    policy.start(torch.tensor([1]), None, Sampling())
    return policy, inner


def accept(policy: AdaptiveLength, count: int) -> None:
    policy.observe(Verdict(tuple(range(count)), (1,) * count, 1), None)


@pytest.mark.parametrize("way", ["propose", "marginals"])
def test_the_recurrence_by_hand(way: str) -> None:
    policy, inner = adaptive((2, 6, 2))
    # stop token at, accepted, then: running means, length of the next draft
    table = (
        (None, 6, 5),  # drafted 6: means 3 and 3, 3 + 2
        (None, 0, 4),  # drafted 5: means 4 and 1.5
        (1, 1, 2),  # ends after 1: means 2.5 and 1.25
        (0, 0, 2),  # nothing before the end: means 1.25 and 0.625, cut to k_min
    )
    for stop_at, accepted, expected in table:
        inner.stop_at = stop_at
        getattr(policy, way)([1], 1, 100)
        accept(policy, accepted)
        assert policy.length == expected
    assert inner.budgets == [6, 5, 4, 2]
    inner.stop_at = 0
    getattr(policy, way)([1], 1, 100)
    accept(policy, 2)  # means 0.625 and 1.3125: 0 + 2
    assert policy.length == 2
    inner.stop_at = None
    getattr(policy, way)([1], 1, 100)
    accept(policy, 2)  # means 1.3125 and 1.65625: 1 + 2
    assert policy.length == 3


def test_the_papers_lengths_are_the_default() -> None:
    assert Settings().lengths(30) == (20, 30, 10)
    assert Settings().lengths(5) == (3, 5, 2)
    assert Settings().lengths(1) == (1, 1, 1)
    assert Settings(k_max=15).lengths(30) == (10, 15, 5)


@given(
    lengths=st.tuples(st.integers(1, 6), st.integers(6, 12), st.integers(1, 9)),
    rho=st.floats(0.01, 1),
    rounds=st.lists(st.tuples(st.integers(1, 20), st.none() | st.integers(0, 19)), max_size=12),
    share=st.floats(0, 1),
)
def test_lengths_stay_within_bounds_and_the_budget(
    lengths: tuple[int, int, int],
    rho: float,
    rounds: list[tuple[int, int | None]],
    share: float,
) -> None:
    policy, inner = adaptive(lengths, rho, longest=12)
    assert policy.length == lengths[1] == policy.max_nodes
    for budget, stop_at in rounds:
        wanted = min(budget, policy.length)
        inner.stop_at = None if stop_at is None or stop_at >= wanted else stop_at
        proposal = policy.propose([1], 1, budget)
        assert len(proposal.parents) == wanted == inner.budgets[-1]
        accept(policy, round(share * wanted))
        assert lengths[0] <= policy.length <= lengths[1]


def test_a_new_prompt_begins_with_the_longest_draft() -> None:
    policy, inner = adaptive((2, 6, 2))
    inner.stop_at = 0
    policy.propose([1], 1, 100)
    accept(policy, 0)
    assert policy.length == 2
    policy.start(torch.tensor([1]), None, Sampling())
    assert policy.length == 6


def test_below_a_path_search_it_sees_the_raw_draft() -> None:
    """The search's path ends at once; the draft it chose from does not."""
    policy, _ = adaptive((1, 6, 2), rho=1.0)
    ngrams = NgramModel.fit([TrainingSequence((1, 1, STOP) * 9, 0)], toy.VOCAB)
    settings = cps.Settings(weight=0.0)
    search = PathSearch(policy, ngrams, settings, frozenset({STOP}))
    search.start(torch.tensor([1]), None, Sampling())
    assert search.max_nodes == 6
    proposal = search.propose([1], 1, 100)
    assert proposal.tokens.tolist() == [STOP]
    search.observe(Verdict((), (), 1), None)
    assert policy.length == 6


def test_output_is_the_targets() -> None:
    target = toy.llama()
    prompt, answer = toy.varied_prompt(target, 18)
    target.stop_ids = frozenset()
    inner = toy.Script(answer, 9, lambda turn: turn % 9)
    policy = AdaptiveLength(inner, (2, 8, 3), 0.5, frozenset())  # type: ignore[arg-type]
    done = generate(target, policy, prompt, sampling=Sampling(), max_new_tokens=18)
    assert list(done.new_tokens) == answer
    assert len(set(inner.budgets)) > 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inner+adl:rho=0", "rho must be above 0"),
        ("inner+adl:rho=nan", "rho must be above 0"),
        ("inner+adl:k_min=-1", "k_min must be at least 1"),
        ("inner+adl:k_min=9", "k_min is 9 and above k_max, 8"),
        ("inner+adl:k_max=9", "k_max is 9 and the drafter drafts 8 tokens at most.*--block-size"),
        ("inner+adl:length=9", "no setting 'length'"),
    ],
)
def test_bad_settings_are_sentences(text: str, words: str) -> None:
    options = DrafterOptions.parse(text)
    inner = Longest([], 9, lambda turn: 0)
    with pytest.raises(UserError, match=words):
        build(inner, toy.llama(), options, options.policies[0])


def test_over_a_path_search_it_has_nothing_to_see(tmp_path: Path) -> None:
    options = DrafterOptions.parse("inner+cps+adl")
    ngrams = NgramModel.fit([TrainingSequence((1, 2, 3), 0)], toy.VOCAB)
    inner = PathSearch(Longest([], 9, lambda turn: 0), ngrams, cps.Settings(), frozenset())
    with pytest.raises(UserError, match=r"adl .*inner\+cps shows none"):
        build(inner, toy.llama(), options, options.policies[1])


def test_the_newest_round_weighs_rho() -> None:
    policy, _ = adaptive((1, 6, 2), rho=0.25)
    for accepted, means in ((6, (1.5, 1.5)), (0, (1.875, 1.125)), (1, (1.65625, 1.09375))):
        policy.propose([1], 1, 100)
        accept(policy, accepted)
        assert (policy._mean_generated, policy._mean_accepted) == pytest.approx(means)


def test_no_draft_is_longer_than_the_longest() -> None:
    policy, _ = adaptive((1, 6, 4), rho=1.0)
    policy.propose([1], 1, 100)
    accept(policy, 6)  # means 6 and 6: 6 + 4
    assert policy.length == 6
