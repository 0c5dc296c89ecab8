"""Runs that may be compared: their numbers, and the order in which they stand in every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from harness.distribution import Check, checks
from harness.doubts import clock_doubt
from harness.run_facts import MethodFacts
from harness.verdicts import tally
from reports.grid import Cell
from reports.run import Run
from reports.tables import OVERALL, headline_baseline, position_frame, score_frame

MISMATCH = "MISMATCH"
NOT_JUDGED = "not judged"
ORACLE = "oracle"
TOO_FEW = "too few prompts to rank"
CLOCK = "clock doubted"

_UNRANKED = (
    *("", TOO_FEW, "no speedup", CLOCK, "losslessness not judged"),
    *(MISMATCH, ORACLE, "baseline"),
)
"""`Comparison.unranked`, in the order in which rows stand."""


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
    verdicts: Mapping[tuple[str, str], str | None]
    """By run id and method: the worst verdict on its answers or draws; None where none was made."""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Comparison:
        """The numbers of ``runs``."""
        positions = pd.concat([position_frame(run) for run in runs], ignore_index=True)
        checked = {run.run_id: checks(run.generations, run.draws) for run in runs}
        return cls(
            runs=tuple(runs),
            headline=headline_baseline(runs),
            scores=score_frame(runs),
            positions=positions,
            checks=checked,
            verdicts={
                (run.run_id, str(item["method"])): worst_verdict(
                    run, item["method"], checked[run.run_id]
                )
                for run in runs
                for item in run.methods
            },
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

    def unranked(self, run: Run, item: MethodFacts) -> str:
        """Why a method has no rank, in a few words; empty where it has one."""
        method = str(item["method"])
        if item["kind"] == "baseline":
            return "baseline"
        if is_oracle(item):
            return ORACLE
        if self.is_refuted(run, method):
            return MISMATCH
        if self.verdicts[run.run_id, method] == NOT_JUDGED:
            return "losslessness not judged"
        if any(clock_doubt(run.of(str(other["method"]))) for other in run.methods):
            return CLOCK
        score = self.score(run, method)
        if score["speedup"] is None:
            return "no speedup"
        return TOO_FEW if score["speedup_low"] is None else ""

    def is_refuted(self, run: Run, method: str) -> bool:
        """Whether an answer, or the draws, of a method are not the target's."""
        return self.verdicts[run.run_id, method] == MISMATCH

    def ranked(self) -> list[tuple[Run, MethodFacts]]:
        """Methods with their runs: the ranked ones, fastest first, then the others by reason."""
        methods = [(run, item) for run in self.runs for item in run.methods]

        def order(pair: tuple[Run, MethodFacts]) -> tuple[object, ...]:
            score = self.score(pair[0], pair[1]["method"])
            speed, tau = score["speedup"] or 0.0, score["tau"] or 0.0
            reason = _UNRANKED.index(self.unranked(*pair))
            return reason, -speed, -tau, pair[1]["method"], pair[0].run_id

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

    def speed(self, run: Run, method: str, cell: Cell) -> Cell:
        """A cell that holds a speed, or τ: struck where the method's text is not the target's."""
        shown = cell.value is not None and self.is_refuted(run, method)
        return replace(cell, struck=True, title="not of the target's text") if shown else cell

    def task_label(self, task: str) -> Cell:
        """The task's name, with a word where its prompts are samples."""
        return Cell(text=f"{task} (samples)" if task in self.first.sample_tasks else task)


def is_oracle(item: MethodFacts) -> bool:
    """Whether a method is told the answers, or its acceptance is chosen: no drafter to rank."""
    return item.get("oracle") is True or item.get("drafter") == "synthetic"


def worst_verdict(run: Run, method: str, drawn: Mapping[str, Check | None]) -> str | None:
    """On a method's answers, or on its draws where it has some; None where none was made."""
    check = drawn.get(method)
    return check.verdict if check else tally(run.of(method), run.audits).worst
