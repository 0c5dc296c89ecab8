"""What a terminal shows: at most 80 columns, nothing that the pages do not say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import failure, write_run
from test_lead import refute, timed_run
from test_reports import drawn_run
from test_study_report import BUDGETS, by_budget

from harness.cli import main
from harness.records import Record
from reports.grid import Cell, Column, Row, Table
from reports.run import load_run
from reports.terminal import WIDTH, lines, publish_leaderboard, publish_study, shorten
from tests.study_directories import write_study

LONG = "combined+self_selection:chains=16:temperature=1.25:rule=multi_round@the-longest-label"


def summary(path: Path) -> list[str]:
    """Lines before the two paths."""
    page = publish_leaderboard([path], path, whole=False)
    *shown, blank, markdown, html = page.text.splitlines()
    assert (blank, markdown, html) == ("", str(page.markdown), str(page.html))
    assert max(map(len, shown)) <= WIDTH
    return shown


def test_rank_name_values_intervals_n_and_verdict_are_shown(tmp_path: Path) -> None:
    shown = summary(drawn_run(tmp_path / "run", {"combined": 0.05, "ngram": 0.09}))
    (head,) = (place for place, line in enumerate(shown) if line.startswith("rank"))
    assert shown[head].split() == ["rank", "drafter", "τ", "speedup", "n", "lossless"]
    first = shown[head + 1].split()
    assert first[:2] == ["1", "combined"] and first[-2:] == ["12", "–"]
    assert first[3].startswith("(") and first[4].endswith("×") and first[5].startswith("(")
    assert [line.split()[1] for line in shown[head + 1 : head + 4]] == [
        *("combined", "ngram", "ar_loop"),
    ]
    assert "Fastest drafter: combined" in " ".join(shown)


def test_long_names_are_shortened_in_the_middle(tmp_path: Path) -> None:
    shown = summary(drawn_run(tmp_path / "run", {LONG: 0.05, f"{LONG}-2": 0.05}))
    rows = [line for line in shown if "…" in line and "×" in line]
    assert len(rows) == 2 and all("  combin" in line for line in rows)
    assert any("l-2  " in line for line in rows)


def test_control_characters_are_visible_and_counted_as_they_are_shown(tmp_path: Path) -> None:
    label = "a@\x1bc\x9b31m" + "\x1b[2J" * 12
    shown = summary(drawn_run(tmp_path / "run", {label: 0.05}))
    assert not any(set(line) & {"\x1b", "\x9b"} for line in shown)
    assert any("a@\\x1b" in line for line in shown)


def test_a_refuted_drafter_is_struck_here_too(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"cheat": [2.0] * 6, "honest": [8.0] * 6})
    shown = summary(refute(path, "cheat"))
    (row,) = (line for line in shown if line.split()[1:2] == ["cheat"])
    assert row.split() == ["–", "cheat", "~~5.00~~", "~~5.00×~~", "6", "MISMATCH"]


def test_gaps_and_load_are_said(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"a": [5.0] * 6})
    made: list[Record] = [*load_run(path).generations[:-1], failure(method="a", prompt_id="5")]
    text = " ".join(summary(write_run(tmp_path / "other", made, dict(load_run(path).config))))
    assert "Failed: 1 answer, part of no number." in text and "Unfinished" not in text
    text = " ".join(summary(write_run(tmp_path / "cut", made[:-1], dict(load_run(path).config))))
    assert "Unfinished: up to 1 conversation of a method not asked yet." in text


def test_a_study_has_its_answer_and_the_headline_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_study(tmp_path / "s", BUDGETS, by_budget).directory
    page = publish_study(directory, directory, whole=False)
    *shown, _, _, _ = page.text.splitlines()
    assert max(map(len, shown)) <= WIDTH
    assert "There combined gains most: +16.7 %" in " ".join(shown)
    *name, low, _, high, seeds, prompts = shown[-1].split()
    assert name == ["combined", "3.50", "±", "0.00", "+16.7"]
    assert (low, high, seeds, prompts) == ("(+16.7", "+16.7)", "2", "12")
    assert main(["report", str(directory), "--markdown"]) == 0
    assert page.markdown.read_text(encoding="utf-8") in capsys.readouterr().out


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=300), st.integers(3, 80))
def test_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) == min(len(text), width)
    assert short[0:1] == text[0:1] and short[-1:] == text[-1:]


@given(
    st.lists(st.tuples(st.text(max_size=120), st.text(max_size=60)), min_size=1, max_size=4),
)
def test_no_row_is_wider_than_the_terminal(texts: list[tuple[str, str]]) -> None:
    columns = (Column(title="Drafter", kind="label"), Column(title="τ"))
    rows = tuple(Row(cells=(Cell(text=a), Cell(text=b))) for a, b in texts)
    found = lines(Table(title="", note="", columns=columns, rows=rows))
    assert len(found) == len(rows) + 1
    assert all(len(line) <= WIDTH and line.splitlines() in ([line], []) for line in found)
