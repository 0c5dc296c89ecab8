"""A table as both formats draw it: columns, rows and cells, already in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One value, and how to show it."""

    text: str
    value: float | None = None
    """What it sorts by; None sorts by text, and a blank last."""
    detail: str = ""
    """A second, smaller line."""
    title: str = ""
    """The whole of something shown in part."""
    best: bool = False
    struck: bool = False
    """Shown crossed out: measured, and refuted. Never best, and last in any order."""
    heat: float | None = None
    """0 to 1: how strongly the cell is tinted."""
    bars: tuple[float, ...] = ()
    """Heights of a small bar chart that stands for the text in HTML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column."""

    title: str
    group: str = ""
    """Title over neighbouring columns."""
    markdown: str = ""
    """Title where there is no such row; the title itself if empty."""
    kind: Literal["number", "text", "wide", "rank", "label"] = "number"
    """``label`` names the row; ``wide`` may break over lines."""
    best: Literal["high", "low"] | None = None
    """Which end is marked."""
    flagged: bool = False
    """Whether its values come from samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row."""

    cells: tuple[Cell, ...]
    muted: bool = False
    """Set apart: a baseline."""
    unranked: bool = False
    """Never marked best: it does not compete, or nothing shows where it stands."""
    total: bool = False
    """Sums up the rows before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table."""

    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    badge: str = ""
    """A warning that goes wherever the table goes."""

    @property
    def column_groups(self) -> list[tuple[str, int]]:
        """Titles over neighbouring columns, and how many each spans."""
        groups: list[tuple[str, int]] = []
        for column in self.columns:
            if groups and column.group and groups[-1][0] == column.group:
                groups[-1] = (column.group, groups[-1][1] + 1)
            else:
                groups.append((column.group, 1))
        return groups


def has_ranges(rows: Sequence[Row]) -> bool:
    """Whether a value has something behind it: an interval, in the tables that ask."""
    return any(
        cell.detail and cell.value is not None and not cell.struck
        for row in rows
        for cell in row.cells
    )


def mark_best(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows with the best value of every column marked; ties at the printed precision share it.

    A column whose values all print alike has no best one.
    """
    chosen: list[str | None] = []
    for index, column in enumerate(columns):
        cells = [
            row.cells[index]
            for row in rows
            if row.cells[index].value is not None
            and not row.cells[index].struck
            and not row.unranked
        ]
        if column.best is None or len({cell.text for cell in cells}) < 2:
            chosen.append(None)
            continue
        pick = max if column.best == "high" else min
        chosen.append(pick(cells, key=lambda cell: cell.value or 0.0).text)
    return tuple(
        replace(
            row,
            cells=tuple(
                replace(cell, best=cell.text == best and not cell.struck and not row.unranked)
                for cell, best in zip(row.cells, chosen, strict=True)
            ),
        )
        for row in rows
    )
