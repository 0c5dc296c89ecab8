"""The numbers under the leaderboard: every metric by task, acceptance by position."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from harness.paired import Estimate
from harness.run_facts import MethodFacts
from reports import differences, load_mark, policies
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, mark_best
from reports.group import TOO_FEW, Comparison
from reports.run import Run
from reports.tables import OVERALL

_Score = Mapping[str, Any]


def _value(key: str, rule: Callable[[Any], str]) -> Callable[[_Score], Cell]:
    return lambda score: Cell(text=rule(score[key]), value=score[key])


def _range(key: str) -> Callable[[_Score], Cell]:
    return lambda score: Cell(
        text=form.interval(score[f"{key}_low"], score[f"{key}_high"]) or form.BLANK
    )


_TAU = "τ, accepted length"
_SPEEDUP = "Speedup"
_SPEED = "Decode speed"
_COUNTS = 5
"""Columns of `_TASK_COLUMNS` that hold neither τ nor a speed: the last ones."""
_TASK_COLUMNS: tuple[tuple[Column, Callable[[_Score], Cell]], ...] = (
    (Column(title="pooled", group=_TAU, markdown="τ"), _value("tau", form.ratio)),
    (Column(title="95 %", group=_TAU, markdown="τ 95 %", kind="text"), _range("tau")),
    (Column(title="macro", group=_TAU, markdown="τ macro"), _value("tau_macro", form.ratio)),
    (
        Column(
            title="pooled, uncut",
            group=_TAU,
            markdown="τ uncut",
        ),
        _value("tau_uncut", form.ratio),
    ),
    (
        Column(
            title="macro, uncut",
            group=_TAU,
            markdown="τ macro uncut",
        ),
        _value("tau_macro_uncut", form.ratio),
    ),
    (Column(title="Acceptance per node"), _value("node_acceptance_rate", form.ratio)),
    (
        Column(title="decode", group=_SPEEDUP, markdown="speedup"),
        _value("speedup", form.times),
    ),
    (
        Column(title="95 %", group=_SPEEDUP, markdown="speedup 95 %", kind="text"),
        _range("speedup"),
    ),
    (
        Column(title="decode, vs ar_loop", group=_SPEEDUP, markdown="speedup vs ar_loop"),
        _value("speedup_ar_loop", form.times),
    ),
    (
        Column(title="end to end", group=_SPEEDUP, markdown="end-to-end speedup"),
        _value("speedup_end_to_end", form.times),
    ),
    (
        Column(
            title="mean s/token: as DFlash takes it",
            group=_SPEEDUP,
            markdown="speedup of mean s/token (as DFlash takes it)",
        ),
        _value("speedup_dflash", form.times),
    ),
    (
        Column(
            title="mean tokens/s: as Spec-Bench takes it",
            group=_SPEEDUP,
            markdown="speedup of mean tokens/s (as Spec-Bench takes it)",
        ),
        _value("speedup_spec_bench", form.times),
    ),
    (Column(title="Tokens/s"), _value("tokens_per_s", form.rate)),
    (Column(title="Other load, cores"), _value("other_load", form.ratio)),
    (Column(title="n"), _value("num_generations", form.count)),
    (Column(title="No rounds"), _value("num_without_rounds", form.count)),
    (Column(title="Failed"), _value("num_failures", form.count)),
)


def task_table(group: Comparison) -> Table:
    """Every metric, by method and task."""
    rows = []
    for run, item in group.ranked():
        for task in (*group.first.tasks, OVERALL):
            score = group.score(run, item["method"], task)
            method = str(item["method"])
            values = [cell(score) for _, cell in _TASK_COLUMNS]
            cells = (
                load_mark.marked(group.label(run, method), run, method),
                group.task_label(task),
                *(group.speed(run, method, cell) for cell in values[:-_COUNTS]),
                *values[-_COUNTS:],
            )
            rows.append(Row(cells=cells, muted=item["kind"] == "baseline", total=task == OVERALL))
    return Table(
        title="Every number by task",
        note="Hold a published figure against the column that is named after where it comes from."
        + load_mark.meaning(rows),
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Task", kind="text"),
            *(column for column, _ in _TASK_COLUMNS),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


_ALL_PAIRS = 6
"""Drafters of a run that are compared each with each."""
_COMPARED = ("", TOO_FEW, "no speedup")


def difference_table(group: Comparison) -> Table | None:
    """Pairs of drafters of one run, faster one first; None where no run has two.

    Oracles, and drafters whose text is not shown to be the target's, have no speed to compare.
    Among many drafters those pairs whose difference has one name.
    """
    rows, left_out, told = [], 0, False
    for run in group.runs:
        methods = [
            item
            for other, item in group.ranked()
            if other is run and group.unranked(run, item) in _COMPARED
        ]
        pairs = list(itertools.combinations(methods, 2))
        if len(methods) > _ALL_PAIRS:
            kept = [pair for pair in pairs if policies.share_a_part(*pair)]
            left_out += len(pairs) - len(kept)
            pairs = kept
        named = [(str(first["method"]), str(second["method"])) for first, second in pairs]
        for pair in differences.of_pairs(run, named):
            told |= len(pair.untold) < 2
            cells = (
                load_mark.marked(group.label(run, pair.first), run, pair.first),
                load_mark.marked(Cell(text=pair.second), run, pair.second),
                _estimate(pair.tau, form.signed),
                Cell(text=form.spread(pair.tau.low, pair.tau.high) or form.BLANK),
                _estimate(pair.speed, form.times),
                Cell(text=form.spread(pair.speed.low, pair.speed.high) or form.BLANK),
                Cell(text=_verdict(pair)),
                Cell(text=form.count(pair.num_drafted), value=pair.num_drafted),
            )
            rows.append(Row(cells=cells))
    if not rows:
        return None
    return Table(
        title="Differences between drafters",
        note="On the answers both have, over all tasks: τ of the drafter less that of the other, "
        "and its decode speed over the other's. n counts the answers that τ compares."
        + (_INTERVALS if told else "")
        + load_mark.meaning(rows)
        + (
            f" {form.count(left_out)} pairs that have neither drafter nor test-time method in "
            "common are left out."
            if left_out
            else ""
        ),
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Against", kind="text"),
            Column(title="difference", group=_TAU, markdown="τ difference"),
            Column(title="95 %", group=_TAU, markdown="τ 95 %", kind="text"),
            Column(title="ratio", group=_SPEED, markdown="speed ratio"),
            Column(title="95 %", group=_SPEED, markdown="speed 95 %", kind="text"),
            Column(title="Differ", kind="text"),
            Column(title="n"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


_INTERVALS = " Intervals are paired, 95 % each; among many pairs a few differ by chance."


def _verdict(pair: differences.Difference) -> str:
    """What differs, and what could not be told."""
    if len(pair.untold) == 2:
        return form.BLANK
    told = ", ".join(pair.differs_in) or "no"
    return f"{told}; {pair.untold[0]} not told" if pair.untold else told


def _estimate(estimate: Estimate, rule: Callable[[float | None], str]) -> Cell:
    return Cell(text=rule(estimate.value), value=estimate.value)


def position_tables(group: Comparison) -> list[Table]:
    """Joint and conditional acceptance by position, and the accepted-length histogram.

    None where no method drafted.
    """
    if group.positions.empty:
        return []
    return [
        _rate_table(
            group,
            ("joint", None),
            "Joint acceptance J(k)",
            "Percent of all rounds that accepted at least k draft tokens; tasks pooled.",
        ),
        _rate_table(
            group,
            ("conditional", "num_reached"),
            "Conditional acceptance C(k)",
            "Percent that accepted the k-th draft token, given the k - 1 before it; tasks pooled."
            + (_CONDITIONAL_OF_TREES if group.has_trees else ""),
        ),
        _histogram_table(group),
    ]


_CONDITIONAL_OF_TREES = (
    " Where a tree accepted a shorter path to its end, no next token was on offer; the records do "
    "not tell, and it counts as refused."
)


def _rate_table(group: Comparison, keys: tuple[str, str | None], title: str, note: str) -> Table:
    """``keys`` are the columns of a rate and of the rounds it is a share of; None: of all."""
    depths = range(1, int(group.positions["k"].max()) + 1)
    columns = (
        Column(title="Drafter", kind="label"),
        Column(title="Rounds"),
        *_depth_columns(depths, "high"),
    )
    rate, total = keys
    rows = [
        Row(
            cells=(
                group.label(run, item["method"]),
                _rounds_cell(values),
                *(
                    _heat_cell(values[rate].get(k), values[total].get(k) if total else None)
                    for k in depths
                ),
            ),
            unranked=bool(group.unranked(run, item)),
        )
        for run, item, values in _positions(group)
    ]
    return Table(
        title=title,
        note=note,
        columns=columns,
        rows=mark_best(columns, rows),
        badge=group.badge,
    )


def _histogram_table(group: Comparison) -> Table:
    depths = range(int(group.positions["k"].max()) + 1)
    rows = []
    for run, item, values in _positions(group):
        bars = tuple(values["share"].values())
        cells = (
            group.label(run, item["method"]),
            Cell(text=form.sparkline(bars), bars=bars),
            _rounds_cell(values),
            *(_heat_cell(values["share"].get(k)) for k in depths),
        )
        rows.append(Row(cells=cells))
    return Table(
        title="Accepted draft tokens a round",
        note="Percent of rounds that accepted exactly k draft tokens, the token that the target "
        "adds not counted; tasks pooled.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Shape", kind="text"),
            Column(title="Rounds"),
            *_depth_columns(depths, None),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def _depth_columns(depths: range, best: Any) -> list[Column]:
    return [
        Column(title=str(k), group="k, draft tokens", markdown=f"k = {k}", best=best)
        for k in depths
    ]


def _positions(
    group: Comparison,
) -> list[tuple[Run, MethodFacts, Mapping[str, Mapping[int, float]]]]:
    """For each method that drafted: its run, its facts, and column → k → value."""
    found: list[tuple[Run, MethodFacts, Mapping[str, Mapping[int, float]]]] = []
    frame = group.positions
    for run, item in group.ranked():
        own = frame[(frame["run_id"] == run.run_id) & (frame["method"] == item["method"])]
        if not own.empty:
            values: dict[Any, Any] = own.drop(columns=["run_id", "method"]).set_index("k").to_dict()
            found.append((run, item, values))
    return found


def _rounds_cell(values: Mapping[str, Mapping[int, float]]) -> Cell:
    num_rounds = sum(values["num_rounds"].values())
    return Cell(text=form.count(num_rounds), value=num_rounds)


def _heat_cell(value: float | None, num_rounds: float | None = None) -> Cell:
    """A share, and the rounds it is a share of for who asks."""
    if value is None or math.isnan(value):
        return Cell(text=form.BLANK)
    title = f"of {form.counted(int(num_rounds), 'round')}" if num_rounds else ""
    return Cell(text=form.share(value), value=value, heat=value, title=title)
