"""The 2³ factorial of a study: effects of the interventions, and whether their gains add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.study_metrics import ALL_THREE, FACTORS, SUM_OF_SINGLES, Tau, contrast, effects
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, has_ranges
from reports.study_view import (
    Place,
    StudyView,
    difference_cell,
    facts_of,
    prompts_cell,
    seeds_cell,
)

_INTERVENTIONS = {"gamma": None, "alpha_focal": 0.0, "alpha_chain": 0.0}
"""Numbers of the three interventions, and their values where they are off; γ null is infinity."""


def factorial_rows(objectives: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The eight rows of a 2³ design, by place in `harness.study_metrics.FACTORS`; else none."""
    by_facts = {facts_of(row): name for name, row in objectives.items()}
    off = {name: row for name, row in objectives.items() if _is_off(row)}
    for base in off.values():
        for full in objectives.values():
            if any(full[key] == value for key, value in _INTERVENTIONS.items()):
                continue
            wanted = []
            for place in range(8):
                chosen = {
                    key: full[key] for bit, key in enumerate(_INTERVENTIONS) if place >> bit & 1
                }
                wanted.append(by_facts.get(facts_of({**base, **chosen})))
            names = [name for name in wanted if name is not None]
            if len(names) == 8:
                return names
    return []


def factorial_tables(view: StudyView) -> list[Table]:
    """Effects of the three interventions, and whether their gains add up."""
    names = factorial_rows(view.objectives)
    if not names:
        return []
    steps = view.headline[0]
    recipes = [view.recipe(name, steps) for name in names]
    places = view.places[: 2 if view.tasks else 1]
    found = [view.tau(recipes, tasks) for _, tasks in places]
    if found[0] is None:
        return []
    return [_effect_table(places, found, steps), _additivity_table(places, found, steps)]


def _effect_table(places: Sequence[Place], found: Sequence[Tau | None], steps: int) -> Table:
    rows = []
    for name, weights in effects().items():
        cells = [Cell(text=name)]
        for item in found:
            cells += [difference_cell(item, contrast(weights)), _by_seed_cell(item, weights)]
        rows.append(Row(cells=(*cells, seeds_cell(found[0]), *map(prompts_cell, found))))
    return Table(
        title="Factorial: main effects and interactions",
        note=f"All eight combinations of the interventions at {form.count(steps)} steps. A main "
        "effect is the mean τ of the four with an intervention less that of the four without; an "
        "interaction of two is half of what the one changes the effect of the other by. "
        + ("Intervals are 95 %, over conversations and seeds. " if has_ranges(rows) else "")
        + "Over seeds: the same contrast of each seed alone, mean ± standard deviation.",
        columns=(
            Column(title="Effect", kind="label"),
            *(
                Column(title=title, group=f"Δτ {place}", markdown=f"Δτ {place}, {title}")
                for place, _ in places
                for title in ("estimate", "over seeds")
            ),
            Column(title="Seeds"),
            *(Column(title=f"Prompts {place}") for place, _ in places),
        ),
        rows=tuple(rows),
    )


def _additivity_table(places: Sequence[Place], found: Sequence[Tau | None], steps: int) -> Table:
    singles = {f"{name} alone": _single(1 << bit) for bit, name in enumerate(FACTORS)}
    contrasts = {
        **singles,
        "sum of the three": SUM_OF_SINGLES,
        "all three together": ALL_THREE,
        "together less the sum": ALL_THREE - SUM_OF_SINGLES,
    }
    rows = []
    for name, weights in contrasts.items():
        cells = [Cell(text=name)]
        for item in found:
            rule = contrast(weights)
            share = None if item is None else float(rule(item.values) / item.values[0])
            percent = (
                Cell(text=form.BLANK)
                if share is None
                else Cell(text=form.points(share), value=share)
            )
            cells += [difference_cell(item, rule), percent]
        counts = (seeds_cell(found[0]), *map(prompts_cell, found))
        rows.append(Row(cells=(*cells, *counts), total=name.startswith("together")))
    return Table(
        title="Do the gains add up?",
        note=f"At {form.count(steps)} steps, τ over that without any intervention. "
        f"{_verdict(found, places)}",
        columns=(
            Column(title="Gain of", kind="label"),
            *(
                Column(title=title, group=place, markdown=f"{place}: {title}")
                for place, _ in places
                for title in ("Δτ", "% of uniform")
            ),
            Column(title="Seeds"),
            *(Column(title=f"Prompts {place}") for place, _ in places),
        ),
        rows=tuple(rows),
    )


def _verdict(found: Sequence[Tau | None], places: Sequence[Place]) -> str:
    """Additivity in a sentence a place."""
    sentences = []
    for (place, _), item in zip(places, found, strict=True):
        if item is None:
            continue
        total = item.estimate(contrast(ALL_THREE)).value or 0.0
        predicted = item.estimate(contrast(SUM_OF_SINGLES)).value or 0.0
        rest = item.estimate(contrast(ALL_THREE - SUM_OF_SINGLES))
        if not rest.has_interval:
            word = "too few prompts to say whether they add up"
        elif not rest.excludes(0.0):
            word = "not told apart from additive"
        else:
            word = "less than additive" if (rest.value or 0.0) < 0 else "more than additive"
        sentences.append(
            f"{place}: {form.signed(total)} together against {form.signed(predicted)} in sum, "
            f"{word}"
        )
    text = "; ".join(sentences)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _single(place: int) -> Any:
    weights = ALL_THREE * 0
    weights[place], weights[0] = 1, -1
    return weights


def _by_seed_cell(found: Tau | None, weights: Any) -> Cell:
    """A contrast of every seed alone."""
    if found is None or len(found.seeds) < 2:
        return Cell(text=form.BLANK)
    values = weights @ found.by_seed
    return Cell(text=form.mean_sd(float(values.mean()), float(values.std(ddof=1))))


def _is_off(row: Mapping[str, Any]) -> bool:
    return all(row[key] == value for key, value in _INTERVENTIONS.items())
