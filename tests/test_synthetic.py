"""The synthetic upper bound accepts as often as it is told to."""

from __future__ import annotations

import pytest
import torch
import toy

from drafters.options import DrafterOptions
from drafters.synthetic import SyntheticDrafter, build
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling

VOCAB = 64


def _drafts(rate: float, seed: int, length: int = 4_000) -> list[int]:
    """Drafts for an answer of zeros, block after block."""
    drafter = SyntheticDrafter("cpu", VOCAB, rate, length)
    drafter.prepare([5], [0] * length)
    drafter.start(torch.tensor([5]), None, Sampling(seed=seed))
    return drafter.propose([5], 0, length).tokens.tolist()


@pytest.mark.parametrize("rate", (0.0, 0.3, 0.8, 1.0))
def test_the_share_of_right_tokens_is_the_rate(rate: float) -> None:
    drafts = _drafts(rate, seed=1)
    assert len(drafts) == 3_999
    share = drafts.count(0) / len(drafts)
    assert abs(share - rate) <= 4 * (rate * (1 - rate) / len(drafts)) ** 0.5


def test_the_seed_of_the_answer_fixes_the_drafts() -> None:
    assert _drafts(0.5, seed=1) == _drafts(0.5, seed=1) != _drafts(0.5, seed=2)


def test_wrong_tokens_are_tokens_of_the_vocabulary() -> None:
    assert set(_drafts(0.0, seed=3)) == set(range(1, VOCAB))


def test_it_follows_the_answer_by_position_and_ends_with_it() -> None:
    drafter = SyntheticDrafter("cpu", VOCAB, 1.0, 4)
    drafter.prepare([9, 9], [1, 2, 3, 4, 5])
    drafter.start(torch.tensor([9, 9]), None, Sampling())
    assert drafter.propose([9, 9], 1, 10).tokens.tolist() == [2, 3, 4]
    assert drafter.propose([9, 9], 1, 2).tokens.tolist() == [2, 3]
    assert drafter.propose([9, 9, 1, 2, 3], 4, 10).tokens.tolist() == [5]
    assert drafter.propose([9, 9, 1, 2, 3, 4], 5, 10).tokens.tolist() == []


def test_rate_one_fills_every_block() -> None:
    target = toy.llama()
    prompt, answer = toy.varied_prompt(target, 13)
    drafter = build(target, DrafterOptions(name="synthetic", argument="1", block_size=4))
    drafter.prepare(prompt, answer)
    done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=13)
    assert list(done.new_tokens) == answer
    assert done.rounds is not None
    assert [item.committed for item in done.rounds] == [4, 4, 4]


def test_an_unprepared_prompt_is_an_error() -> None:
    drafter = SyntheticDrafter("cpu", VOCAB, 0.5, 4)
    with pytest.raises(ValueError, match="prepared"):
        drafter.start(torch.tensor([1]), None, Sampling())
    drafter.prepare([1], [2])
    with pytest.raises(ValueError, match="prepared"):
        drafter.start(torch.tensor([2]), None, Sampling())


def test_options_are_honoured_or_refused() -> None:
    target = toy.llama()
    for options in (
        DrafterOptions(name="synthetic"),
        DrafterOptions(name="synthetic", argument="most"),
        DrafterOptions(name="synthetic", argument="1.5"),
        DrafterOptions(name="synthetic", argument="nan"),
        DrafterOptions(name="synthetic", argument="0.5", block_size=1),
        DrafterOptions(name="synthetic", argument="0.5", draft="sample"),
    ):
        with pytest.raises(UserError, match="synthetic"):
            build(target, options)
