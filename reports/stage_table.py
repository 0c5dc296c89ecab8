"""Where a round's time goes, and the speedup that it predicts."""

from __future__ import annotations

from collections.abc import Mapping

from harness import metrics
from harness.metrics import NoData
from harness.stages import StageTimes, predicted_speedup
from reports import formatting as form
from reports import load_mark
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison
from reports.run import Run


def stage_table(group: Comparison) -> Table | None:
    """Stage times of every method that was timed so; None where no run has any."""
    rows = []
    for run, item in group.ranked():
        method = str(item["method"])
        if run.stages is not None and method in run.stages.methods:
            cells = _cells(group, run, method, run.stages.methods)
            rows.append(Row(cells=cells, muted=item["kind"] == "baseline"))
    if not rows:
        return None
    lengths = sorted({run.stages.num_context_tokens for run in group.runs if run.stages})
    return Table(
        title="Where a round's time goes",
        note="Medians, measured apart from the timed answers behind "
        f"{' and '.join(map(str, lengths))} tokens of context. Predicted speedup is τ times a "
        "round of ar_loop over the method's; overhead is what a round of the timed answers took "
        "beyond the sum of its parts." + load_mark.meaning(rows),
        columns=(
            Column(title="Drafter", kind="label"),
            *(
                Column(title=part, group="Milliseconds", markdown=f"{part} ms")
                for part in ("draft", "verify", "commit")
            ),
            Column(title="Rounds of ar_loop"),
            Column(title="τ"),
            Column(title="predicted", group="Speedup over ar_loop", markdown="predicted speedup"),
            Column(title="measured", group="Speedup over ar_loop", markdown="measured speedup"),
            Column(title="Overhead ms"),
            Column(title="Rounds timed"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def _cells(
    group: Comparison, run: Run, method: str, stages: Mapping[str, StageTimes]
) -> tuple[Cell, ...]:
    times, ar_loop = stages[method], stages["ar_loop"]
    score = group.score(run, method)
    tau, measured = score["tau"], score["speedup_ar_loop"]
    predicted = None if tau is None else predicted_speedup(tau, times, ar_loop)
    try:
        overhead = metrics.seconds_per_round(run.of(method)) - times.round_s
    except NoData:
        overhead = None
    cost = times.round_s / ar_loop.round_s
    return (
        load_mark.marked(group.label(run, method), run, method),
        *map(_ms, times.medians.values()),
        Cell(text=form.ratio(cost), value=cost),
        *(
            group.speed(run, method, Cell(text=rule(value), value=value))
            for rule, value in (
                (form.ratio, tau),
                (form.times, predicted),
                (form.times, measured),
            )
        ),
        _ms(overhead),
        Cell(text=form.count(len(times.draft_s)), value=len(times.draft_s)),
    )


def _ms(seconds: float | None) -> Cell:
    return Cell(text=form.milliseconds(seconds), value=seconds)
