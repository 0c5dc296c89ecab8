"""The mark of methods whose code is not this project's, and what is said of all such code."""

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
    """File and digest of the foreign code of every method, of the target and of every task."""
    target, tasks = run.config["target"], run.config["tasks"]
    named: list[tuple[str, Mapping[str, Any]]] = [
        *((f"{MARK} {item['method']}", item) for item in run.methods),
        (f"target {target['name']}", target),
        *((f"task {item['task']}", item) for item in tasks),
    ]
    return [
        f"{name} is code from outside of this project, which may do anything while it is measured: "
        f"{form.text(found.get('file'))}, SHA-256 {form.text(found.get('sha256'))}."
        for name, item in named
        if (found := _foreign(item))
    ]


def _foreign(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """``file`` and ``sha256``; empty where the code is this project's, or the run does not tell."""
    found = item.get("foreign")
    return found if isinstance(found, Mapping) else {}
