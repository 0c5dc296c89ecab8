"""What `compare` prints: Markdown for a reader, and one JSON object for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from harness.paired import Estimate
from reports import formatting as form
from reports import markdown
from reports.compare import RunComparison
from reports.grid import Cell, Column, Row, Table
from reports.tables import OVERALL


def page(comparison: RunComparison) -> str:
    """Both runs, what differs, the table, and what was left out."""
    lines = ["# Two runs compared", ""]
    for label, run in (("A", comparison.run_a), ("B", comparison.run_b)):
        where = run.environment
        code = form.commit(where["commit"], where["dirty"])
        place = f"commit {code}, {where['started_at']}"
        lines.append(f"- {label}: {markdown.escape(f'{run.run_id} ({place})')}")
    lines.append(f"- Speedups divide by {comparison.baseline} of the same run.")
    lines += [f"- {markdown.escape(note)}" for note in comparison.notes]
    lines += [
        f"- MISMATCH in {label}: {markdown.escape(', '.join(methods))}; struck out below."
        for label, methods in comparison.refuted.items()
        if methods
    ]
    if comparison.differences:
        lines += ["", "**⚠ The runs differ in more than their drafters:**", ""]
        lines += [f"- {markdown.escape(text)}" for text in comparison.differences]
    lines += ["", markdown.table(change_table(comparison)), "", _NOTE, "", "## Left out", ""]
    dropped = dropped_table(comparison)
    lines.append(markdown.table(dropped) if dropped.rows else "Nothing: both runs answered alike.")
    return "\n".join(lines)


_NOTE = (
    "In brackets: 95 % intervals, paired and by conversation; they hold the spread over prompts. "
    "Bold: the interval excludes no difference. Speedup B / A compares speedups over each run's "
    "own baseline; tokens/s B / A is as measured, the state of the machine included."
)


def summary(comparison: RunComparison) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "run_a": comparison.run_a.run_id,
        "run_b": comparison.run_b.run_id,
        "baseline": comparison.baseline,
        "differences": list(comparison.differences),
        "refuted": {label: list(methods) for label, methods in comparison.refuted.items()},
        "dropped": [
            {"run": label, "task": task, "reason": reason, "num_answers": number}
            for (label, task, reason), number in sorted(comparison.dropped.items())
        ],
        "changes": [dataclasses.asdict(change) for change in comparison.changes],
    }


def change_table(comparison: RunComparison) -> Table:
    """One row per method and task, then overall."""
    rows = []
    for item in comparison.changes:
        in_a, in_b = (item.method in comparison.refuted[label] for label in ("A", "B"))
        cells = (
            Cell(text=item.method),
            Cell(text=item.task),
            Cell(text=form.count(item.num_answers)),
            _cell(item.tau_a, form.ratio, struck=in_a),
            _cell(item.tau_b, form.ratio, struck=in_b),
            _cell(item.tau_difference, form.signed, neutral=0, struck=in_a or in_b),
            _cell(item.speedup_a, form.times, struck=in_a),
            _cell(item.speedup_b, form.times, struck=in_b),
            _cell(item.speedup_ratio, form.ratio, neutral=1, struck=in_a or in_b),
            _cell(item.speed_ratio, form.ratio, neutral=1, struck=in_a or in_b),
        )
        rows.append(Row(cells=cells, total=item.task == OVERALL))
    return Table(
        title="Changes",
        note=_NOTE,
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Task", kind="text"),
            Column(title="Answers"),
            Column(title="τ A"),
            Column(title="τ B"),
            Column(title="τ B − A"),
            Column(title="speedup A"),
            Column(title="speedup B"),
            Column(title="speedup B / A"),
            Column(title="tokens/s B / A"),
        ),
        rows=tuple(rows),
    )


def dropped_table(comparison: RunComparison) -> Table:
    """Answers left out, by run, task and reason."""
    return Table(
        title="Left out",
        note="",
        columns=(
            Column(title="Run", kind="label"),
            Column(title="Task", kind="text"),
            Column(title="Reason", kind="text"),
            Column(title="Answers"),
        ),
        rows=tuple(
            Row(cells=(*(Cell(text=text) for text in key), Cell(text=form.count(number))))
            for key, number in sorted(comparison.dropped.items())
        ),
    )


def _cell(
    estimate: Estimate,
    rule: Callable[[float | None], str],
    *,
    struck: bool,
    neutral: float | None = None,
) -> Cell:
    """A value with its interval; bold where that excludes ``neutral``."""
    return Cell(
        text=rule(estimate.value),
        value=estimate.value,
        detail=form.spread(estimate.low, estimate.high),
        best=neutral is not None and estimate.excludes(neutral),
        struck=struck and estimate.value is not None,
    )
