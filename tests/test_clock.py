"""Clocks."""

from __future__ import annotations

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


def test_the_cuda_clock_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    device = torch.device("cuda", 1)
    assert CudaClock(device).now() > 0
    assert waited == [device]
