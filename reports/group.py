"""Runs that may be compared: their numbers, and the order in which they stand in every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.distribution import Check, checks
from reports.grid import Cell
from reports.run import Run
from reports.tables import OVERALL, headline_baseline, position_frame, score_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs of one group, and their numbers."""

    runs: tuple[Run, ...]
    headline: str | None
    """The baseline that every speedup is over, in all runs the same one."""
    scores: pd.DataFrame
    """`reports.tables.score_frame`."""
    positions: pd.DataFrame
    """Frames of `reports.tables.position_frame` in one."""
    checks: Mapping[str, Mapping[str, Check | None]]
    """By run id: `harness.distribution.checks`, of the methods that have draws."""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Comparison:
        """The numbers of ``runs``."""
        positions = pd.concat([position_frame(run) for run in runs], ignore_index=True)
        return cls(
            runs=tuple(runs),
            headline=headline_baseline(runs),
            scores=score_frame(runs),
            positions=positions,
            checks={run.run_id: checks(run.generations, run.draws) for run in runs},
        )

    @property
    def first(self) -> Run:
        """The run that stands for what all have in common."""
        return self.runs[0]

    @property
    def badge(self) -> str:
        """The warning that goes with every table whose numbers come from samples."""
        samples = self.first.sample_tasks
        if not samples:
            return ""
        scope = "" if samples == self.first.tasks else f" ({', '.join(samples)})"
        return f"samples: not the benchmark{scope}"

    @property
    def has_trees(self) -> bool:
        """Whether some method offered more than one path in a round."""
        return any(
            item.is_tree
            for run in self.runs
            for answer in run.generations
            for item in answer.rounds or ()
        )

    def ranked(self) -> list[tuple[Run, Mapping[str, Any]]]:
        """Methods with their runs: drafters, fastest first; then oracles; then baselines."""
        methods = [(run, item) for run in self.runs for item in run.methods]

        def order(pair: tuple[Run, Mapping[str, Any]]) -> tuple[object, ...]:
            score = self.score(pair[0], pair[1]["method"])
            baseline = pair[1]["kind"] == "baseline"
            speed, tau = score["speedup"] or 0.0, score["tau"] or 0.0
            return (
                baseline,
                not competes(pair[1]),
                -speed,
                -tau,
                pair[1]["method"],
                pair[0].run_id,
            )

        return sorted(methods, key=order)

    def score(self, run: Run, method: str, task: str = OVERALL) -> dict[str, Any]:
        """One row of the scores; blanks are None."""
        frame = self.scores
        chosen = frame[
            (frame["run_id"] == run.run_id) & (frame["method"] == method) & (frame["task"] == task)
        ].iloc[0]
        return {str(k): None if pd.isna(v) else v for k, v in chosen.to_dict().items()}

    def label(self, run: Run, method: str) -> Cell:
        """The method's name, with the run's where there are several."""
        name = method if len(self.runs) == 1 else f"{method} ({run.run_id})"
        return Cell(text=name)

    def task_label(self, task: str) -> Cell:
        """The task's name, with a word where its prompts are samples."""
        return Cell(text=f"{task} (samples)" if task in self.first.sample_tasks else task)


def competes(item: Mapping[str, Any]) -> bool:
    """Whether a method is ranked: baselines and oracles are not."""
    return item["kind"] == "drafter" and not is_oracle(item)


def is_oracle(item: Mapping[str, Any]) -> bool:
    """Whether a method's acceptance is chosen by hand: an upper bound, not a drafter."""
    return bool(item.get("drafter") == "synthetic")
