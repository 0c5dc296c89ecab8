"""The load of other processes: measured, kept in records, judged."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import generation

from harness import load
from harness.load import DISTURBED_CORES, MIN_WALL_S, OtherLoad, disturbance, mean_cores
from harness.records import Generation, from_json, to_json


class Machine:
    """Counters and clocks that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.own_s = 0.0
        self.counters = dict.fromkeys(("user", "nice", "system", "idle", "iowait", "steal"), 100.0)
        clocks = SimpleNamespace(perf_counter=lambda: self.wall_s, process_time=lambda: self.own_s)
        monkeypatch.setattr(load, "time", clocks)
        monkeypatch.setattr(psutil, "cpu_times", self.read)

    def read(self) -> SimpleNamespace:
        counters = dict(self.counters)
        return SimpleNamespace(_asdict=lambda: counters)

    def other_load(self, wall_s: float, own_s: float, **spent: float) -> float | None:
        """What is measured while these seconds go by."""
        with OtherLoad() as measured:
            self.wall_s += wall_s
            self.own_s += own_s
            for name, seconds in spent.items():
                self.counters[name] += seconds
        return measured.cores


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_own_work_is_no_load(machine: Machine) -> None:
    assert machine.other_load(2.0, 4.0, user=3.5, system=0.5) == 0.0
    assert machine.other_load(2.0, 1.0, user=4.0) == 1.5
    assert machine.other_load(2.0, 1.0, user=0.5, nice=1.0, steal=1.5) == 1.0
    assert machine.other_load(2.0, 0.0, idle=3.0, iowait=1.0) == 0.0


def test_ticks_that_lag_behind_make_no_negative_load(machine: Machine) -> None:
    assert machine.other_load(1.0, 1.0, user=0.99, idle=1.0) == 0.0


def test_a_short_answer_has_no_load(machine: Machine) -> None:
    assert machine.other_load(MIN_WALL_S * 0.99, 0.0, user=1.0) is None
    assert machine.other_load(MIN_WALL_S, 0.0, user=1.0) == 1.0 / MIN_WALL_S


def test_a_system_that_does_not_tell_has_no_load(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.other_load(1.0, 1.0) is None  # counters that stand still

    def refuse() -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    assert machine.other_load(1.0, 1.0) is None


def test_a_busy_process_is_seen() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with OtherLoad() as measured:
            time.sleep(1.5 * MIN_WALL_S)
    finally:
        busy.kill()
        busy.wait()
    if measured.cores is None:
        pytest.skip("this system does not tell how busy it is")
    assert measured.cores > 0.5


@pytest.mark.parametrize(
    ("value", "why"),
    [(-0.01, "other_load"), (float("nan"), "no number"), (float("inf"), "no number")],
)
def test_records_refuse_what_is_no_load(value: float, why: str) -> None:
    with pytest.raises(ValueError, match="other_load"):
        generation(accepted=[1], other_load=value)
    line = json.loads(to_json(generation(accepted=[1])))
    with pytest.raises(ValueError, match=why):
        from_json(json.dumps({**line, "other_load": value}))


@given(st.none() | st.floats(min_value=0, max_value=65_536))
def test_records_keep_the_load(value: float | None) -> None:
    made = generation(accepted=[1], other_load=value)
    assert from_json(to_json(made)) == made


def test_records_from_before_the_load_can_be_read() -> None:
    made = generation(accepted=[1])
    line = json.loads(to_json(made))
    del line["other_load"]
    assert from_json(json.dumps(line)) == made
    assert made.other_load is None


def answers(*loads: float | None) -> list[Generation]:
    made = generation(accepted=[1])
    return [dataclasses.replace(made, other_load=value) for value in loads]


def test_a_row_is_judged_by_its_median() -> None:
    assert disturbance(answers(0.1, 0.3, 0.4)) == 0.3
    assert disturbance(answers(0.0, 0.1, 9.0)) is None
    assert disturbance(answers(DISTURBED_CORES)) is None
    assert disturbance(answers(None, 0.5, None)) == 0.5
    assert disturbance(answers(None)) is disturbance([]) is None


def test_the_mean_is_of_the_answers_that_tell() -> None:
    assert mean_cores(answers(0.1, None, 0.3)) == pytest.approx(0.2)
    assert mean_cores(answers(None)) is None
