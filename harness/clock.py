"""What time it is, when the device's work is done."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Clock(Protocol):
    """Reads seconds; only differences mean anything."""

    def now(self) -> float:
        """Seconds, after all work given to the device so far."""


class WallClock:
    """The process's monotonic clock, for devices that compute as they are told."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()


class CudaClock:
    """The monotonic clock, read when the GPU has caught up.

    `harness.decode` reads it three times a generation: before any work, and twice just after a
    token came to the host, when nothing is in flight. So no round is perturbed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Seconds since some moment."""
        import torch

        torch.cuda.synchronize(self._device)
        return time.perf_counter()


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
