"""Do two numbers go together? Rank and linear correlation, with intervals by conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness import bootstrap
from harness.bootstrap import MIN_CONVERSATIONS, FloatArray
from harness.metrics import NoData
from harness.paired import Estimate
from harness.study_records import Measurement

_CLUSTERS = 2000
"""Place of these draws among those of `harness.bootstrap`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """Of pairs of numbers."""

    spearman: Estimate
    pearson: Estimate
    num_pairs: int
    num_clusters: int
    """What is drawn for the intervals: conversations; 0 where there are none."""


def correlation(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[str] | None = None
) -> Correlation:
    """Spearman's and Pearson's correlation of two lists.

    Intervals draw whole clusters with replacement; ranks are taken once, over all pairs.

    Raises:
        NoData: fewer than three pairs, or a list that does not vary.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        raise NoData("a correlation needs three pairs of numbers that vary")
    names, owners = np.unique(clusters if clusters is not None else [], return_inverse=True)
    own = owners if clusters is not None else None
    return Correlation(
        spearman=_estimate(rankdata(x), rankdata(y), own, len(names)),
        pearson=_estimate(x, y, own, len(names)),
        num_pairs=len(x),
        num_clusters=len(names),
    )


def reward_correlation(measurements: Sequence[Measurement]) -> Correlation:
    """Chain reward of a round's block against the draft tokens it had accepted.

    Rounds that offered less than a whole block, at the end of an answer, are left out.

    Args:
        measurements: of one objective; several seeds are pooled.

    Raises:
        NoData: no rewards, or as `correlation`.
    """
    rewards: list[float] = []
    accepted: list[int] = []
    prompts: list[str] = []
    for measurement in measurements:
        for item in measurement.replayed:
            for reward, kept, depth in zip(
                item.rewards or (), item.accepted, item.depths, strict=False
            ):
                if depth == measurement.horizon - 1:
                    rewards.append(reward)
                    accepted.append(kept)
                    prompts.append(f"{item.task}/{item.prompt_id}")
    return correlation(rewards, accepted, prompts)


def _estimate(
    x: FloatArray, y: FloatArray, owners: np.ndarray | None, num_clusters: int
) -> Estimate:
    x, y = x - x.mean(), y - y.mean()  # sums of squares of what is far from 0 lose digits
    terms = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)
    value = float(_pearson(terms.sum(0)))
    if owners is None or num_clusters < MIN_CONVERSATIONS:
        return Estimate(value=value, low=None, high=None)
    sums = np.stack(
        [np.bincount(owners, weights=column, minlength=num_clusters) for column in terms.T], axis=1
    )
    counts = bootstrap.draws(num_clusters, _CLUSTERS).astype(np.float64)
    low, high = bootstrap.central(_pearson(counts @ sums))
    return Estimate(value=value, low=low, high=high)


def _pearson(sums: FloatArray) -> FloatArray:
    """From n, Σx, Σy, Σx², Σy² and Σxy on the last axis."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))
