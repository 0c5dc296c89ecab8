"""The load of other processes: measured around an answer, judged over a row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from harness.records import Generation

MIN_WALL_S = 0.5
"""Less time tells nothing: the system counts in steps of 10 ms on each core."""
DISTURBED_CORES = 0.2
"""A median above this marks a row: a tenth of a machine of two cores, and well above what the
steps of the counters can feign within `MIN_WALL_S`."""

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class OtherLoad:
    """Measures, while open, how many cores other processes keep busy.

    The system's busy time less this process's own, over the time passed. Its readings, some tens
    of microseconds each, fall on opening and closing, never between.
    """

    cores: float | None = None
    """Mean number of cores, once closed; None where time was short or the system does not tell."""

    def __enter__(self) -> OtherLoad:
        self._counters = _counters()
        self._own_s, self._opened_s = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *raised: object) -> None:
        passed_s = time.perf_counter() - self._opened_s
        own_s = time.process_time() - self._own_s
        before, after = self._counters, _counters()
        if passed_s < MIN_WALL_S or before is None or after is None or before == after:
            return
        busy_s = sum(after.get(name, 0.0) - before.get(name, 0.0) for name in _BUSY)
        self.cores = max(0.0, busy_s - own_s) / passed_s


def mean_cores(generations: Sequence[Generation]) -> float | None:
    """Mean `other_load` of the answers that have one; None where none has."""
    known = _known(generations)
    return statistics.fmean(known) if known else None


def disturbance(generations: Sequence[Generation]) -> float | None:
    """Median `other_load`, where it is above `DISTURBED_CORES` and so marks the row; else None."""
    known = _known(generations)
    median = statistics.median(known) if known else 0.0
    return median if median > DISTURBED_CORES else None


def _known(generations: Sequence[Generation]) -> list[float]:
    return [item.other_load for item in generations if item.other_load is not None]


def _counters() -> dict[str, float] | None:
    """Seconds of all cores since the start of the system, by kind, idle ones included.

    In a sandbox the file may be forbidden, or there with counters that never move.
    """
    try:
        return psutil.cpu_times()._asdict()
    except (OSError, psutil.Error):
        return None
