"""What time it is, when the device's work is done."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Clock(Protocol):
    """Reads seconds; only differences mean anything."""

    def now(self) -> float:
        """Seconds, after all work given to the device so far."""


_perf_counter = time.perf_counter  # bound before any plug-in runs; see `harness.registry`


def _bound() -> Callable[[], float]:
    read = time.monotonic_ns
    return lambda: read() / 1e9


second_clock = _bound()
"""Seconds by another clock of the system than the run's: both must tell the same."""


class WallClock:
    """The process's monotonic clock, for devices that compute as they are told."""

    def now(self) -> float:
        """Seconds since some moment."""
        return _perf_counter()


class CudaClock:
    """The GPU's own clock: an event in its stream, waited for.

    The event is stamped when the work before it is done and the host has come to ask, so work of
    either side counts. A host clock read after waiting would add the time the host takes to wake.
    An event does not see work in other streams; there is none here.

    `harness.decode` reads it three times a generation: before any work, and twice just after a
    token came to the host, when nothing is in flight. So no round is perturbed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: torch.cuda.Event | None = None
        self._seconds = 0.0

    def now(self) -> float:
        """Seconds since the first reading."""
        import torch

        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        event.synchronize()
        if self._last is not None:
            # From event to event: the driver counts in float32, too coarse over a long time.
            self._seconds += self._last.elapsed_time(event) / 1000
        self._last = event
        return self._seconds


class FakeClock:
    """Shows what a test advances it to."""

    def __init__(self, start: float = 0.0) -> None:
        self.seconds = start

    def now(self) -> float:
        """Seconds advanced so far."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds


def clock_for(device: torch.device) -> Clock:
    """The clock that is right for a device."""
    return CudaClock(device) if device.type == "cuda" else WallClock()


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of timed work; it runs before, not within."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
