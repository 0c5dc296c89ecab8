"""The mark of rows that were measured beside other work, and its footnote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.load import DISTURBED_CORES, disturbance
from reports import formatting as form
from reports.grid import Cell, Row
from reports.run import Run

MARK = "°"
_MEANING = f" {MARK} measured beside other work, so times are less certain: see the notes."


def marked(label: Cell, run: Run, method: str) -> Cell:
    """The label of a method's row, or a time of it, with the mark where it has one."""
    cores = disturbance(run.of(method))
    if cores is None or label.text == form.BLANK:
        return label
    return replace(label, text=label.text + MARK, title=f"other load {cores:.2f} cores")


def meaning(rows: Sequence[Row]) -> str:
    """What the mark means, for the note of a table below the main one; empty where none has it."""
    cells = (cell for row in rows for cell in row.cells)
    return _MEANING if any(cell.text.endswith(MARK) for cell in cells) else ""


def loads(run: Run, methods: Iterable[str]) -> str:
    """The methods that have the mark, each with its load; empty where none has it."""
    found = {name: disturbance(run.of(name)) for name in methods}
    return ", ".join(f"{name} {cores:.2f}" for name, cores in found.items() if cores is not None)


def footnote(run: Run) -> list[str]:
    """What the mark means, and the load of every row that has it; nothing where none does."""
    shown = loads(run, (str(item["method"]) for item in run.methods))
    if not shown:
        return []
    return [
        f"{MARK} other processes kept more than {DISTURBED_CORES} cores busy during the median "
        f"answer, so its times are less certain ({shown} cores)."
    ]
