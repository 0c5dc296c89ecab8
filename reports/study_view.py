"""A study as its tables see it: which recipes there are, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness import study_curves, study_metrics
from harness.metrics import NoData
from harness.paired import or_none
from harness.run_facts import Scalar
from harness.study import Arm, Recipe
from harness.study_curves import Point
from harness.study_files import StudyResults
from harness.study_metrics import BySeed, Tau
from harness.study_records import HELD_BACK, Measurement
from reports import formatting as form
from reports.grid import Cell

Place = tuple[str, tuple[str, ...]]
"""A title, and the tasks whose mean τ it stands for."""

AXES = ("block_size", "learning_rate", "responses")
"""Fields of a recipe that a study may vary beside objective and budget."""


@dataclass(frozen=True)
class StudyView:
    """What the tables ask of a study; what takes a while is computed once."""

    results: StudyResults
    finals: dict[tuple[Recipe, int], dict[int, Measurement]]
    """By recipe and horizon: the last measurement of each seed."""

    @classmethod
    def of(cls, results: StudyResults) -> StudyView:
        """The view of what was read."""
        finals: dict[tuple[Recipe, int], dict[int, Measurement]] = {}
        for item in results.measurements:
            if item.step == item.arm.recipe.steps:
                finals.setdefault((item.arm.recipe, item.horizon), {})[item.arm.seed] = item
        return cls(results, finals)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """All that were asked for."""
        return self.results.facts.arms

    @property
    def objectives(self) -> dict[str, dict[str, Scalar]]:
        """Rows of numbers by name, in the order asked for."""
        return self.results.facts.objectives

    @property
    def reference(self) -> str:
        """What the others are compared with."""
        return "uniform" if "uniform" in self.objectives else next(iter(self.objectives))

    @property
    def others(self) -> list[str]:
        """The objectives that are compared with it."""
        return [name for name in self.objectives if name != self.reference]

    @property
    def budgets(self) -> list[int]:
        """In steps, ascending."""
        return sorted({arm.recipe.steps for arm in self.arms})

    def axis(self, name: str) -> list[Any]:
        """Values of one of `AXES`, in the order asked for."""
        return list(dict.fromkeys(getattr(arm.recipe, name) for arm in self.arms))

    def recipe(self, objective: str, steps: int, **changes: Any) -> Recipe:
        """An objective and a budget; the axes have their first values unless ``changes`` says."""
        first = {name: self.axis(name)[0] for name in AXES}
        return Recipe(**{"objective": objective, "steps": steps, **first, **changes})

    def measured(self, recipe: Recipe, horizon: int | None = None) -> BySeed:
        """Last measurements of a recipe by seed, at its own block size unless ``horizon`` says."""
        return self.finals.get((recipe, horizon or recipe.block_size), {})

    def num_sequences(self, recipe: Recipe) -> str:
        """Sequences that a recipe was trained on."""
        done = self.results.finished.items()
        found = {item.num_sequences for arm, item in done if arm.recipe == recipe}
        return form.count(found.pop()) if len(found) == 1 else form.BLANK

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of runs whose answers were replayed."""
        found = dict.fromkeys(
            item.task
            for by_seed in self.finals.values()
            for m in by_seed.values()
            for item in m.replayed
        )
        return tuple(task for task in found if task != HELD_BACK)

    def marked(self, title: str, tasks: Sequence[str]) -> str:
        """A title that says so where a task's prompts are the project's samples."""
        sources = self.results.facts.sources
        samples = any(task in sources and sources[task]["kind"] == "samples" for task in tasks)
        return f"{title} (samples)" if samples else title

    @property
    def places(self) -> list[Place]:
        """What a τ may be about: held-back prompts, all tasks, each task."""
        tasks = self.tasks
        overall = [("overall", tasks)] if tasks else []
        found = [("held back", (HELD_BACK,)), *overall, *((task, (task,)) for task in tasks)]
        return [(self.marked(title, names), names) for title, names in found]

    @property
    def main_place(self) -> Place:
        """What headlines are about: all tasks, or held-back prompts where no run was named."""
        return self.places[1] if self.tasks else self.places[0]

    def tau(
        self, recipes: Sequence[Recipe], tasks: Sequence[str], horizon: int | None = None
    ) -> Tau | None:
        """τ of recipes on what all of them have; None where that is nothing."""
        return or_none(
            study_metrics.tau, [self.measured(recipe, horizon) for recipe in recipes], tasks
        )

    @cached_property
    def reference_taus(self) -> dict[int, Tau]:
        """Held-back τ of the reference by budget, where it was measured."""
        found = {
            steps: self.tau([self.recipe(self.reference, steps)], (HELD_BACK,))
            for steps in self.budgets
        }
        return {steps: value for steps, value in found.items() if value is not None}

    @cached_property
    def headline(self) -> tuple[int, bool]:
        """The budget at which single-budget tables are made, and whether it is a plateau.

        Raises:
            NoData: the reference was not measured at any.
        """
        taus = self.reference_taus
        if not taus:
            raise NoData("the reference has not been measured")
        return study_metrics.headline(
            {steps: found.estimate(study_metrics.only) for steps, found in taus.items()}
        )

    def curves(self, *, whole: bool = True) -> dict[Arm, list[Point]]:
        """Learning curves of all arms, or the last point of each that is finished."""
        found: dict[Arm, list[Measurement]] = {}
        for item in self.results.measurements:
            last = item.step == item.arm.recipe.steps
            if item.horizon == item.arm.recipe.block_size and (whole or last):
                found.setdefault(item.arm, []).append(item)
        return {arm: study_curves.curve(items) for arm, items in found.items()}


def tau_cell(found: Tau | None, row: int = 0) -> Cell:
    """Mean ± standard deviation over seeds."""
    if found is None:
        return Cell(text=form.BLANK)
    values = found.by_seed[row]
    mean = float(values.mean())
    if len(values) < 2:
        return Cell(text=form.ratio(mean), value=mean)
    return Cell(text=form.mean_sd(mean, float(values.std(ddof=1))), value=mean)


def seeds_cell(found: Tau | None) -> Cell:
    """How many seeds a number is about."""
    return _count(None if found is None else len(found.seeds))


def prompts_cell(found: Tau | None) -> Cell:
    """How many prompts."""
    return _count(None if found is None else found.num_prompts)


def share_cell(found: Tau | None, rule: study_metrics.Rule) -> Cell:
    """A share in percent, with its interval."""
    if found is None:
        return Cell(text=form.BLANK)
    made = found.estimate(rule)
    return Cell(
        text=form.points(made.value or 0.0),
        value=made.value,
        detail=form.points_interval(made.low, made.high),
    )


def difference_cell(found: Tau | None, rule: study_metrics.Rule) -> Cell:
    """A difference of τ, with its interval."""
    if found is None:
        return Cell(text=form.BLANK)
    made = found.estimate(rule)
    return Cell(
        text=form.signed(made.value), value=made.value, detail=form.spread(made.low, made.high)
    )


def _count(value: int | None) -> Cell:
    return Cell(text=form.BLANK) if value is None else Cell(text=form.count(value), value=value)


def facts_of(row: Mapping[str, Any]) -> str:
    """Equal for objectives of equal numbers, however they were written."""
    return repr(sorted((name, float(v) if type(v) is int else v) for name, v in row.items()))
