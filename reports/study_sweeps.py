"""Sweeps of a study: along one number or axis, block sizes in use, responses trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drafters.block_diffusion.objectives import Objective
from harness import study_metrics
from harness.study import Recipe, row_facts
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, has_ranges
from reports.study_view import (
    AXES,
    StudyView,
    facts_of,
    prompts_cell,
    seeds_cell,
    share_cell,
    tau_cell,
)

_DEFAULTS = row_facts(Objective())


def sweep_tables(view: StudyView) -> list[Table]:
    """Objectives that differ in one number, and axes with several values; at the headline."""
    steps = view.headline[0]
    tables = []
    for key, names in _sweeps(view.objectives):
        others = {
            name: value
            for name, value in view.objectives[names[0]].items()
            if name != key and value != _DEFAULTS.get(name)
        }
        fixed = ", ".join(f"{name} {_number(name, value)}" for name, value in others.items())
        sweep = [
            (_number(key, view.objectives[name].get(key)), view.recipe(name, steps))
            for name in names
        ]
        tables.append(_sweep_table(view, f"Sweep of {key}", fixed, [sweep]))
    for axis in AXES[:2]:
        values = sorted(view.axis(axis))
        sweeps = [
            [(form.number(value), view.recipe(name, steps, **{axis: value})) for value in values]
            for name in view.objectives
        ]
        if len(values) > 1:
            tables.append(_sweep_table(view, f"Sweep of {axis}", "", sweeps))
    return [table for table in tables if table is not None]


def _sweeps(objectives: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Numbers, each with the objectives that differ in it alone, ascending: three, or two words."""
    found = []
    for key in next(iter(objectives.values())):
        groups: dict[str, list[str]] = {}
        for name, row in objectives.items():
            groups.setdefault(facts_of({**row, key: None}), []).append(name)
        for names in groups.values():
            words = any(isinstance(objectives[name].get(key), (str, bool)) for name in names)
            if len(names) >= (2 if words else 3):
                order = sorted(names, key=lambda name: _order(objectives[name].get(key)))
                found.append((key, order))
    return found


def _sweep_table(
    view: StudyView, title: str, fixed: str, sweeps: Sequence[Sequence[tuple[str, Recipe]]]
) -> Table | None:
    """One table of sweeps, each a list of values with their recipes."""
    rows = []
    places = view.places[: 2 if view.tasks else 1]
    for sweep in sweeps:
        measured = [(value, recipe) for value, recipe in sweep if view.measured(recipe)]
        for value, recipe in measured:
            first = measured[0][1]
            cells = [Cell(text=value), Cell(text=recipe.objective)]
            found = [view.tau([recipe], tasks) for _, tasks in places]
            for (_, tasks), own in zip(places, found, strict=True):
                pair = view.tau([first, recipe], tasks) if recipe != first else None
                cells += [tau_cell(own), share_cell(pair, study_metrics.gain)]
            counts = (seeds_cell(found[0]), *map(prompts_cell, found))
            rows.append(Row(cells=(*cells, *counts)))
    if len(rows) < 2:
        return None
    return Table(
        title=title,
        note=f"At {form.count(view.headline[0])} steps{f'; {fixed}' if fixed else ''}. Choose on "
        "held-back prompts. Gains are over the first value of a sweep"
        f"{', with 95 % intervals' if has_ranges(rows) else ''}.",
        columns=(
            Column(title="Value", kind="label"),
            Column(title="Objective", kind="text"),
            *(
                Column(title=name, group=place, markdown=f"{place}: {name}")
                for place, _ in places
                for name in ("τ", "gain, %")
            ),
            Column(title="Seeds"),
            *(Column(title=f"Prompts {place}") for place, _ in places),
        ),
        rows=tuple(rows),
    )


def horizon_table(view: StudyView) -> Table | None:
    """Drafters in use at other block sizes than the trained one (arXiv 2606.11552, Table 6)."""
    horizons = sorted({horizon for _, horizon in view.finals})
    rows = []
    for name in view.objectives:
        recipe = view.recipe(name, view.headline[0])
        for place, tasks in view.places:
            found = [view.tau([recipe], tasks, horizon) for horizon in horizons]
            known = next((item for item in found if item is not None), None)
            if known is not None:
                cells = (Cell(text=name), Cell(text=place), *map(tau_cell, found))
                rows.append(Row(cells=(*cells, seeds_cell(known), prompts_cell(known))))
    if len(horizons) < 2 or not rows:
        return None
    trained = view.recipe(view.reference, view.headline[0]).block_size
    return Table(
        title="Horizon in use",
        note=f"τ at {form.count(view.headline[0])} steps of drafters trained on blocks of "
        f"{trained} tokens, drafting in blocks of another size (the pending token included).",
        columns=(
            Column(title="Objective", kind="label"),
            Column(title="Prompts of", kind="text"),
            *(
                Column(title=str(size), group="Block size in use", markdown=f"block {size}")
                for size in horizons
            ),
            Column(title="Seeds"),
            Column(title="Prompts"),
        ),
        rows=tuple(rows),
    )


def responses_table(view: StudyView) -> Table | None:
    """Trained on the target's own responses or on the reference answers (Table 5)."""
    if len(view.axis("responses")) < 2:
        return None
    rows = []
    for name in view.objectives:
        steps = view.headline[0]
        pair = [view.recipe(name, steps, responses=kind) for kind in ("reference", "target")]
        for place, tasks in view.places:
            found = view.tau(pair, tasks)
            if found is not None:
                cells = (
                    Cell(text=name),
                    Cell(text=place),
                    tau_cell(found, 0),
                    tau_cell(found, 1),
                    share_cell(found, study_metrics.gain),
                    Cell(text=" and ".join(view.num_sequences(recipe) for recipe in pair)),
                    seeds_cell(found),
                    prompts_cell(found),
                )
                rows.append(Row(cells=cells))
    if not rows:
        return None
    return Table(
        title="Responses trained on",
        note=f"At {form.count(view.headline[0])} steps: the answers that came with the prompts, "
        "against the target's own. All are replayed on the target's answers. Sequences are those "
        "trained on; prompts without a reference are in the second number alone.",
        columns=(
            Column(title="Objective", kind="label"),
            Column(title="Prompts of", kind="text"),
            Column(title="reference", group="τ trained on", markdown="τ, reference"),
            Column(title="target", group="τ trained on", markdown="τ, target"),
            Column(title="Gain, %"),
            Column(title="Sequences", kind="text"),
            Column(title="Seeds"),
            Column(title="Prompts"),
        ),
        rows=tuple(rows),
    )


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers ascending, no decay last; words by themselves."""
    if value is None:
        return (1, 0.0, "")
    return (0, 0.0, value) if isinstance(value, str) else (0, float(value), "")


def _number(name: str, value: Any) -> str:
    """A number of a row; a gamma of null is infinity."""
    if value is None:
        return form.number(None) if name == "gamma" else "none"
    return str(value) if isinstance(value, (str, bool)) else form.number(value)
