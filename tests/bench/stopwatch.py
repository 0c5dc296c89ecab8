"""Timing shared by the benchmarks."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from harness.clock import clock_for

_T = TypeVar("_T")


def timed(device: torch.device, work: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds that ``work`` takes, its device work included, and what it returns.

    The garbage collector runs before, not within.
    """
    clock = clock_for(device)
    gc.collect(0)
    gc.disable()
    try:
        started = clock.now()
        result = work()
        return clock.now() - started, result
    finally:
        gc.enable()


def device_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of ``work`` on the device itself: CUDA events there, the wall clock on a CPU."""
    if device.type != "cuda":
        return timed(device, work)[0]
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    stream = torch.cuda.current_stream(device)
    first.record(stream)
    work()
    last.record(stream)
    last.synchronize()
    return first.elapsed_time(last) / 1000
