"""The main table of runs that may be compared, and what must be said above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness import metrics
from harness.distribution import describe_check
from harness.doubts import doubts
from harness.paired import or_none
from harness.run_facts import MethodFacts
from harness.verdicts import tally
from reports import foreign_mark, load_mark, policies
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, has_ranges, mark_best
from reports.group import MISMATCH, ORACLE, TOO_FEW, Comparison, is_oracle
from reports.policy_costs import cost_note
from reports.ranking import Place, Rank, ranks
from reports.run import Run, processes_a_host
from reports.tables import OVERALL


def main_table(group: Comparison) -> Table:
    """The leaderboard of one group."""
    tasks = group.first.tasks
    columns = _columns(tasks, group.first.sample_tasks)
    rows: list[Row] = []
    placed = ranks(group)
    for run, item in group.ranked():
        method, reason = str(item["method"]), group.unranked(run, item)
        scores = {name: group.score(run, method, name) for name in (OVERALL, *tasks)}
        label = group.label(run, method)
        if reason == ORACLE:
            label = replace(label, detail=ORACLE)
        rows.append(
            Row(
                cells=(
                    _rank_cell(group, run, item, placed.get((run.run_id, method))),
                    load_mark.marked(foreign_mark.marked(label, item), run, method),
                    *_draft_cells(item),
                    *_value_cells(group, run, method, scores),
                    _lossless_cell(group, run, method),
                ),
                muted=reason not in ("", TOO_FEW),
                unranked=reason not in ("", "baseline") or not placed,
            )
        )
    return Table(
        title="Leaderboard",
        note=_note(placed, rows),
        columns=columns,
        rows=mark_best(columns, rows),
        badge=group.badge,
    )


def _note(placed: Mapping[Place, Rank], rows: Sequence[Row]) -> str:
    """How rows are ordered and marked, as far as there is something of it to be seen."""
    sentences = []
    if placed:
        sentences.append("Ranked by overall decode speedup.")
    if any(rank.rivals for rank in placed.values()):
        sentences.append(
            "A range of ranks (1–3) stands where intervals do not tell drafters apart."
        )
    if placed:
        sentences.append("The best value measured in each column is bold.")
    if has_ranges(rows):
        sentences.append("Ranges behind values are 95 % intervals.")
    if any(cell.struck for row in rows for cell in row.cells):
        sentences.append("Struck out: of a text that is not the target's.")
    return " ".join(sentences)


def _rank_cell(group: Comparison, run: Run, item: MethodFacts, rank: Rank | None) -> Cell:
    if rank is None:
        return Cell(text=form.BLANK, title=group.unranked(run, item))
    return Cell(text=rank.text, value=rank.best)


def _columns(tasks: Sequence[str], samples: Sequence[str]) -> tuple[Column, ...]:
    any_sample = bool(samples)
    tau = [
        Column(
            title=task,
            group="τ, accepted length",
            markdown=f"τ {task}",
            best="high",
            flagged=task in samples,
        )
        for task in tasks
    ]
    speed = [
        Column(
            title=task,
            group="Decode speedup",
            markdown=f"speedup {task}",
            best="high",
            flagged=task in samples,
        )
        for task in tasks
    ]
    return (
        Column(title="#", markdown="Rank", kind="rank"),
        Column(title="Drafter", kind="label"),
        Column(title="Block"),
        Column(title="Draft", kind="text"),
        Column(
            title=OVERALL,
            group="τ, accepted length",
            markdown="τ",
            best="high",
            flagged=any_sample,
        ),
        *tau,
        Column(
            title=OVERALL,
            group="Decode speedup",
            markdown="speedup",
            best="high",
            flagged=any_sample,
        ),
        *speed,
        Column(title="End to end", markdown="end-to-end speedup", best="high", flagged=any_sample),
        Column(title="Tokens/s", best="high", flagged=any_sample),
        Column(title="Peak GiB", best="low"),
        Column(title="n"),
        Column(title="Failed"),
        Column(title="Lossless", kind="text"),
    )


def _draft_cells(item: MethodFacts) -> tuple[Cell, Cell]:
    block, size = item.get("block_size"), item.get("draft_vocab_size")
    words = [form.text(item.get("draft"))]
    if size:
        words.append(f"{form.count(size)} tokens")
    # A label hides the settings of policies from the name.
    stack = policies.stack(item)
    if stack not in item["method"]:
        words.append(stack)
    return Cell(text=form.text(block), value=block), Cell(text=", ".join(words))


def _value_cells(
    group: Comparison, run: Run, method: str, scores: Mapping[str, Mapping[str, Any]]
) -> list[Cell]:
    overall = scores[OVERALL]
    memory = overall["peak_memory_bytes"]
    reason = MISMATCH if group.is_refuted(run, method) else ""
    speeds = [
        *_with_interval(scores, "tau", form.ratio, reason),
        *_with_interval(scores, "speedup", form.times, reason),
        Cell(text=form.times(overall["speedup_end_to_end"]), value=overall["speedup_end_to_end"]),
        Cell(text=form.rate(overall["tokens_per_s"]), value=overall["tokens_per_s"]),
    ]
    return [
        *(group.speed(run, method, cell) for cell in speeds),
        Cell(text=form.gibibytes(memory), value=memory),
        Cell(text=form.count(overall["num_generations"]), value=overall["num_generations"]),
        Cell(text=form.count(overall["num_failures"]), value=overall["num_failures"]),
    ]


def _lossless_cell(group: Comparison, run: Run, method: str) -> Cell:
    """The worst verdict; on how many answers, where that is not all of them."""
    own = run.of(method)
    if drawn := group.checks[run.run_id].get(method):
        return Cell(text=drawn.verdict, title=describe_check(method, drawn))
    found = tally(own, run.audits)
    if found.worst is None:
        return Cell(text=form.BLANK)
    audited = len(own) - found.not_audited
    detail = f"{audited} of {len(own)} audited" if found.not_audited else ""
    return Cell(text=found.worst, detail=detail, title=found.counts)


def _with_interval(
    scores: Mapping[str, Mapping[str, Any]], key: str, rule: Callable[[Any], str], reason: str
) -> list[Cell]:
    """The overall value with its interval, or why it does not count; then those of the tasks."""
    cells = [Cell(text=rule(score[key]), value=score[key]) for score in scores.values()]
    overall = scores[OVERALL]
    detail = reason or form.interval(overall[f"{key}_low"], overall[f"{key}_high"])
    return [replace(cells[0], detail=detail), *cells[1:]]


def notes(group: Comparison) -> list[str]:
    """What a reader must know about how the numbers came about."""
    found: list[str] = []
    for run in group.runs:
        for note in _run_notes(group, run):
            several = len(group.runs) > 1
            found.append(f"Run {run.run_id}: {note}" if several else note[0].upper() + note[1:])
    return found


def _run_notes(group: Comparison, run: Run) -> list[str]:
    found = [_baseline_note(run, group.headline)]
    if sharing := _sharing_note(run):
        found.append(sharing)
    if run.torn:
        found.append("the last line of the records was cut off mid-write and is left out.")
    for item in run.methods:
        method = item["method"]
        score = group.score(run, method)
        total = int(score["num_generations"])
        missing, failed = run.num_missing(method), int(score["num_failures"])
        left_out, unpaired = score["num_without_rounds"], total - score["num_paired"]
        if missing:
            found.append(
                f"unfinished: {method} has not been asked every turn of {missing} of "
                f"{run.num_conversations} conversations."
            )
        if failed:
            found.append(f"failures of {method}: {failed}; listed below, part of no number.")
        judged = tally(run.of(method), run.audits)
        if judged.mismatch:
            found.append(
                f"MISMATCH: {judged.mismatch} of {total} answers of {method} are not the target's; "
                "listed below."
            )
        if judged.not_judged:
            found.append(
                f"not judged: {judged.not_judged} of {total} answers of {method} hold more noise "
                f"than rounding makes ({form.small(judged.most_noise)}), so they are not shown to "
                "be the target's."
            )
        drawn = group.checks[run.run_id].get(method)
        if drawn is not None and drawn.verdict == "MISMATCH":
            found.append(f"MISMATCH: the draws of {method} are not the target's; see below.")
        if is_oracle(item):
            found.append(_oracle_note(item))
        if cost := cost_note(group, run, item):
            found.append(cost)
        if 0 < left_out < total:
            found.append(f"{left_out} of {total} answers of {method} have no rounds: not in τ.")
        if unpaired:
            found.append(
                f"{unpaired} of {total} answers of {method} have no baseline answer to the same "
                "prompt tokens: not in the speedups."
            )
    greedy = run.config["sampling"]["temperature"] == 0
    found += [
        f"doubt about {method}: {doubt}."
        for method, doubt in doubts(run.generations, run.stages, greedy=greedy)
    ]
    return found + load_mark.footnote(run) + foreign_mark.footnotes(run)


def _oracle_note(item: MethodFacts) -> str:
    method = item["method"]
    if item.get("drafter") == "synthetic":
        what = f"acceptance of {method} is chosen by hand ({form.text(item.get('argument'))})"
    else:
        what = f"oracle: {method} is told the answers that it drafts"
    return f"{what}: an upper bound, not a drafter, and not ranked."


def _sharing_note(run: Run) -> str:
    """Empty where every answer had its host to itself."""
    numbers = processes_a_host(run)
    if max(numbers, default=1) == 1:
        return ""
    num_timed = len(metrics.timed(run.generations))
    return (
        f"measured with {' or '.join(map(str, numbers))} processes at work on a host, which slow "
        f"each other: speedups and tokens/s are those of one process a host ({num_timed} of "
        f"{len(run.generations)} answers); τ counts every answer."
    )


def _baseline_note(run: Run, headline: str | None) -> str:
    if headline is None:
        return "no baseline decoded anything, so there are no speedups."
    speeds = {name: or_none(metrics.tokens_per_s, run.of(name)) for name in run.baselines}
    if speeds.get(headline) is None:
        return f"{headline}, the headline baseline, decoded nothing, so there are no speedups."
    shown = [f"{name} {form.rate(speed)}" for name, speed in speeds.items() if speed is not None]
    return f"speedups divide by {headline}, the headline baseline ({', '.join(shown)} tokens/s)."
