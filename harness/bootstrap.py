"""95 % intervals of the headline metrics and of their differences, by resampling conversations.

Conversations are drawn with replacement within each task, all turns and repeats of one together.
The draws depend on the number of conversations alone, so the order of records moves nothing and
both sides of a difference see the same draws.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import NoData, Sides, drafted_pairs, timed_pairs
from harness.records import Generation

FloatArray = NDArray[np.float64]
Rows = Sequence[tuple[str, Sequence[float]]]
"""Prompt id and the terms of each sum, one row an answer."""

NUM_DRAWS = 2000
"""Resamples behind an interval."""
MIN_CONVERSATIONS = 5
"""With fewer conversations a task, a percentile bootstrap says nothing worth printing."""

_BLOCK = 100
"""Draws made at once; whole sets of 50,000 prompts stay within memory."""


def tau_interval(tasks: Sequence[Sequence[Generation]]) -> tuple[float, float]:
    """Interval of the overall `harness.metrics.tau`; pass one task for that task's own.

    Raises:
        NoData: a task has fewer than `MIN_CONVERSATIONS` conversations with rounds.
    """
    values = []
    for position, generations in enumerate(tasks):
        rows = [(item.prompt_id, _length(item)) for item in generations if item.rounds]
        values.append(_ratio(_resampled_sums(rows, position)))
    return _interval(values)


def tau_difference_interval(tasks: Sequence[Sides]) -> tuple[float, float]:
    """Paired interval of the overall `harness.metrics.tau_difference`.

    Args:
        tasks: (first, second) for each task.

    Raises:
        NoData: a task has fewer than `MIN_CONVERSATIONS` conversations with rounds on both sides.
    """
    return _interval(
        [_tau_difference(_lengths(sides), position) for position, sides in enumerate(tasks)]
    )


def tau_change_interval(tasks: Sequence[tuple[Sides, Sides]]) -> tuple[float, float]:
    """Paired interval of the overall `harness.metrics.tau_change`.

    Args:
        tasks: (first, second) of the one difference, then of the other, for each task.

    Raises:
        NoData: as `tau_difference_interval`, or the differences hold different conversations.
    """
    values = []
    for position, (first, second) in enumerate(tasks):
        before, after = _lengths(first), _lengths(second)
        _require_same_conversations(before, after)
        values.append(_tau_difference(after, position) - _tau_difference(before, position))
    return _interval(values)


def speedup_interval(tasks: Sequence[Sides]) -> tuple[float, float]:
    """Paired interval of the overall `harness.metrics.speedup`; pass one task for its own.

    Args:
        tasks: (baseline, method) for each task.

    Raises:
        NoData: a task has fewer than `MIN_CONVERSATIONS` conversations in common, or decoded
            nothing in some resample.
    """
    return _ratio_interval(
        [_log_speedup(_costs(sides), position) for position, sides in enumerate(tasks)]
    )


def speedup_change_interval(tasks: Sequence[tuple[Sides, Sides]]) -> tuple[float, float]:
    """Paired interval of the overall `harness.metrics.speedup_change`.

    Args:
        tasks: (baseline, method) of the first run, then of the second, for each task.

    Raises:
        NoData: as `speedup_interval`, or the runs hold different conversations.
    """
    values = []
    for position, (first, second) in enumerate(tasks):
        before, after = _costs(first), _costs(second)
        _require_same_conversations(before, after)
        values.append(_log_speedup(after, position) - _log_speedup(before, position))
    return _ratio_interval(values)


def _length(generation: Generation) -> tuple[float, float]:
    """Tokens committed by rounds, and the rounds."""
    return len(generation.new_tokens) - 1, len(generation.rounds or ())


def _lengths(sides: Sides) -> Rows:
    """`_length` of the first, then of the second, on the same prompts."""
    return [(a.prompt_id, (*_length(a), *_length(b))) for a, b in drafted_pairs(*sides)]


def _costs(sides: Sides) -> Rows:
    """Seconds and tokens decoded, of the baseline, then of the method, on the same prompts."""
    return [
        (a.prompt_id, (a.decode_s, len(a.new_tokens) - 1, b.decode_s, len(b.new_tokens) - 1))
        for a, b in timed_pairs(*sides)
    ]


def _require_same_conversations(first: Rows, second: Rows) -> None:
    """Draws are paired by a conversation's place among those there are."""
    if {name for name, _ in first} != {name for name, _ in second}:
        raise NoData("the sides hold different conversations")


def _ratio(sums: FloatArray) -> FloatArray:
    return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)


def _tau_difference(lengths: Rows, position: int) -> FloatArray:
    """``[NUM_DRAWS]``."""
    sums = _resampled_sums(lengths, position)
    return _ratio(sums[:, 2:]) - _ratio(sums[:, :2])


def _log_speedup(costs: Rows, position: int) -> FloatArray:
    """``[NUM_DRAWS]``, not finite where a draw decoded nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slow_s, slow_tokens, fast_s, fast_tokens = np.log(_resampled_sums(costs, position)).T
        return np.asarray((slow_s - slow_tokens) - (fast_s - fast_tokens), dtype=np.float64)


def _resampled_sums(rows: Rows, position: int) -> FloatArray:
    """``[NUM_DRAWS, columns]``: column sums over conversations drawn with replacement."""
    names, owners = np.unique([name for name, _ in rows], return_inverse=True)
    if len(names) < MIN_CONVERSATIONS:
        raise NoData(f"an interval needs at least {MIN_CONVERSATIONS} conversations a task")
    terms = np.array([row for _, row in rows], dtype=np.float64)
    sums = np.stack(
        [np.bincount(owners, weights=column, minlength=len(names)) for column in terms.T], axis=1
    )
    counts = draws(len(names), position)
    blocks = [counts[i : i + _BLOCK].astype(np.float64) @ sums for i in range(0, NUM_DRAWS, _BLOCK)]
    return np.concatenate(blocks)


@functools.lru_cache(maxsize=16)
def draws(num_conversations: int, position: int) -> NDArray[np.uint8]:
    """``[NUM_DRAWS, num_conversations]``: how often each conversation is drawn, the same each time.

    ``position`` is the task's place among those of an overall value: tasks are drawn
    independently of one another, also where they have as many conversations.
    """
    generator = np.random.default_rng([num_conversations, position])
    chances = [1 / num_conversations] * num_conversations
    # A count beyond 255 has a chance below 1e-500.
    blocks = [
        generator.multinomial(num_conversations, chances, size=_BLOCK).astype(np.uint8)
        for _ in range(NUM_DRAWS // _BLOCK)
    ]
    return np.concatenate(blocks)


def _ratio_interval(values: Sequence[FloatArray]) -> tuple[float, float]:
    low, high = _interval(values)
    return math.exp(low), math.exp(high)


def _interval(values: Sequence[FloatArray]) -> tuple[float, float]:
    """Central 95 % of the mean over tasks of ``[NUM_DRAWS]`` values each."""
    if not values:
        raise NoData("an interval needs a task")
    return central(np.mean(values, axis=0))


def central(values: FloatArray) -> tuple[float, float]:
    """Both ends of the central 95 % of resampled values.

    Raises:
        NoData: one of them is not finite.
    """
    if not np.isfinite(values).all():
        raise NoData("a resample holds no decoded token")
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
