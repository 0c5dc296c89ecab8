"""The mark of methods whose code is not this project's, and its footnote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reports import formatting as form
from reports.grid import Cell
from reports.run import Run

MARK = "†"


def marked(label: Cell, item: Mapping[str, Any]) -> Cell:
    """The label of a method's row, with the mark where it has one."""
    return replace(label, text=label.text + MARK) if _foreign(item) else label


def footnotes(run: Run) -> list[str]:
    """File and digest of every method's foreign code."""
    return [
        f"{MARK} {item['method']} is code from outside of this project, which may do anything "
        f"while it is measured: {form.text(found.get('file'))}, SHA-256 "
        f"{form.text(found.get('sha256'))}."
        for item in run.methods
        if (found := _foreign(item))
    ]


def _foreign(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """``file`` and ``sha256``; empty where the code is this project's, or the run does not tell."""
    found = item.get("foreign")
    return found if isinstance(found, Mapping) else {}
