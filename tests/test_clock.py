"""Clocks."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from harness.clock import CudaClock, FakeClock, WallClock, clock_for


def test_the_wall_clock_goes_forward() -> None:
    clock = WallClock()
    first = clock.now()
    assert sum(range(10_000)) == 49_995_000
    assert clock.now() > first


def test_the_fake_clock_shows_what_it_is_told() -> None:
    clock = FakeClock(2.0)
    clock.advance(0.5)
    assert clock.now() == 2.5


def test_each_device_gets_its_clock() -> None:
    assert isinstance(clock_for(torch.device("cpu")), WallClock)
    assert isinstance(clock_for(torch.device("cuda")), CudaClock)


class FakeEvent:
    """Stamped, once it is waited for, with the next of the times given."""

    stamps_ms: ClassVar[list[float]] = []

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream == "stream of cuda:1"

    def synchronize(self) -> None:
        self.stamp_ms = self.stamps_ms.pop(0)

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.stamp_ms - self.stamp_ms


def test_the_cuda_clock_reads_finished_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEvent, "stamps_ms", [7000.0, 7250.0, 9000.0])
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    clock = CudaClock(torch.device("cuda", 1))
    assert [clock.now() for _ in range(3)] == [0.0, 0.25, 2.0]
