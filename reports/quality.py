"""Whether the answers are right, beside how fast they came."""

from __future__ import annotations

from harness import quality
from harness.quality import VERDICTS, ScoreTally
from harness.run_facts import MethodFacts
from harness.score_records import CodeFacts
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison
from reports.run import Run

NOT_RUN = "not run"


def quality_table(group: Comparison) -> Table | None:
    """Shares passed by task and method; None where nothing can be scored."""
    rows = [
        Row(
            cells=(Cell(text=task), group.label(run, item["method"]), *_cells(run, task, item)),
            muted=item["kind"] == "baseline",
        )
        for task in group.first.tasks
        for run, item in group.ranked()
        if run.scored.scoring is not None
        and task in run.scored.scoring.tasks
        and run.of(item["method"], task)
    ]
    if not rows:
        return None
    return Table(
        title="Quality",
        note=" ".join((_NOTE, *_notes_of_tasks(group), *_containments(group))),
        columns=(
            Column(title="Task", kind="label"),
            Column(title="Drafter", kind="text"),
            Column(title="passed %"),
            Column(title="95 %", kind="text"),
            Column(title="n"),
            *(Column(title=verdict, group="Answers") for verdict in VERDICTS),
            *(
                Column(title=title, group="Against ar_loop", markdown=f"{title} (ar_loop)")
                for title in ("difference", "lost", "won", "p")
            ),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


_NOTE = (
    "passed % is of the n answers that were tried, with Wilson's 95 % interval. Against ar_loop, "
    "on the prompts where both were tried: difference in points, lost and won prompts, and p."
)
_NOTES_OF_TASKS = {
    "mbpp": "MBPP's prompt does not name the function that its tests call.",
    "livecodebench": (
        "LiveCodeBench's shares are not upstream's pass@1: only the public tests are run, one "
        "answer a prompt counts, a program runs as it stands instead of inside a function, its "
        "results are compared outside its process, and of several blocks the one that defines what "
        "is called is taken (docs/graders.md lists every difference)."
    ),
}


def _cells(run: Run, task: str, method: MethodFacts) -> tuple[Cell, ...]:
    name = str(method["method"])
    found = quality.tally(run.of(name, task), run.scored.scores)
    counts = [found.counts[verdict] for verdict in VERDICTS]
    return (
        _share(found),
        Cell(text=form.percents(found.interval)),
        _count(found.num_scored),
        *map(_count, counts),
        *_against_ar_loop(run, task, name),
    )


def _share(found: ScoreTally) -> Cell:
    if found.share is None:
        return Cell(text=NOT_RUN if found.counts else form.BLANK)
    return Cell(text=form.share(found.share), value=found.share)


def _against_ar_loop(run: Run, task: str, method: str) -> list[Cell]:
    found = quality.difference(task, "ar_loop", method, run.scored.scores)
    if method == "ar_loop" or found.share is None or found.p_value is None:
        return [Cell(text=form.BLANK)] * 4
    return [
        Cell(text=form.points(found.share), value=found.share),
        _count(found.num_lost),
        _count(found.num_won),
        Cell(text=form.small(found.p_value), value=found.p_value),
    ]


def _count(value: int) -> Cell:
    return Cell(text=form.count(value), value=value)


def _notes_of_tasks(group: Comparison) -> list[str]:
    """What is to be known of the tasks that can be scored."""
    scored = {task for run in group.runs if (found := run.scored.scoring) for task in found.tasks}
    return [note for task, note in _NOTES_OF_TASKS.items() if task in scored]


def _containments(group: Comparison) -> list[str]:
    """What programs ran under, in one sentence a distinct state."""
    found = []
    for run in group.runs:
        scoring = run.scored.scoring
        if scoring is None or not any(rule.runs_code for rule in scoring.tasks.values()):
            continue
        if scoring.code is None:
            found.append("Programs in answers were not run.")
        else:
            found.append(_code(scoring.code))
    return list(dict.fromkeys(found))


def _code(code: CodeFacts) -> str:
    """Interpreter, limits and fences that answers ran under."""
    limits = ", ".join(f"{name} {value:,}" for name, value in code.limits.items())
    numpy = f" (numpy {code.numpy} for LiveCodeBench)" if code.numpy else ""
    parts = [f"Programs ran under Python {code.python}{numpy}, with limits {limits}"]
    held = code.containment["held"]
    for words, wanted in (("tried and contained", True), ("NOT contained", False)):
        names = [name.replace("_", " ") for name, holds in held.items() if holds is wanted]
        if names:
            parts.append(f"{words}: {', '.join(names)}")
    return "; ".join(parts) + "."
