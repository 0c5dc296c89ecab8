"""Runs to pandas frames: one row per method and task, per position, per failure.

A blank is NaN; it is never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields

import pandas as pd

from harness import bootstrap, load, metrics, published
from harness.paired import or_none
from harness.positions import positions
from harness.records import Failure
from harness.run_facts import MethodFacts
from reports.run import Run, load_run

__all__ = [
    "OVERALL",
    "Run",
    "Score",
    "failure_frame",
    "headline_baseline",
    "load_run",
    "position_frame",
    "score_frame",
]

OVERALL = "overall"
"""The row over all tasks of a run; blank where one of them has no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Everything measured of one method on one task, or overall; None is a blank."""

    run_id: str
    method: str
    kind: str
    """``baseline`` or ``drafter``."""
    task: str
    num_generations: int
    num_without_rounds: int
    """Left out of the accepted length."""
    num_paired: int
    """Generations whose prompt the headline baseline answered too."""
    num_failures: int
    tau: float | None
    tau_low: float | None
    tau_high: float | None
    tau_macro: float | None
    tau_uncut: float | None
    tau_macro_uncut: float | None
    node_acceptance_rate: float | None
    speedup: float | None
    """Over the headline baseline, decoding only."""
    speedup_low: float | None
    speedup_high: float | None
    speedup_end_to_end: float | None
    speedup_ar_loop: float | None
    """Over ``ar_loop``, decoding only."""
    speedup_dflash: float | None
    """Over the headline baseline, as `harness.published` has it; so is the next."""
    speedup_spec_bench: float | None
    tokens_per_s: float | None
    peak_memory_bytes: float | None
    other_load: float | None
    """Mean number of cores that other processes kept busy."""


_OWN_METRICS = {
    "tau": metrics.tau,
    "tau_macro": metrics.tau_macro,
    "tau_uncut": published.tau_uncut,
    "tau_macro_uncut": published.tau_macro_uncut,
    "node_acceptance_rate": metrics.node_acceptance_rate,
}
_SPEEDUPS = {
    "speedup": metrics.speedup,
    "speedup_end_to_end": metrics.speedup_end_to_end,
    "speedup_dflash": published.speedup_dflash,
    "speedup_spec_bench": published.speedup_spec_bench,
}


def headline_baseline(runs: Sequence[Run]) -> str | None:
    """One baseline for comparable runs, or they could not be ranked; None where none decoded."""
    names = dict.fromkeys(name for run in runs for name in run.baselines)
    return or_none(
        metrics.headline_baseline, {name: [run.of(name) for run in runs] for name in names}
    )


def score_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run, method and task, then `OVERALL`; the columns are the fields of `Score`.

    Args:
        runs: comparable ones: their speedups are over one headline baseline.
    """
    headline = headline_baseline(runs)
    rows: list[Score] = []
    for run, item in ((owner, item) for owner in runs for item in owner.methods):
        parts = [
            _score(run, item, task, [task], headline, _task_values(run, item, task, headline))
            for task in run.tasks
        ]
        rows += parts
        rows.append(_score(run, item, OVERALL, run.tasks, headline, _overall_values(parts)))
    columns = [field.name for field in fields(Score)]
    numeric = columns[columns.index("num_generations") :]
    frame = pd.DataFrame([astuple(row) for row in rows], columns=columns)
    return frame.astype({name: float for name in numeric if not name.startswith("num_")})


def position_frame(run: Run) -> pd.DataFrame:
    """One row per method and k: rounds with k accepted, their share, joint and conditional rates.

    Beside the conditional rate the rounds that it is a share of; the joint one is of all. Pooled
    over all tasks; methods without rounds or drafts have no rows.
    """
    columns = ["run_id", "method", "k", "num_rounds", "share"]
    rates = ["joint", "conditional", "num_reached"]
    rows: list[tuple[object, ...]] = []
    for item in run.methods:
        method = str(item["method"])
        found = or_none(positions, run.of(method))
        if found is None or not found.joint:
            continue
        total = found.num_rounds
        by_k = zip(found.joint, found.conditional, found.reached, strict=True)
        for k, (count, rest) in enumerate(zip(found.histogram, ((None,) * 3, *by_k), strict=True)):
            rows.append((run.run_id, method, k, count, count / total, *rest))
    frame = pd.DataFrame(rows, columns=[*columns, *rates])
    return frame.astype(dict.fromkeys(rates, float))


def failure_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per failure of the runs."""
    columns = ["run_id", *(field.name for field in fields(Failure))]
    rows = [{"run_id": run.run_id, **asdict(item)} for run in runs for item in run.failures]
    return pd.DataFrame(rows, columns=columns)


def _score(
    run: Run,
    item: MethodFacts,
    name: str,
    tasks: Sequence[str],
    headline: str | None,
    values: Mapping[str, float | None],
) -> Score:
    """One row over ``tasks``: the values given, and counts, intervals, speed and memory."""
    method = str(item["method"])
    by_task = [run.of(method, task) for task in tasks]
    own = [generation for generations in by_task for generation in generations]
    both = [(run.of(headline, task), run.of(method, task)) for task in tasks] if headline else []
    tau_range = or_none(bootstrap.tau_interval, by_task)
    speedup_range = or_none(bootstrap.speedup_interval, both) if headline != method else None
    complete = all(by_task)
    return Score(
        run_id=run.run_id,
        method=method,
        kind=str(item["kind"]),
        task=name,
        num_generations=len(own),
        num_without_rounds=metrics.num_without_rounds(own),
        num_paired=sum(len(metrics.pairs(*sides)) for sides in both),
        num_failures=sum(
            1 for failure in run.failures if failure.method == method and failure.task in tasks
        ),
        tau_low=tau_range[0] if tau_range else None,
        tau_high=tau_range[1] if tau_range else None,
        speedup_low=speedup_range[0] if speedup_range else None,
        speedup_high=speedup_range[1] if speedup_range else None,
        tokens_per_s=or_none(metrics.tokens_per_s, own) if complete else None,
        peak_memory_bytes=metrics.peak_memory_bytes(own) if complete else None,
        other_load=load.mean_cores(own),
        **values,
    )


def _task_values(
    run: Run, item: MethodFacts, task: str, headline: str | None
) -> dict[str, float | None]:
    own = run.of(str(item["method"]), task)
    baseline = run.of(headline, task) if headline else []
    return {
        **{key: or_none(rule, own) for key, rule in _OWN_METRICS.items()},
        **{key: or_none(rule, baseline, own) for key, rule in _SPEEDUPS.items()},
        "speedup_ar_loop": or_none(metrics.speedup, run.of("ar_loop", task), own),
    }


def _overall_values(parts: Sequence[Score]) -> dict[str, float | None]:
    """Means of the task values; geometric means of ratios of times."""
    means = {name: metrics.overall_mean for name in _OWN_METRICS}
    ratios = dict.fromkeys((*_SPEEDUPS, "speedup_ar_loop"), metrics.overall_geometric_mean)
    return {
        name: or_none(rule, [getattr(part, name) for part in parts])
        for name, rule in {**means, **ratios}.items()
    }
