"""A study directory to its report: Markdown, and one HTML page. Needs no torch.

The same records give the same bytes, where the same version of matplotlib draws, or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.study_facts import BenchData, BenchFacts, BenchTarget, SessionFacts
from harness.study_files import load_results
from harness.whole_file import write_text
from reports import formatting as form
from reports.grid import Table
from reports.page import render
from reports.study_curves import Curves, learning_curves
from reports.study_details import arm_table, correlation_table, position_tables, waste_table
from reports.study_factorial import factorial_tables
from reports.study_lead import lead
from reports.study_sweeps import horizon_table, responses_table, sweep_tables
from reports.study_tables import budget_table, gain_table, short_table, tau_table
from reports.study_view import AXES, StudyView

DEFINITIONS = (
    (
        "Replayed τ",
        "Tokens committed over rounds, both summed over all answers of a task, bonus included, "
        "cut at stop and limit. No text is decoded: the target's recorded greedy answer decides "
        "which drafts are accepted, and the rounds are those that decoding would have had, up to "
        "near-ties that bfloat16 may break otherwise. It is never timed; speed is measured by "
        "harness run.",
    ),
    ("Held back", "Prompts of the training data that no training saw."),
    (
        "Budget",
        "Optimiser steps of a training; its learning rate ends with them. Objectives of one "
        "budget and seed are trained on the same batches and anchors, in the same order.",
    ),
    (
        "Gain",
        "Mean τ over seeds, over the reference's on the same answers and seeds, less 1.",
    ),
    (
        "Intervals",
        "95 %, from 2,000 draws. Conversations are drawn with replacement within each task, "
        "seeds with replacement apart from them, and every objective sees the same draws. Few "
        "seeds drawn plainly vary too little, by (n - 1) / n in variance; their weights are "
        "spread to make up for it (Rao and Wu, 1988). With one seed the interval is over prompts "
        "alone. It is blank where a task has fewer than five conversations.",
    ),
    (
        "Train-time τ",
        "Leading draft tokens that are right, plus one, at fixed anchors of held-back "
        "conversations, over the training vocabulary: what a trainer can watch cheaply.",
    ),
    (
        "Chain reward",
        "Mean over draft positions of the probability that the drafter gives to all of the "
        "answer's own tokens up to there (arXiv 2606.11552, Eq. 12). Trainers reward it on "
        "their batches; here it is taken of blocks drafted over the target's recorded answers.",
    ),
    (
        "Chain reward, draft tokens accepted",
        "Two numbers of one block by one trained drafter: its chain reward, and how many of its "
        "draft tokens the recorded answer accepts. The blocks are those that rounds of a replay "
        "begin with, as decoding would draft them. It says whether what is rewarded is verified.",
    ),
    (
        "Train-time τ, replayed τ",
        "Two numbers of one training at one step: what its trainer watched, and τ of whole "
        "replayed answers to held-back prompts. It says whether the proxy may stand for the "
        "measured τ.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything the page says."""

    title: str
    lead: str
    facts: tuple[tuple[str, str, str], ...]
    """Name, value, and the value in full where it is shortened."""
    notes: tuple[str, ...]
    parts: tuple[Table | Curves, ...]
    short: Table | None
    """The numbers of the headline budget, for a terminal."""


def write_study(directory: Path, output_dir: Path) -> tuple[Path, Path]:
    """Write ``study.md`` and ``study.html`` into ``output_dir``; their paths.

    Raises:
        UserError: the study cannot be read, nothing was measured yet, or the output cannot be
            written.
    """
    return write_report(study_report(directory), output_dir)


def write_report(report: Report, output_dir: Path) -> tuple[Path, Path]:
    """The same of a report that is there already.

    Raises:
        UserError: the output cannot be written.
    """
    paths = output_dir / "study.md", output_dir / "study.html"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for path in paths:
            text = render(f"{path.name}.j2", report=report, definitions=DEFINITIONS)
            write_text(path, text)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {output_dir} ({error.strerror}); make room, or name "
            "another place: harness report STUDY --output-dir PLACE."
        ) from error
    return paths


def study_report(directory: Path) -> Report:
    """What the page says of a study.

    Raises:
        UserError: the study cannot be read, or nothing was measured yet.
    """
    view = StudyView.of(load_results(directory))
    if not view.reference_taus:
        raise UserError(
            f"study {view.results.name} has no finished training of {view.reference} to compare "
            "with yet; call harness study again."
        )
    parts = [
        gain_table(view),
        budget_table(view),
        tau_table(view),
        learning_curves(view),
        *position_tables(view),
        waste_table(view),
        *factorial_tables(view),
        *sweep_tables(view),
        horizon_table(view),
        responses_table(view),
        correlation_table(view),
        arm_table(view),
    ]
    return Report(
        title=f"Study {view.results.name}",
        lead=" ".join(lead(view)),
        facts=tuple(_facts(view)),
        notes=tuple(_notes(view)),
        parts=tuple(part for part in parts if part is not None),
        short=short_table(view),
    )


def _facts(view: StudyView) -> Iterator[tuple[str, str, str]]:
    facts = view.results.facts
    bench = next(iter(facts.bench.values()), BenchFacts())
    target, data = bench.get("target", BenchTarget()), bench.get("data", BenchData())
    yield "Target", form.text(target.get("model") or facts.train.get("target")), ""
    digest = target.get("weights_sha256")
    yield "Weights SHA-256", form.digest(digest), form.text(digest)
    yield "Data", form.text(data.get("name")), ""
    yield "Data SHA-256", form.digest(data.get("sha256")), form.text(data.get("sha256"))
    yield "Sequences", f"{data.get('num_sequences', form.BLANK)} trained on", ""
    shape = ("num_layers", "block_size", "num_anchors", "batch_size", "dtype", "learning_rate")
    settings = [f"{name} {facts.train[name]}" for name in shape if name in facts.train]
    yield "Training", ", ".join(settings), ""
    sources = facts.sources.items()
    words = [f"{source['num_prompts']} {task} ({source['kind']})" for task, source in sources]
    yield "Prompts of tasks", form.text(", ".join(words)), ""
    runs = dict.fromkeys(source["run_id"] for _, source in sources)
    yield "Answers of runs", form.text(", ".join(runs)), ""
    yield "Drafted from", f"{facts.measure.get('draft_vocab')} vocabulary", ""
    yield "Answer limit", f"{facts.measure.get('max_new_tokens')} tokens", ""
    yield "Arms", f"{len(view.results.finished)} of {len(view.arms)} finished", ""
    yield "Sessions", str(len(facts.sessions)), ""
    last = facts.sessions[-1] if facts.sessions else SessionFacts()
    yield "Hardware", form.hardware(last.get("hardware") or {}), ""
    yield "Commit", form.commit(last.get("commit"), last.get("dirty")), ""


def _notes(view: StudyView) -> Iterator[str]:
    yield "Every τ here is replayed, not decoded, and nothing here is timed."
    if view.marked("", view.tasks):
        yield (
            "Samples are prompts written for this project, not the benchmark; their numbers must "
            "not be quoted under its name."
        )
    missing = [arm for arm in view.arms if arm not in view.results.finished]
    if missing:
        yield f"Unfinished: {form.counted(len(missing), 'training')} of {len(view.arms)}."
    if view.results.torn:
        yield "The last line of the records was cut off mid-write and is left out."
    if len({arm.seed for arm in view.arms}) == 1:
        yield "One training seed: differences between seeds are in no interval."
    for axis in AXES:
        values = view.axis(axis)
        if len(values) > 1:
            yield f"Tables that do not sweep {axis} show {axis} {values[0]}."
    machines = {form.hardware(item.get("hardware") or {}) for item in view.results.facts.sessions}
    if len(machines) > 1:
        yield f"Trained on {len(machines)} machines: {'; '.join(sorted(machines))}."
