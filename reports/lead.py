"""The answer in a few sentences, which say no more than the numbers show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import metrics
from harness.bootstrap import MIN_CONVERSATIONS
from harness.verdicts import tally
from reports import formatting as form
from reports import load_mark
from reports.group import TOO_FEW, Comparison
from reports.ranking import Place, Rank, ranks
from reports.run import Run

_Method = tuple[Run, Mapping[str, Any]]


def lead(group: Comparison) -> str:
    """Which drafter is fastest, as far as that is shown; empty where no speed was measured."""
    drafters = [pair for pair in group.ranked() if pair[1]["kind"] == "drafter"]
    if all(group.score(run, item["method"])["speedup"] is None for run, item in drafters):
        return ""
    reasons = [(pair, group.unranked(*pair)) for pair in drafters]
    ranked = [pair for pair, reason in reasons if not reason]
    too_few = [pair for pair, reason in reasons if reason == TOO_FEW]
    sentences: list[str] = []
    if ranked:
        sentences += _first(group, ranked)
    elif too_few:
        sentences.append(_too_few(group, too_few))
    left_out = [
        f"{_name(group, *pair)} ({reason})"
        for pair, reason in reasons
        if reason and (ranked or reason != TOO_FEW)
    ]
    if left_out:
        sentences.append(f"Not ranked: {', '.join(left_out)}.")
    sentences += _gaps(group)
    return " ".join(sentences)


def _first(group: Comparison, ranked: Sequence[_Method]) -> list[str]:
    """On the drafter with the highest speedup measured, and what is shown of it."""
    run, item = ranked[0]
    placed = ranks(group)
    name, numbers = _name(group, run, item), _numbers(group, run, str(item["method"]))
    lows = [_low(group, pair) for pair in ranked]
    faster = [_name(group, *pair) for pair, low in zip(ranked, lows, strict=True) if low > 1]
    rivals = _rivals(group, placed[run.run_id, str(item["method"])])
    if lows[0] > 1:
        word = "Fastest measured drafter" if rivals else "Fastest drafter"
        found = [f"{word}: {name}, decoding at {numbers}."]
    elif faster:
        found = [
            f"Fastest measured drafter: {name}, decoding at {numbers}.",
            f"It is not shown to be faster than {group.headline}; {', '.join(faster)} "
            f"{'is' if len(faster) == 1 else 'are'}.",
        ]
    else:
        found = [
            f"No drafter is shown to be faster than {group.headline}.",
            f"Fastest measured: {name}, decoding at {numbers}.",
        ]
    if rivals:
        found.append(f"Not shown to be faster than {', '.join(rivals)}.")
    loads = load_mark.loads(run, dict.fromkeys((str(item["method"]), group.headline or "")))
    if loads:
        found.append(f"Measured beside other work ({loads} cores): times are less certain.")
    return found


def _numbers(group: Comparison, run: Run, method: str) -> str:
    """Speedup and τ with their intervals, what they rest on, and the verdict."""
    score = group.score(run, method)
    speed = form.spread(score["speedup_low"], score["speedup_high"])
    parts = [
        f"{form.times(score['speedup'])} (95 % interval {speed}) the speed of {group.headline}"
    ]
    if score["tau"] is not None:
        tau = form.spread(score["tau_low"], score["tau_high"])
        parts.append(f"with τ = {form.ratio(score['tau'])}{f' ({tau})' if tau else ''}")
    pairs = metrics.timed_pairs(run.of(group.headline or ""), run.of(method))
    prompts = {(item.task, item.prompt_id) for _, item in pairs}
    counts = form.counted(len(pairs), "answer"), form.counted(len(prompts), "prompt")
    return f"{', '.join(parts)}; n = {counts[0]} to {counts[1]}, {_lossless(group, run, method)}"


def _lossless(group: Comparison, run: Run, method: str) -> str:
    verdict = group.verdicts[run.run_id, method]
    if verdict is None:
        return "not audited"
    if group.checks[run.run_id].get(method):
        return f"draws {verdict} with the target's"
    missing = tally(run.of(method), run.audits).not_audited
    return f"{verdict} ({form.count(missing)} not audited)" if missing else verdict


def _too_few(group: Comparison, methods: Sequence[_Method]) -> str:
    """What an interval lacks, by the drafter that lacks least."""
    found = []
    for run, item in methods:
        counts = {
            task: len({own.prompt_id for _, own in pairs})
            for task in run.tasks
            if (
                pairs := metrics.timed_pairs(
                    run.of(group.headline or "", task), run.of(item["method"], task)
                )
            )
        }
        found.append(counts)
    most = max(found, key=lambda counts: min(counts.values(), default=0))
    short = [f"{task} has {num}" for task, num in most.items() if num < MIN_CONVERSATIONS]
    if not short:
        return "Too few decoded tokens to rank: the answers leave no interval."
    return (
        f"Too few prompts to rank: an interval needs {MIN_CONVERSATIONS} conversations of every "
        f"task, and {', '.join(short)}."
    )


def _gaps(group: Comparison) -> list[str]:
    """What the numbers rest on less than was asked for."""
    found = []
    methods = [(run, str(item["method"])) for run in group.runs for item in run.methods]
    missing = max(run.num_missing(method) for run, method in methods)
    if missing:
        lacking = form.counted(missing, "conversation")
        found.append(f"Unfinished: up to {lacking} of a method not asked yet.")
    failed = sum(len(run.failures) for run in group.runs)
    if failed:
        found.append(f"Failed: {form.counted(failed, 'answer')}, part of no number.")
    return found


def _low(group: Comparison, pair: _Method) -> float:
    return float(group.score(pair[0], pair[1]["method"])["speedup_low"])


def _rivals(group: Comparison, rank: Rank) -> list[str]:
    by_place: dict[Place, str] = {
        (run.run_id, str(item["method"])): _name(group, run, item) for run, item in group.ranked()
    }
    return [by_place[place] for place in rank.rivals]


def _name(group: Comparison, run: Run, item: Mapping[str, Any]) -> str:
    return group.label(run, item["method"]).text
