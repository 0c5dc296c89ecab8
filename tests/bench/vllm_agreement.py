"""Two engines on the same prompts: what each accepted by vLLM's definition, and whether they agree.

A *draft* is a round that begins before the answer has its last token. It offers as many tokens as a
block has masks, however few may still be written, and its accepted tokens count before the cut at
stop and limit. The accepted length is 1 + accepted / drafts, pooled.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.bootstrap import FloatArray, central, draws
from harness.decode import Decoded

MOST_APART = 0.05
"""Relative difference of accepted lengths that still counts as agreement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One engine's answer to one prompt."""

    new_tokens: tuple[int, ...]
    """The prefill's token and the stop token included."""
    committed: tuple[int, ...]
    """Tokens that each draft's round added, the last one's cut."""
    by_position: tuple[int, ...]
    """``[depth]``: drafts of which at least 1, 2, … tokens were accepted."""

    def __post_init__(self) -> None:
        if 1 + sum(self.committed) != len(self.new_tokens):
            raise ValueError(f"1 + Σ {self.committed} tokens are not {len(self.new_tokens)}")
        if self.committed:
            *whole, last = self.committed
            accepted_last = sum(self.by_position) - sum(whole) + len(whole)
            if not last - 1 <= accepted_last <= len(self.by_position):
                raise ValueError(f"{self.by_position} accepted do not fit {self.committed}")

    @property
    def drafts(self) -> int:
        """How many."""
        return len(self.committed)


def drafted(decoded: Decoded, limit: int, depth: int) -> Answer:
    """What is left at ``limit`` of an answer that could go ``depth`` tokens further.

    With that much room no block was cut before the limit.

    Raises:
        ValueError: a draft before the limit offered other than ``depth`` tokens.
    """
    assert decoded.rounds is not None
    begins = itertools.accumulate((item.committed for item in decoded.rounds), initial=1)
    rounds = [item for begin, item in zip(begins, decoded.rounds, strict=False) if begin < limit]
    if any(item.depth != depth for item in rounds):
        raise ValueError(f"a draft before the limit is not {depth} tokens deep")
    new_tokens = decoded.new_tokens[:limit]
    committed = [item.committed for item in rounds]
    if rounds:
        committed[-1] = len(new_tokens) - 1 - sum(committed[:-1])
    return Answer(
        new_tokens=new_tokens,
        committed=tuple(committed),
        by_position=tuple(
            sum(item.accepted >= place for item in rounds) for place in range(1, depth + 1)
        ),
    )


def first_difference(ours: Answer, theirs: Answer) -> int | None:
    """Place of the first token that differs; None where there is none."""
    pairs = zip(ours.new_tokens, theirs.new_tokens, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), None)


def drafts_alike(ours: Answer, theirs: Answer) -> tuple[int, int]:
    """Drafts that both began at the same place of the same text, and those that went as far.

    A text they part in later is compared up to there: behind it the target itself chose otherwise.
    """
    parted = first_difference(ours, theirs)
    end = len(ours.new_tokens) if parted is None else parted
    reached = [
        {
            begin: min(begin + committed, end)
            for begin, committed in zip(
                itertools.accumulate(answer.committed, initial=1), answer.committed, strict=False
            )
        }
        for answer in (ours, theirs)
    ]
    shared = [begin for begin in reached[0] if begin in reached[1] and begin < end]
    return len(shared), sum(reached[0][begin] == reached[1][begin] for begin in shared)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, and its 95 % interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Acceptance on both sides, and one against the other on the same resamples of prompts."""

    ours: tuple[Estimate, ...]
    """Accepted length, then the share of drafts accepted up to position 1, 2, …; so are the
    others."""
    theirs: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    """Theirs less ours."""
    ratio: Estimate
    """Their accepted length over ours."""

    @property
    def holds(self) -> bool:
        """Accepted lengths are within `MOST_APART`, or their ratio is not told from 1."""
        near = abs(self.ratio.value - 1) <= MOST_APART
        return near or self.ratio.low <= 1 <= self.ratio.high


def agreement(ours: Sequence[Answer], theirs: Sequence[Answer]) -> Agreement:
    """Acceptance by vLLM's definition, with intervals by prompt.

    Raises:
        ValueError: other prompts on either side.
        NoData: some resample holds no draft.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} answers against {len(theirs)}")
    # The first row is every prompt once: the value itself.
    weights = np.concatenate([np.ones((1, len(ours))), draws(len(ours), 0)])
    ours_table, theirs_table = (_rates(weights, side) for side in (ours, theirs))
    return Agreement(
        ours=_estimates(ours_table),
        theirs=_estimates(theirs_table),
        differences=_estimates(theirs_table - ours_table),
        ratio=_estimates(theirs_table[:, :1] / ours_table[:, :1])[0],
    )


def _rates(weights: FloatArray, answers: Sequence[Answer]) -> FloatArray:
    """``[rows of weights, 1 + depth]``: accepted length, then acceptance by position."""
    sums = weights @ np.array([[item.drafts, *item.by_position] for item in answers], dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_position = sums[:, 1:] / sums[:, :1]
    return np.column_stack([1 + by_position.sum(axis=1), by_position])


def _estimates(table: FloatArray) -> tuple[Estimate, ...]:
    return tuple(Estimate(float(column[0]), *central(column[1:])) for column in table.T)
