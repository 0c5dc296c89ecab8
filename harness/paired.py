"""Differences on shared prompts, with intervals: two methods in a run, or one method in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from harness import bootstrap, metrics
from harness.metrics import NoData, Sides
from harness.records import Generation

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number over one or more tasks, and its 95 % interval."""

    value: float | None
    """None where a task has none."""
    low: float | None
    """None where conversations are too few for an interval."""
    high: float | None

    @property
    def has_interval(self) -> bool:
        """Whether there are conversations enough to speak about significance."""
        return self.low is not None

    def excludes(self, neutral: float) -> bool:
        """Whether the interval leaves out ``neutral``, the value of no difference."""
        return (
            self.low is not None and self.high is not None and not self.low <= neutral <= self.high
        )


def tau(tasks: Sequence[Sequence[Generation]]) -> Estimate:
    """Overall τ."""
    value = or_none(metrics.overall_mean, [or_none(metrics.tau, item) for item in tasks])
    return _estimate(value, bootstrap.tau_interval, tasks)


def tau_difference(tasks: Sequence[Sides]) -> Estimate:
    """Overall τ of the second side less that of the first."""
    parts = [or_none(metrics.tau_difference, *sides) for sides in tasks]
    value = or_none(metrics.overall_mean, parts)
    return _estimate(value, bootstrap.tau_difference_interval, tasks)


def tau_change(tasks: Sequence[tuple[Sides, Sides]]) -> Estimate:
    """Overall τ difference of the second sides less that of the first."""
    parts = [or_none(metrics.tau_change, *sides) for sides in tasks]
    value = or_none(metrics.overall_mean, parts)
    return _estimate(value, bootstrap.tau_change_interval, tasks)


def speedup(tasks: Sequence[Sides]) -> Estimate:
    """Overall decode speed of the second side over that of the first."""
    parts = [or_none(metrics.speedup, *sides) for sides in tasks]
    value = or_none(metrics.overall_geometric_mean, parts)
    return _estimate(value, bootstrap.speedup_interval, tasks)


def speedup_change(tasks: Sequence[tuple[Sides, Sides]]) -> Estimate:
    """Overall speedup in the second run over that in the first."""
    parts = [or_none(metrics.speedup_change, *runs) for runs in tasks]
    value = or_none(metrics.overall_geometric_mean, parts)
    return _estimate(value, bootstrap.speedup_change_interval, tasks)


def or_none(rule: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What ``rule`` gives, or None where it has no data: a blank."""
    try:
        return rule(*args, **kwargs)
    except NoData:
        return None


def _estimate(
    value: float | None, rule: Callable[P, tuple[float, float]], *args: P.args, **kwargs: P.kwargs
) -> Estimate:
    found = None if value is None else or_none(rule, *args, **kwargs)
    return Estimate(value=value, low=found and found[0], high=found and found[1])
