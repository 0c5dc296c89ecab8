"""How many correct draft tokens were thrown away."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics import overall_mean
from harness.paired import or_none
from harness.waste import Slots, slots
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison
from reports.tables import OVERALL

_SHARES = "Percent of slots"
_WASTE = "Percent wasted"


def waste_table(group: Comparison) -> Table | None:
    """By drafter and task, without trees; None where nothing but trees was drafted."""
    rows: list[Row] = []
    for run, item in group.ranked():
        if item["kind"] == "baseline":
            continue
        name = group.label(run, item["method"])
        found = [or_none(slots, run.of(item["method"], task)) for task in run.tasks]
        if all(part is None for part in found):
            continue
        by_task = [
            Row(cells=(name, group.task_label(task), *_cells([part])))
            for task, part in zip(run.tasks, found, strict=True)
        ]
        total = Row(cells=(name, group.task_label(OVERALL), *_cells(found)), total=True)
        rows += [*by_task, total]
    if not rows:
        return None
    return Table(
        title="Correct draft tokens thrown away",
        note="Slots are draft tokens and bonuses; Waste, below, says what is accepted and what is "
        "correct. Left out of every share: slots behind the end of an answer."
        + (_OF_TREES if group.has_trees else ""),
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Task", kind="text"),
            Column(title="accept", group=_SHARES, markdown="accept %"),
            Column(title="correct", group=_SHARES, markdown="correct %"),
            Column(title="of slots", group=_WASTE, markdown="waste %"),
            Column(title="of drafts", group=_WASTE, markdown="waste of drafts %"),
            Column(title="Slots"),
            Column(title="Left out"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


_OF_TREES = " Trees are left out: records hold one path of each, not every slot."


def _cells(tasks: Sequence[Slots | None]) -> list[Cell]:
    """Shares, the mean of the tasks' own; slots judged and left out, their sum."""
    known = [part for part in tasks if part is not None]
    shares = [
        (part.accept, part.correct, part.waste, part.draft_waste) if part else (None,) * 4
        for part in tasks
    ]
    means = [or_none(overall_mean, column) for column in zip(*shares, strict=True)]
    sums = (sum(part.judged for part in known), sum(part.behind_end for part in known))
    return [
        *(Cell(text=form.share(value), value=value) for value in means),
        *(Cell(text=form.count(value), value=value) if known else _BLANK for value in sums),
    ]


_BLANK = Cell(text=form.BLANK)
