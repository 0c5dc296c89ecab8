"""What is said while a run goes on, where nobody watches a bar."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from harness import progress

Clock = Callable[[float], None]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets time pass."""
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    return wait


def test_what_is_left_is_judged_by_what_was_done(wait: Clock) -> None:
    with progress.Progress(10, "audit") as bar:
        assert bar.line() == "audit  0 of 10"
        for _ in range(3):
            wait(12.0)
            bar.step("ngram gsm8k")
        assert bar.line() == "audit  3 of 10, about 84 s left"
        wait(10.0)  # within a long step
        assert bar.line() == "audit  3 of 10, about 74 s left"
        wait(100.0)
        assert bar.line() == "audit  3 of 10, about 0 s left"


def test_what_an_earlier_process_did_tells_nothing_of_the_pace(wait: Clock) -> None:
    with progress.Progress(100, "training", unit="step", first=40) as bar:
        assert bar.line() == "training  40 of 100"
        wait(20.0)
        bar.reach(50)
        assert bar.line() == "training  50 of 100, about 2 min left"  # not 20 s: 2 s a step
        bar.reach(60, total=80)
        assert bar.line() == "training  60 of 80, about 20 s left"


def test_what_follows_is_told_beside_what_is_left(wait: Clock) -> None:
    seconds = {"left": 60.0, "after": 300.0}
    with progress.Progress(4, left=lambda: seconds["left"], after=lambda: seconds["after"]) as bar:
        assert bar.line() == "answers  0 of 4, about 60 s left, 6 min to the end of the run"
        seconds.update(left=30.0, after=20.0)
        bar.step("ngram gsm8k")
        wait(5.0)
        assert bar.line() == "answers  1 of 4, about 25 s left, 45 s to the end of the run"


def test_a_redirected_run_is_heard_though_a_step_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    with progress.Progress(10, "audit"):
        time.sleep(0.2)
    heard = capsys.readouterr().err.splitlines()
    assert heard and set(heard) == {"audit  0 of 10"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_process_that_is_not_shown_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.01)
    with progress.Progress(2, shown=False) as bar:
        time.sleep(0.05)
        bar.step("ngram gsm8k")
    assert capsys.readouterr().err == ""


def test_a_line_comes_every_half_minute_and_says_hours_where_it_takes_hours() -> None:
    assert progress.LINE_EVERY_S == 30
    shown = [progress.duration(seconds) for seconds in (89, 90, 5399, 5400, 9000)]
    assert shown == ["89 s", "2 min", "90 min", "1.5 h", "2.5 h"]
