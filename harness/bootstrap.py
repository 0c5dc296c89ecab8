"""95 % intervals of the headline metrics, by resampling conversations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import NoData, pairs
from harness.records import Generation

FloatArray = NDArray[np.float64]

NUM_DRAWS = 2000
"""Resamples behind an interval."""
MIN_CONVERSATIONS = 5
"""With fewer conversations a task, a percentile bootstrap says nothing worth printing."""


def tau_interval(tasks: Sequence[Sequence[Generation]]) -> tuple[float, float]:
    """Interval of the overall `harness.metrics.tau`; pass one task for that task's own.

    Conversations are resampled within each task, all turns and repeats of one together.

    Raises:
        NoData: a task has fewer than `MIN_CONVERSATIONS` conversations with rounds.
    """
    generator = np.random.default_rng(0)
    values = []
    for generations in tasks:
        rows = [
            (item.prompt_id, (len(item.new_tokens) - 1, len(item.rounds)))
            for item in generations
            if item.rounds
        ]
        sums = _resampled_sums(rows, generator)
        values.append(sums[:, 0] / sums[:, 1])
    return _interval(values)


def speedup_interval(
    tasks: Sequence[tuple[Sequence[Generation], Sequence[Generation]]],
) -> tuple[float, float]:
    """Paired interval of the overall `harness.metrics.speedup`; pass one task for its own.

    Args:
        tasks: (baseline, method) for each task.

    Raises:
        NoData: a task has fewer than `MIN_CONVERSATIONS` conversations in common, or decoded
            nothing in some resample.
    """
    generator = np.random.default_rng(0)
    values = []
    for baseline, method in tasks:
        rows = [
            (slow.prompt_id, (*_cost(slow), *_cost(fast))) for slow, fast in pairs(baseline, method)
        ]
        with np.errstate(divide="ignore", invalid="ignore"):
            slow_s, slow_tokens, fast_s, fast_tokens = np.log(_resampled_sums(rows, generator)).T
            values.append((slow_s - slow_tokens) - (fast_s - fast_tokens))
    low, high = _interval(values)
    return math.exp(low), math.exp(high)


def _cost(generation: Generation) -> tuple[float, float]:
    return generation.decode_s, len(generation.new_tokens) - 1


def _resampled_sums(
    rows: Sequence[tuple[str, tuple[float, ...]]], generator: np.random.Generator
) -> FloatArray:
    """``[NUM_DRAWS, columns]``: column sums over conversations drawn with replacement."""
    sums: dict[str, FloatArray] = {}
    for prompt_id, row in rows:
        sums[prompt_id] = sums.get(prompt_id, np.zeros(len(row))) + np.array(row)
    if len(sums) < MIN_CONVERSATIONS:
        raise NoData(f"an interval needs at least {MIN_CONVERSATIONS} conversations a task")
    counts = generator.multinomial(len(sums), [1 / len(sums)] * len(sums), size=NUM_DRAWS)
    return np.asarray(counts @ np.stack(list(sums.values())), dtype=np.float64)


def _interval(values: Sequence[FloatArray]) -> tuple[float, float]:
    """Central 95 % of the mean over tasks of ``[NUM_DRAWS]`` values each."""
    overall = np.mean(values, axis=0)
    if not np.isfinite(overall).all():
        raise NoData("a resample holds no decoded token")
    low, high = np.percentile(overall, [2.5, 97.5])
    return float(low), float(high)
