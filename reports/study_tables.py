"""A study's gains: the reference against its budget, every objective over it, τ by task."""

from __future__ import annotations

from collections.abc import Sequence

from harness import study_metrics
from harness.study_metrics import PLATEAU, Tau
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, has_ranges
from reports.study_view import StudyView, prompts_cell, seeds_cell, share_cell, tau_cell

_BLANK = Cell(text=form.BLANK)


_OBJECTIVE = Column(title="Objective", kind="label")


def budget_table(view: StudyView) -> Table | None:
    """τ of the reference by budget, and where it stops to rise; None before it was measured."""
    taus = view.reference_taus
    if not taus:
        return None
    chosen, plateau = view.headline
    rows = []
    before: tuple[int, Tau] | None = None
    for steps, found in taus.items():
        rise = growth = None
        if before is not None:
            first, last = float(before[1].values[0]), float(found.values[0])
            rise, growth = last / first - 1, study_metrics.growth(first, last, steps / before[0])
        word = "plateau" if plateau else "largest"
        rows.append(
            Row(
                cells=(
                    Cell(text=form.count(steps), value=steps),
                    tau_cell(found),
                    _points(rise),
                    _points(growth),
                    Cell(text=f"headline ({word})" if steps == chosen else ""),
                    seeds_cell(found),
                    prompts_cell(found),
                ),
                total=steps == chosen,
            )
        )
        before = (steps, found)
    return Table(
        title="The reference against its budget",
        note=f"Replayed τ of {view.reference} on held-back prompts, mean ± standard deviation over "
        "seeds. The headline is the first budget at which a doubling gained less than "
        f"{100 * PLATEAU:g} % with τ shown above 1, else the largest reached. Each "
        "budget is a training of its own.",
        columns=(
            Column(title="Steps", kind="label"),
            Column(title="τ held back"),
            Column(title="over the budget before, %", group="Growth"),
            Column(title="a doubling, %", group="Growth", markdown="growth a doubling, %"),
            Column(title="Headline", kind="text"),
            Column(title="Seeds"),
            Column(title="Prompts"),
        ),
        rows=tuple(rows),
    )


def gain_table(view: StudyView) -> Table | None:
    """Gain of every objective over the reference, by budget; None where there is no pair."""
    rows = []
    places = view.places
    for steps in view.budgets:
        for name in view.others:
            pair = [view.recipe(view.reference, steps), view.recipe(name, steps)]
            found = [view.tau(pair, tasks) for _, tasks in places]
            if found[0] is None:
                continue
            cells = (
                Cell(text=name),
                Cell(text=form.count(steps), value=steps),
                *(share_cell(item, study_metrics.gain) for item in found),
                seeds_cell(found[0]),
                *_prompt_cells(view, found),
            )
            rows.append(Row(cells=cells, total=steps == view.headline[0]))
    if not rows:
        return None
    columns = (
        _OBJECTIVE,
        Column(title="Steps"),
        *(
            Column(title=title, group="Gain in τ, %", markdown=f"gain {title}, %")
            for title, _ in places
        ),
        Column(title="Seeds"),
        *_prompt_columns(view),
    )
    return Table(
        title=f"Gain over {view.reference} against budget",
        note="Mean τ over seeds, over that of the reference on the same answers and seeds, less 1; "
        f"overall is the ratio of the means over tasks.{_intervals(rows)} The headline budget is "
        "shaded.",
        columns=columns,
        rows=tuple(rows),
    )


def tau_table(view: StudyView) -> Table | None:
    """τ of every objective by budget and place."""
    rows = []
    for steps in view.budgets:
        for name in view.objectives:
            recipe = [view.recipe(name, steps)]
            found = [view.tau(recipe, tasks) for _, tasks in view.places]
            if found[0] is not None:
                cells = (
                    Cell(text=name),
                    Cell(text=form.count(steps), value=steps),
                    *map(tau_cell, found),
                    seeds_cell(found[0]),
                    *_prompt_cells(view, found),
                )
                rows.append(Row(cells=cells, total=steps == view.headline[0]))
    if not rows:
        return None
    return Table(
        title="Replayed τ",
        note="Mean ± standard deviation over seeds (n - 1 in its divisor); τ is pooled within a "
        "task, and overall is the mean of the tasks.",
        columns=(
            _OBJECTIVE,
            Column(title="Steps"),
            *(Column(title=title, group="τ", markdown=f"τ {title}") for title, _ in view.places),
            Column(title="Seeds"),
            *_prompt_columns(view),
        ),
        rows=tuple(rows),
    )


def short_table(view: StudyView) -> Table | None:
    """τ and gain of every objective at the headline budget, on what the headline is about."""
    steps, (place, tasks) = view.headline[0], view.main_place
    reference = view.recipe(view.reference, steps)
    rows = []
    for name in view.objectives:
        recipe = view.recipe(name, steps)
        found = view.tau([recipe], tasks)
        if found is not None:
            pair = None if recipe == reference else view.tau([reference, recipe], tasks)
            gain = share_cell(pair, study_metrics.gain)
            counts = seeds_cell(found), prompts_cell(found)
            rows.append(Row(cells=(Cell(text=name), tau_cell(found), gain, *counts)))
    if not rows:
        return None
    return Table(
        title=f"At {form.count(steps)} steps",
        note="",
        columns=(
            _OBJECTIVE,
            Column(title=f"τ {place}"),
            Column(title=f"gain over {view.reference}, %"),
            Column(title="Seeds"),
            Column(title="Prompts"),
        ),
        rows=tuple(rows),
    )


def _intervals(rows: Sequence[Row]) -> str:
    """What ranges are, where there are any."""
    if not has_ranges(rows):
        return ""
    return (
        " Intervals are 95 %: conversations are drawn within each task and seeds apart from them, "
        "the same for both sides."
    )


def _points(value: float | None) -> Cell:
    return _BLANK if value is None else Cell(text=form.points(value), value=value)


def _prompt_columns(view: StudyView) -> tuple[Column, ...]:
    held_back = Column(title="held back", group="Prompts", markdown="prompts held back")
    tasks = Column(title="tasks", group="Prompts", markdown="prompts of tasks")
    return (held_back, tasks) if view.tasks else (held_back,)


def _prompt_cells(view: StudyView, found: Sequence[Tau | None]) -> tuple[Cell, ...]:
    return tuple(map(prompts_cell, found[: 2 if view.tasks else 1]))
