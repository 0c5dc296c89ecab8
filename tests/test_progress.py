"""What is said while a run goes on, where nobody watches a bar."""

from __future__ import annotations

import pytest

from harness import progress


def test_a_redirected_run_says_every_half_minute_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Progress(10, "audit") as bar:
        for _ in range(7):
            now += 12.0
            bar.step("ngram gsm8k")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["audit  3 of 10, about 84 s left", "audit  6 of 10, about 48 s left"]


def test_a_process_that_is_not_shown_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Progress(2, shown=False) as bar:
        now += 60.0
        bar.step("ngram gsm8k")
    assert capsys.readouterr().err == ""
