"""Tables and names in Markdown that reads well as plain text too."""

from __future__ import annotations

import re

from harness.visible import visible
from reports.grid import Cell, Column, Table

_SPECIAL = re.compile(r"([\\`*\[\]|#~$])")


def escape(text: str) -> str:
    """Text that means only itself: no markup, no HTML, no line break.

    An underscore inside a word is left alone, as Markdown does.
    """
    text = (
        visible(" ".join(text.split()))
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
    )
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", _SPECIAL.sub(r"\\\1", text))


def table(grid: Table) -> str:
    """A pipe table, its columns padded to one width."""
    lines = [[escape(_title(column)) for column in grid.columns]]
    lines += [[_cell(cell) for cell in row.cells] for row in grid.rows]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(grid.columns))]
    right = [column.kind in ("number", "rank") for column in grid.columns]
    rule = [
        "-" * (width - 1) + (":" if end else "-") for width, end in zip(widths, right, strict=True)
    ]
    padded = [
        [
            text.rjust(width) if end else text.ljust(width)
            for text, width, end in zip(line, widths, right, strict=True)
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:]))


def _title(column: Column) -> str:
    return (column.markdown or column.title) + (" (samples)" if column.flagged else "")


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = f"~~{text}~~" if cell.struck else f"**{text}**" if cell.best else text
    return f"{text} ({escape(cell.detail)})" if cell.detail else text
