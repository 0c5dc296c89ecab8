"""Mean and standard deviation of a number measured several times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.metrics import NoData


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over repeats, or over training seeds."""

    mean: float
    sd: float
    """Of a sample: divided by num - 1."""
    num: int


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and spread of the values there are.

    Raises:
        NoData: fewer than two.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2:
        raise NoData("a spread needs two values")
    return Spread(statistics.fmean(known), statistics.stdev(known), len(known))
