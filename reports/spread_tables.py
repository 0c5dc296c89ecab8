"""How far τ and speedup vary over repeats of a run, and over training seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean

from harness import metrics
from harness.paired import or_none
from harness.records import Generation
from harness.run_facts import MethodFacts, TrainingFacts
from harness.spread import spread
from reports import formatting as form
from reports import load_mark
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison
from reports.policies import stack
from reports.run import Run
from reports.tables import OVERALL

Values = tuple[float | None, float | None]
"""τ and speedup."""

_NOT_THE_RECIPE = ("seed", "measured", "train_s", "commit", "dirty", "hardware", "versions")
"""Facts of a training that another seed, day or machine changes."""


def repeat_table(group: Comparison) -> Table | None:
    """Every drafter and task over the repeats; None where no run has two."""
    rows: list[Row] = []
    for run, item in group.ranked():
        if item["kind"] == "baseline" or run.config["repeats"] < 2:
            continue
        method = str(item["method"])
        name = load_mark.marked(group.label(run, method), run, method)
        by_repeat = _by_repeat(run, item["method"], group.headline)
        for index, task in enumerate((*run.tasks, OVERALL)):
            cells = [
                group.speed(run, method, cell)
                for cell in _spread_cells([values[index] for values in by_repeat])
            ]
            label = group.task_label(task)
            rows.append(Row(cells=(name, label, *cells), total=task == OVERALL))
    if not rows:
        return None
    return Table(
        title="Over repeats",
        note="Mean ± standard deviation of the values of single repeats (n - 1 in its divisor), "
        "each speedup over the baseline's answers of the same repeat. n counts repeats that have "
        "a value." + load_mark.meaning(rows),
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Task", kind="text"),
            Column(title="τ"),
            Column(title="Decode speedup"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def seed_table(group: Comparison) -> Table | None:
    """Drafters trained alike with several seeds; None where there is none."""
    rows = []
    for (drafter, *_), by_seed in _trainings(group).items():
        if len(by_seed) < 2:
            continue
        # A seed that was measured twice, in two runs perhaps, is still one training.
        values = [
            (_mean([tau for tau, _ in measured]), _mean([speed for _, speed in measured]))
            for measured in by_seed.values()
        ]
        seeds = ", ".join(map(str, sorted(by_seed)))
        cells = (Cell(text=drafter), Cell(text=seeds), *_spread_cells(values))
        rows.append(Row(cells=cells))
    if not rows:
        return None
    return Table(
        title="Over training seeds",
        note="Drafters that differ in nothing but the seed of their training: mean ± standard "
        "deviation of overall τ and overall speedup (n - 1 in its divisor), n seeds.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Seeds", kind="text"),
            Column(title="τ"),
            Column(title="Decode speedup"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def _by_repeat(run: Run, method: str, headline: str | None) -> list[list[Values]]:
    """For each repeat: the values of every task, then those over all."""
    own, baseline = _parts(run, method), _parts(run, headline) if headline else {}
    found = []
    for repeat in sorted({repeat for repeat, _ in own}):
        taus, speeds = [], []
        for task in run.tasks:
            answers = own.get((repeat, task), [])
            taus.append(or_none(metrics.tau, answers))
            speeds.append(or_none(metrics.speedup, baseline.get((repeat, task), []), answers))
        overall = (
            or_none(metrics.overall_mean, taus),
            or_none(metrics.overall_geometric_mean, speeds),
        )
        found.append([*zip(taus, speeds, strict=True), overall])
    return found


def _parts(run: Run, method: str) -> dict[tuple[int, str], list[Generation]]:
    """Answers of one method by repeat and task."""
    parts: dict[tuple[int, str], list[Generation]] = {}
    for item in run.of(method):
        parts.setdefault((item.repeat, item.task), []).append(item)
    return parts


def _trainings(group: Comparison) -> dict[tuple[str, str], dict[int, list[Values]]]:
    """Drafter and recipe, to each training seed's overall values, one for each time measured."""
    found: dict[tuple[str, str], dict[int, list[Values]]] = {}
    for run, item in group.ranked():
        training = (item.get("checkpoint") or {}).get("training") or {}
        if "seed" not in training or group.is_refuted(run, item["method"]):
            continue
        score = group.score(run, item["method"])
        name = "+".join(filter(None, (str(item.get("drafter", item["method"])), stack(item))))
        by_seed = found.setdefault((name, recipe(item, training)), {})
        by_seed.setdefault(training["seed"], []).append((score["tau"], score["speedup"]))
    return found


def recipe(item: MethodFacts, training: TrainingFacts) -> str:
    """Everything that two methods must share to be one drafter with two seeds."""
    use = [item.get(name) for name in ("block_size", "draft", "draft_vocab_size")]
    facts = {name: value for name, value in training.items() if name not in _NOT_THE_RECIPE}
    return json.dumps([use, facts], sort_keys=True)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _spread_cells(values: Sequence[Values]) -> list[Cell]:
    return [_spread_cell([tau for tau, _ in values]), _spread_cell([speed for _, speed in values])]


def _spread_cell(values: Sequence[float | None]) -> Cell:
    found = or_none(spread, values)
    if found is None:
        return Cell(text=form.BLANK)
    return Cell(
        text=form.mean_sd(found.mean, found.sd), value=found.mean, detail=f"n = {found.num}"
    )
