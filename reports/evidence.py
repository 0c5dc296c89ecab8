"""The evidence under the numbers: checkpoints, prompts, runs and failures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from harness.audit_records import Deviation
from harness.run_facts import CheckpointFacts, ObjectiveFacts, TrainingFacts
from harness.verdicts import mismatches, tally
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison
from reports.tables import failure_frame


def checkpoint_table(group: Comparison) -> Table | None:
    """How each drafter was trained; None where no method has a checkpoint."""
    rows = []
    for run, item in group.ranked():
        checkpoint, name = item.get("checkpoint"), str(item["method"])
        while checkpoint:
            rows.append(Row(cells=(group.label(run, name), *_checkpoint_cells(checkpoint))))
            checkpoint, name = checkpoint.get("second"), f"{item['method']}: second drafter"
    if not rows:
        return None
    return Table(
        title="Checkpoints",
        note="Objective: γ of the positional weights (∞ is uniform), weights of the first-error "
        "focal term and of the chain reward, and how the cross-entropy was reduced. Everything "
        "else that is known of a training is in the run's config.json.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="γ"),
            Column(title="α focal"),
            Column(title="α chain"),
            Column(title="CE reduction", kind="text"),
            Column(title="Steps"),
            Column(title="Softmax rows in training", kind="text"),
            Column(title="Parameters"),
            Column(title="Weights SHA-256", kind="text"),
            Column(title="Checkpoint", kind="wide"),
            Column(title="Training", kind="wide"),
        ),
        rows=tuple(rows),
    )


def _checkpoint_cells(checkpoint: CheckpointFacts) -> list[Cell]:
    objective = checkpoint.get("objective")
    training = checkpoint.get("training") or {}
    numbers = [
        Cell(text=form.number(objective[name])) if objective else Cell(text=form.BLANK)
        for name in ("gamma", "alpha_focal", "alpha_chain")
    ]
    digest, parameters = checkpoint.get("weights_sha256"), checkpoint.get("num_parameters")
    return [
        *numbers,
        Cell(text=_cross_entropy(objective) if objective else form.BLANK),
        _steps(training),
        Cell(text=_softmax_rows(training)),
        Cell(text=form.count(parameters) if parameters else form.BLANK, value=parameters),
        Cell(text=form.digest(digest), title=form.text(digest)),
        Cell(text=form.text(checkpoint.get("path"))),
        Cell(text=_in_short(training)),
    ]


def _steps(training: TrainingFacts) -> Cell:
    """Of all trainings that led here, the last one first."""
    taken: list[int | None] = []
    at: TrainingFacts | None = training
    while at is not None:
        taken.append(at.get("steps"))
        start = at.get("start_from")
        at = start["training"] or {} if start else None
    known = [steps for steps in taken if steps is not None]
    total = sum(known) if len(known) == len(taken) else None
    return Cell(text=" after ".join(map(form.text, taken)), value=total)


def _cross_entropy(objective: ObjectiveFacts) -> str:
    """How the cross-entropy was reduced, and whatever else of the row is not the paper's."""
    words = [form.text(objective["ce_reduction"])]
    if objective.get("alpha_ce", 1) != 1:
        words.append(f"α ce = {form.number(objective['alpha_ce'])}")
    if objective.get("dpace_alpha") is not None:
        words.append(f"D-PACE α = {form.number(objective['dpace_alpha'])}")
    if objective.get("ce_until_error"):
        words.append("up to the first error")
    if objective.get("distill"):
        words.append(f"{form.number(objective['distill'])} against the target's distribution")
    if objective.get("reward", "mean") != "mean":
        words.append(f"{form.text(objective['reward'])} reward")
    if objective.get("prefix_decay") is not None:
        words.append(f"behind a visible prefix, β = {form.number(objective['prefix_decay'])}")
    return ", ".join(words)


def _softmax_rows(training: TrainingFacts) -> str:
    """Size of the vocabulary the loss was computed over; drafting need not keep to it."""
    if "train_vocab_size" not in training:
        return form.BLANK
    if not training["train_vocab_size"]:
        return "all"
    vocabulary = training.get("data", {}).get("vocabulary")
    return "restricted" if vocabulary is None else f"restricted to {form.count(vocabulary)}"


def _in_short(training: TrainingFacts) -> str:
    """What tells one training from another and has no column: variant, data, seed and machine."""
    machine = training.get("hardware")
    facts = {
        "": training.get("name"),
        "data ": training.get("data", {}).get("name"),
        "seed ": training.get("seed"),
        "on ": form.hardware(machine) if isinstance(machine, Mapping) else None,
    }
    known = (f"{word}{value}" for word, value in facts.items() if value is not None)
    return " · ".join(known) or form.BLANK


_KINDS = {"samples": "samples: not the benchmark"}


def source_table(group: Comparison) -> Table:
    """Where the prompts of each task came from."""
    rows = []
    for task in group.first.config["tasks"]:
        source = task["source"]
        kind = str(source["kind"])
        chosen = len(task["prompt_ids"])
        cells = (
            Cell(text=str(task["task"])),
            Cell(text="; ".join(filter(None, (_KINDS.get(kind, kind), source.get("note"))))),
            Cell(text=str(source["location"])),
            Cell(text=form.digest(source["revision"]), title=form.text(source["revision"])),
            Cell(text=form.digest(source["digest"]), title=str(source["digest"])),
            Cell(text=form.count(source["num_rows"]), value=source["num_rows"]),
            Cell(text=form.count(chosen), value=chosen),
        )
        rows.append(Row(cells=cells))
    return Table(
        title="Prompts",
        note="Conversations each method answered, and the data they were chosen from.",
        columns=(
            Column(title="Task", kind="label"),
            Column(title="Source", kind="text"),
            Column(title="Location", kind="wide"),
            Column(title="Revision", kind="text"),
            Column(title="SHA-256", kind="text"),
            Column(title="Rows"),
            Column(title="Used"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def run_table(group: Comparison) -> Table:
    """Which code and which command measured the numbers."""
    rows = []
    for run in group.runs:
        environment = run.environment
        starts = [environment, *environment.get("resumed", [])]
        cells = (
            Cell(text=run.run_id),
            Cell(
                text=", ".join(
                    dict.fromkeys(form.commit(start["commit"], start["dirty"]) for start in starts)
                ),
                title=form.text(environment["commit"]),
            ),
            Cell(text=", resumed ".join(str(start["started_at"]) for start in starts)),
            Cell(text=form.text(run.config.get("seed"))),
            Cell(text=str(run.config["repeats"])),
            Cell(text=form.versions(environment["versions"])),
            Cell(text=shlex.join(["harness", *environment["argv"]])),
        )
        rows.append(Row(cells=cells))
    return Table(
        title="Runs",
        note="",
        columns=(
            Column(title="Run", kind="label"),
            Column(title="Commit", kind="text"),
            Column(title="Started", kind="text"),
            Column(title="Seed"),
            Column(title="Repeats"),
            Column(title="Versions", kind="wide"),
            Column(title="Command", kind="wide"),
        ),
        rows=tuple(rows),
    )


def audit_table(group: Comparison) -> Table | None:
    """Verdicts by method; None where nothing was audited."""
    rows = []
    tallies = [
        (run, item, tally(run.of(item["method"]), run.audits)) for run, item in group.ranked()
    ]
    unjudged = any(found.not_judged for _, _, found in tallies)
    for run, item, found in tallies:
        tie = found.largest_tie
        counts = (
            found.exact,
            found.ties_only,
            found.mismatch,
            *((found.not_judged,) if unjudged else ()),
            found.not_audited,
        )
        cells = (
            group.label(run, item["method"]),
            *(Cell(text=form.count(value), value=value) for value in counts),
            *(
                Cell(text=form.small(value), value=value)
                for value in ((tie.margin, tie.noise) if tie else (None, None))
            ),
        )
        rows.append(Row(cells=cells, muted=item["kind"] == "baseline"))
    if not any(run.audits for run in group.runs):
        return None
    return Table(
        title="Losslessness",
        note="Answers by verdict, and the token furthest below the target's best one that noise "
        "explains: its margin, and the noise there, in logits.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="exact"),
            Column(title="ties only"),
            Column(title="MISMATCH"),
            *((Column(title="not judged"),) if unjudged else ()),
            Column(title="not audited"),
            Column(title="Largest tie"),
            Column(title="Noise there"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def mismatch_table(group: Comparison) -> Table | None:
    """Every answer that is not the target's; None where all are."""
    rows = [
        Row(
            cells=(
                group.label(run, audit.method),
                Cell(text=audit.task),
                Cell(text=audit.prompt_id),
                Cell(text=str(audit.turn), value=audit.turn),
                Cell(text=str(audit.repeat), value=audit.repeat),
                *_mismatch_cells(deviation),
            )
        )
        for run in group.runs
        for audit, deviation in mismatches(run.audits.values())
    ]
    if not rows:
        return None
    return Table(
        title="MISMATCH",
        note="Answers with a token that noise does not explain: the first such position, counted "
        "from 0. Without a position every token stands; the answer ends where it must not, or "
        "is another although exact mode promised the same.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Task", kind="text"),
            Column(title="Prompt", kind="text"),
            Column(title="Turn"),
            Column(title="Repeat"),
            Column(title="Position"),
            Column(title="Margin"),
            Column(title="Noise"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def _mismatch_cells(deviation: Deviation | None) -> list[Cell]:
    if deviation is None:
        return [Cell(text=form.BLANK)] * 3
    return [
        Cell(text=str(deviation.position), value=deviation.position),
        Cell(text=form.small(deviation.margin), value=deviation.margin),
        Cell(text=form.small(deviation.noise), value=deviation.noise),
    ]


def failure_table(group: Comparison) -> Table | None:
    """Every generation that raised; None where none did."""
    frame = failure_frame(group.runs)
    if frame.empty:
        return None
    names = ["run_id", "method", "task", "prompt_id", "turn", "repeat", "error"]
    return Table(
        title="Failures",
        note="Generations that raised. They are part of no number.",
        columns=(
            Column(title="Run", kind="label"),
            Column(title="Drafter", kind="text"),
            Column(title="Task", kind="text"),
            Column(title="Prompt", kind="text"),
            Column(title="Turn"),
            Column(title="Repeat"),
            Column(title="Error", kind="wide"),
        ),
        rows=tuple(
            Row(cells=tuple(Cell(text=str(value)) for value in row))
            for row in frame[names].itertuples(index=False)
        ),
    )
