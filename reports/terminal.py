"""What a terminal of 80 columns shows of the pages: the answer, a short table, and the paths."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.visible import visible
from reports import foreign_mark, load_mark
from reports.grid import Cell, Table
from reports.render import Section, sections, write_pages
from reports.study_page import study_report, write_report

WIDTH = 80
"""Columns; only paths, which are there to be copied, may be longer."""

_BOARD = ("Rank", "Drafter", "τ", "speedup", "n", "Lossless")
"""Columns of the leaderboard that are shown, by their names in Markdown."""
_SHORTEST = 8
"""Characters of a name that always show."""
_MARKS = {
    load_mark.MARK: "measured beside other work, so times are less certain",
    foreign_mark.MARK: "code from outside of this project",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Pages as they were written, and what is to be printed of them."""

    text: str
    markdown: Path
    html: Path


def publish_leaderboard(run_dirs: Sequence[Path], output_dir: Path, *, whole: bool) -> Published:
    """Write the leaderboard of runs.

    Args:
        run_dirs: read together.
        output_dir: where the pages go.
        whole: print the page in Markdown, not a summary.

    Raises:
        UserError: a run directory cannot be read, or the output cannot be written.
    """
    found = sections(run_dirs)
    markdown, html = write_pages(found, output_dir)
    summary = "\n\n".join("\n".join(_section(item)) for item in found)
    return _published(markdown, html, summary, whole)


def publish_study(directory: Path, output_dir: Path, *, whole: bool) -> Published:
    """Write the report of a study; as `publish_leaderboard`."""
    report = study_report(directory)
    markdown, html = write_report(report, output_dir)
    parts = [shorten(visible(report.title)), "", *_wrapped(report.lead)]
    if report.short is not None:
        parts += ["", *lines(report.short)]
    return _published(markdown, html, "\n".join(parts), whole)


def lines(grid: Table, width: int = WIDTH) -> list[str]:
    """A table as plain text of at most ``width`` columns: its labels give way."""
    heads = [(column.markdown or column.title).lower() for column in grid.columns]
    rows = [heads, *([_text(cell) for cell in row.cells] for row in grid.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    label = next(i for i, column in enumerate(grid.columns) if column.kind == "label")
    others = sum(widths) - widths[label] + 2 * (len(widths) - 1)
    widths[label] = min(widths[label], max(_SHORTEST, width - others))
    found = []
    for row in rows:
        row[label] = shorten(row[label], widths[label])
        cells = [
            text.rjust(size) if column.kind in ("number", "rank") else text.ljust(size)
            for text, size, column in zip(row, widths, grid.columns, strict=True)
        ]
        found.append(shorten("  ".join(cells).rstrip(), width))
    return found


def shorten(text: str, width: int = WIDTH) -> str:
    """Text of at most ``width`` characters: its middle is left out where it is longer.

    Control characters must be visible already, for an escape is longer than what it stands for.
    """
    if len(text) <= width:
        return text
    kept = width - 1
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _published(markdown: Path, html: Path, summary: str, whole: bool) -> Published:
    text = markdown.read_text(encoding="utf-8") if whole else f"{summary}\n\n{markdown}\n{html}"
    return Published(text=text, markdown=markdown, html=html)


def _section(section: Section) -> Iterator[str]:
    yield shorten(visible(section.title))
    if section.badge:
        yield from _wrapped(f"⚠ {section.badge}")
    if section.lead:
        yield ""
        yield from _wrapped(section.lead)
    board = _board(section.main)
    shown = lines(board)
    yield ""
    yield from shown
    for mark, meaning in _MARKS.items():
        if any(mark in cell.text for row in board.rows for cell in row.cells):
            yield f"{mark} {meaning}"


def _board(main: Table) -> Table:
    """The leaderboard in six columns."""
    names = [column.markdown or column.title for column in main.columns]
    places = [names.index(name) for name in _BOARD]
    columns = tuple(replace(main.columns[place], flagged=False) for place in places)
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in places)) for row in main.rows)
    return replace(main, columns=columns, rows=rows)


def _text(cell: Cell) -> str:
    """A cell; the reason of a strike stands in the last column, a share of answers is short."""
    text = visible(" ".join(cell.text.split()))
    if cell.struck:
        return f"~~{text}~~"
    detail = cell.detail.replace(" audited", "").replace(" of ", "/")
    return f"{text} ({detail})" if detail else text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(visible(text), WIDTH)
