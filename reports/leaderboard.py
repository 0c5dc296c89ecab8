"""The main table of runs that may be compared, and what must be said above it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import metrics
from harness.distribution import describe_check
from harness.paired import or_none
from harness.verdicts import tally
from reports import differences, load_mark, policies
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, mark_best
from reports.group import Comparison, competes, is_oracle
from reports.policy_costs import cost_note
from reports.run import Run, processes_a_host
from reports.tables import OVERALL


def main_table(group: Comparison) -> Table:
    """The leaderboard of one group."""
    tasks = group.first.tasks
    columns = _columns(tasks, group.first.sample_tasks)
    rows: list[Row] = []
    ranks = _ranks(group)
    for run, item in group.ranked():
        scores = {name: group.score(run, item["method"], name) for name in (OVERALL, *tasks)}
        rows.append(
            Row(
                cells=(
                    ranks.get((run.run_id, item["method"]), Cell(text=form.BLANK)),
                    load_mark.marked(group.label(run, item["method"]), run, item["method"]),
                    *_draft_cells(item),
                    *_value_cells(scores, tasks),
                    _lossless_cell(group, run, item["method"]),
                ),
                muted=not competes(item),
                oracle=is_oracle(item),
            )
        )
    return Table(
        title="Leaderboard",
        note="Ranked by overall decode speedup; = marks a tie, a row not shown to be slower than "
        "the one above. Best value of each column in bold; ranges are 95 % intervals.",
        columns=columns,
        rows=mark_best(columns, rows),
        badge=group.badge,
    )


def _ranks(group: Comparison) -> dict[tuple[str, str], Cell]:
    """Run and method to the rank shown: a tie has the rank of the row above, both marked ``=``."""
    ranked = [
        (run, str(item["method"]))
        for run, item in group.ranked()
        if competes(item) and group.score(run, item["method"])["speedup"] is not None
    ]
    headline = group.headline or ""
    ties = [differences.is_tie(*pair, headline) for pair in itertools.pairwise(ranked)]
    cells = {}
    rank = 1
    for place, (run, method) in enumerate(ranked, start=1):
        with_above, with_below = any(ties[place - 2 : place - 1]), any(ties[place - 1 : place])
        rank = rank if with_above else place
        text = f"{rank}=" if with_above or with_below else str(rank)
        cells[run.run_id, method] = Cell(text=text, value=rank)
    return cells


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


def _draft_cells(item: Mapping[str, Any]) -> tuple[Cell, Cell]:
    block, size = item.get("block_size"), item.get("draft_vocab_size")
    words = [form.text(item.get("draft"))]
    if size:
        words.append(f"{form.count(size)} tokens")
    # A label hides the settings of policies from the name.
    stack = policies.stack(item)
    if stack not in item["method"]:
        words.append(stack)
    return Cell(text=form.text(block), value=block), Cell(text=", ".join(words))


def _value_cells(scores: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> list[Cell]:
    overall = scores[OVERALL]
    memory = overall["peak_memory_bytes"]
    return [
        *_with_interval(scores, tasks, "tau", form.ratio),
        *_with_interval(scores, tasks, "speedup", form.times),
        Cell(text=form.times(overall["speedup_end_to_end"]), value=overall["speedup_end_to_end"]),
        Cell(text=form.rate(overall["tokens_per_s"]), value=overall["tokens_per_s"]),
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
    scores: Mapping[str, Mapping[str, Any]],
    tasks: Sequence[str],
    key: str,
    rule: Callable[[Any], str],
) -> list[Cell]:
    """The overall value with its interval, then those of the tasks."""
    overall = scores[OVERALL]
    detail = form.interval(overall[f"{key}_low"], overall[f"{key}_high"])
    cells = [Cell(text=rule(scores[name][key]), value=scores[name][key]) for name in tasks]
    return [Cell(text=rule(overall[key]), value=overall[key], detail=detail), *cells]


def lead(group: Comparison) -> str:
    """The answer in a sentence; empty where no drafter has an overall speedup."""
    run, item = group.ranked()[0]
    score = group.score(run, item["method"])
    if not competes(item) or score["speedup"] is None:
        return ""
    accepted = "" if score["tau"] is None else f" and τ = {form.ratio(score['tau'])}"
    verdict = "Fastest drafter" if score["speedup"] > 1 else "No drafter beats the baseline; best"
    ranks = _ranks(group)
    # A row of ties may be long; those at its end can differ from the one at its head.
    rivals = [
        str(other["method"])
        for owner, other in group.ranked()[1:]
        if (cell := ranks.get((owner.run_id, other["method"]))) is not None
        and cell.value == 1
        and differences.is_tie(
            (run, item["method"]), (owner, other["method"]), group.headline or ""
        )
    ]
    tied = f" Not shown to be faster than {', '.join(rivals)}." if rivals else ""
    return (
        f"{verdict}: {item['method']}, decoding at {form.times(score['speedup'])} the speed "
        f"of {group.headline}{accepted}.{tied}"
    )


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
        if wrong := tally(run.of(method), run.audits).mismatch:
            found.append(
                f"MISMATCH: {wrong} of {total} answers of {method} are not the target's; listed "
                "below."
            )
        drawn = group.checks[run.run_id].get(method)
        if drawn is not None and drawn.verdict == "MISMATCH":
            found.append(f"MISMATCH: the draws of {method} are not the target's; see below.")
        if is_oracle(item):
            found.append(
                f"acceptance of {method} is chosen by hand ({form.text(item.get('argument'))}): "
                "an upper bound, not a drafter, and not ranked."
            )
        if cost := cost_note(group, run, item):
            found.append(cost)
        if 0 < left_out < total:
            found.append(f"{left_out} of {total} answers of {method} have no rounds: not in τ.")
        if unpaired:
            found.append(
                f"{unpaired} of {total} answers of {method} have no baseline answer to the same "
                "prompt tokens: not in the speedups."
            )
    return found + load_mark.footnote(run)


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
