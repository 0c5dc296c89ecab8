"""How two values of many blocks go together, with 95 % intervals by resampling their sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.bootstrap import MIN_CONVERSATIONS, NUM_DRAWS
from harness.metrics import NoData

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Correlation:
    """Two coefficients over the same pairs."""

    num_pairs: int
    num_clusters: int
    """Sequences the pairs come from; they are what is resampled."""
    pearson: float
    pearson_interval: tuple[float, float]
    spearman: float
    """Of ranks; ties share the mean of theirs."""
    spearman_interval: tuple[float, float]


def clustered_correlation(x: ArrayLike, y: ArrayLike, clusters: ArrayLike) -> Correlation:
    """Correlations of pairs that are alike within a cluster.

    Args:
        x: ``[n]``.
        y: ``[n]``.
        clusters: ``[n]``, which pairs belong together; drawn with replacement, whole.

    Raises:
        NoData: fewer than `harness.bootstrap.MIN_CONVERSATIONS` clusters, or values that do not
            vary, be it in one resample.
    """
    names, owners = np.unique(np.asarray(clusters), return_inverse=True)
    count = len(names)
    if count < MIN_CONVERSATIONS:
        raise NoData(f"an interval needs at least {MIN_CONVERSATIONS} sequences")
    sides = [np.unique(np.asarray(side, np.float64), return_inverse=True) for side in (x, y)]
    generator = np.random.default_rng(count)
    draws = generator.multinomial(count, [1 / count] * count, size=NUM_DRAWS)
    all_weights = np.concatenate((np.ones((1, count)), draws))
    values = np.array([_both(sides, weights[owners]) for weights in all_weights])
    if not np.isfinite(values).all():
        raise NoData("a value does not vary")
    low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
    return Correlation(
        num_pairs=len(owners),
        num_clusters=count,
        pearson=float(values[0, 0]),
        pearson_interval=(float(low[0]), float(high[0])),
        spearman=float(values[0, 1]),
        spearman_interval=(float(low[1]), float(high[1])),
    )


def _both(
    sides: list[tuple[FloatArray, NDArray[np.intp]]], weights: FloatArray
) -> tuple[float, float]:
    """Pearson's and Spearman's coefficient of pairs that occur ``weights`` times each.

    A side is its distinct values, ascending, and which of them each pair has.
    """
    x, y = (values[place] for values, place in sides)
    ranks_x, ranks_y = (_ranks(len(values), place, weights)[place] for values, place in sides)
    return _pearson(x, y, weights), _pearson(ranks_x, ranks_y, weights)


def _ranks(num_values: int, place: NDArray[np.intp], weights: FloatArray) -> FloatArray:
    """Mean rank of each distinct value."""
    held = np.bincount(place, weights=weights, minlength=num_values)
    return np.asarray(held.cumsum() - held / 2, dtype=np.float64)


def _pearson(x: FloatArray, y: FloatArray, weights: FloatArray) -> float:
    total = weights.sum()
    x, y = x - weights @ x / total, y - weights @ y / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(weights @ (x * y) / np.sqrt((weights @ x**2) * (weights @ y**2)))
