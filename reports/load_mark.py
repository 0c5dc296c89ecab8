"""The mark of rows that were measured beside other work, and its footnote."""

from __future__ import annotations

from dataclasses import replace

from harness.load import DISTURBED_CORES, disturbance
from reports.grid import Cell
from reports.run import Run

_MARK = "°"


def marked(label: Cell, run: Run, method: str) -> Cell:
    """The label of a method's row, with the mark where it has one."""
    cores = disturbance(run.of(method))
    if cores is None:
        return label
    return replace(label, text=label.text + _MARK, title=f"other load {cores:.2f} cores")


def footnote(run: Run) -> list[str]:
    """What the mark means, and the load of every row that has it; nothing where none does."""
    names = [str(item["method"]) for item in run.methods]
    found = {name: disturbance(run.of(name)) for name in names}
    loads = [f"{name} {cores:.2f}" for name, cores in found.items() if cores is not None]
    if not loads:
        return []
    return [
        f"{_MARK} other processes kept more than {DISTURBED_CORES} cores busy during the median "
        f"answer, so its times are less certain ({', '.join(loads)} cores)."
    ]
