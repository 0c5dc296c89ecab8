"""Learning curves of a study, and whether what is cheap to watch follows what is verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.correlation import clustered_correlation
from harness.metrics import NoData
from harness.paired import Estimate, or_none
from harness.study_metrics import by_answer, length
from harness.study_records import HELD_BACK, Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One arm at one step."""

    step: int
    loss: float | None
    train_time_tau: float | None
    tau: float
    """Replayed, on held-back prompts."""
    num_answers: int


def curve(measurements: Sequence[Measurement]) -> list[Point]:
    """One arm over its training, on the held-back answers that were replayed at every point.

    Args:
        measurements: of one arm, with the block size it was trained with.
    """
    tables = [by_answer(item, HELD_BACK) for item in measurements]
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    points = []
    for item, table in zip(measurements, tables, strict=True):
        tokens, rounds = length([table[key] for key in shared])
        if rounds:
            points.append(
                Point(
                    step=item.step,
                    loss=item.loss,
                    train_time_tau=item.train_time_tau,
                    tau=tokens / rounds,
                    num_answers=len(shared),
                )
            )
    return sorted(points, key=lambda point: point.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """How two numbers go together, with intervals where there are clusters enough to draw."""

    spearman: Estimate
    pearson: Estimate
    num_pairs: int
    num_clusters: int


def association(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[object]
) -> Association:
    """Of pairs that are alike within a cluster.

    Raises:
        NoData: fewer than three pairs, or numbers that do not vary.
    """
    from scipy.stats import pearsonr, spearmanr

    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        raise NoData("a correlation needs three pairs of numbers that vary")
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    drawn = or_none(clustered_correlation, first, second, [names[item] for item in clusters])
    low_high = (drawn.spearman_interval, drawn.pearson_interval) if drawn else ((None, None),) * 2
    values = (spearmanr(first, second).statistic, pearsonr(first, second).statistic)
    spearman, pearson = (
        Estimate(value=float(value), low=ends[0], high=ends[1])
        for value, ends in zip(values, low_high, strict=True)
    )
    return Association(
        spearman=spearman, pearson=pearson, num_pairs=len(first), num_clusters=len(names)
    )


def reward_association(measurements: Sequence[Measurement]) -> Association:
    """Chain reward of each round's block against the draft tokens it had accepted.

    Of the blocks that rounds of a replay begin with; `drafters.block_diffusion.replay`'s
    `chain_correlation` drafts behind every token. Blocks that reach over the end of an answer are
    left out.

    Args:
        measurements: of one objective; seeds are pooled, conversations drawn.

    Raises:
        NoData: as `association`.
    """
    rewards: list[float] = []
    accepted: list[int] = []
    prompts: list[str] = []
    for measurement in measurements:
        for item in measurement.replayed:
            for reward, kept in zip(item.rewards or (), item.accepted, strict=False):
                if reward is not None:
                    rewards.append(reward)
                    accepted.append(kept)
                    prompts.append(f"{item.task}/{item.prompt_id}")
    return association(rewards, accepted, prompts)


def proxy_association(curves: Sequence[Sequence[Point]]) -> Association:
    """Train-time τ against τ replayed at the same step; whole arms are drawn.

    Args:
        curves: the points of each arm that are compared.

    Raises:
        NoData: as `association`.
    """
    pairs = [
        (point.train_time_tau, point.tau, arm)
        for arm, points in enumerate(curves)
        for point in points
        if point.train_time_tau is not None
    ]
    return association([x for x, _, _ in pairs], [y for _, y, _ in pairs], [a for *_, a in pairs])
