"""Two runs, number by number: what differs between them, and how each shared method changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from harness import metrics, paired
from harness.bootstrap import MIN_CONVERSATIONS
from harness.distribution import checks
from harness.errors import UserError
from harness.metrics import NoData, Sides
from harness.paired import Estimate
from harness.records import Generation, key_of
from harness.run_facts import MethodFacts
from harness.same_run import plugins
from reports import formatting as form
from reports.group import MISMATCH, worst_verdict
from reports.policies import stack
from reports.run import Run, conditions
from reports.tables import OVERALL

Label = Literal["A", "B"]
_OTHER: Mapping[Label, Label] = {"A": "B", "B": "A"}

_NEW_TOKENS = ("model", "chat template", "thinking", "template date")
"""Where one of these differs, no prompt has the same tokens in both runs."""
_DRAFTER_FACTS = ("block_size", "draft", "draft_vocab_size", "argument")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One method on one task, or overall, in both runs and on the answers both have."""

    method: str
    kind: str
    """``baseline`` or ``drafter``."""
    task: str
    num_answers: int
    """Of each run."""
    tau_a: Estimate
    tau_b: Estimate
    tau_difference: Estimate
    """B less A."""
    speedup_a: Estimate
    """Decode speedup over the baseline of the same run."""
    speedup_b: Estimate
    speedup_ratio: Estimate
    """B over A, each over its own run's baseline: a machine that was slower for a day cancels."""
    speed_ratio: Estimate
    """Decoded tokens a second, B over A, as measured: the machine's day included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Everything `compare` says."""

    run_a: Run
    run_b: Run
    baseline: str
    """What speedups divide by in both runs: `harness.metrics.headline_baseline`."""
    differences: tuple[str, ...]
    """Conditions that are not the same; empty where the runs are comparable."""
    notes: tuple[str, ...]
    """Versions and drafters that are not the same."""
    dropped: Mapping[tuple[Label, str, str], int]
    """Answers left out, by run, task and reason."""
    refuted: Mapping[Label, tuple[str, ...]]
    """Methods with a MISMATCH, by run: their numbers are of a text that is not the target's."""
    changes: tuple[Change, ...]


class _Side:
    """One run as the other one sees it."""

    def __init__(self, label: Label, run: Run) -> None:
        self.label, self.run = label, run
        self.answers = {key_of(item): item for item in run.generations}

    @cached_property
    def failed(self) -> set[tuple[str, str, int, str, int]]:
        return {key_of(item) for item in self.run.failures}

    @cached_property
    def methods(self) -> dict[str, MethodFacts]:
        return {str(item["method"]): item for item in self.run.methods}

    @cached_property
    def refuted(self) -> tuple[str, ...]:
        drawn = checks(self.run.generations, self.run.draws)
        return tuple(
            name for name in self.methods if worst_verdict(self.run, name, drawn) == MISMATCH
        )

    def baseline_of(self, item: Generation, baseline: str) -> Generation | None:
        """The baseline's answer to the same prompt tokens in the same run."""
        key = (item.task, item.prompt_id, item.turn, baseline, item.repeat)
        found = self.answers.get(key)
        return found if found and found.prompt_sha256 == item.prompt_sha256 else None


def compare(run_a: Run, run_b: Run, *, allow_different: bool) -> RunComparison:
    """Every shared method on the answers both runs have.

    Raises:
        UserError: the runs differ in more than their drafters and ``allow_different`` is not set,
            or they have no answer in common.
    """
    different = _different(run_a, run_b)
    if different and not allow_different:
        raise UserError(
            f"the runs are not comparable: {'; '.join(different.values())}; measure both alike, or "
            "compare them anyway with --allow-different."
        )
    sides = _Side("A", run_a), _Side("B", run_b)
    baseline = _shared_baseline(*sides)
    same_tokens = not any(name in different for name in _NEW_TOKENS)
    shared, dropped = _shared(sides, baseline, same_tokens)
    tasks = [task for task in run_a.tasks if (baseline, task) in shared]
    if not tasks:
        raise UserError(
            "the runs have no answer in common, so there is nothing to compare; measure the same "
            "tasks, prompts and methods in both."
        )
    changes: list[Change] = []
    for name in (name for name in sides[0].methods if name in sides[1].methods):
        kind = str(sides[0].methods[name]["kind"])
        changes += [_change(name, kind, task, [shared.get((name, task), ())]) for task in tasks]
        every = [shared.get((name, task), ()) for task in tasks]
        changes.append(_change(name, kind, OVERALL, every))
    return RunComparison(
        run_a=run_a,
        run_b=run_b,
        baseline=baseline,
        differences=tuple(different.values()),
        notes=tuple(_notes(*sides)),
        dropped=dropped,
        refuted={side.label: side.refuted for side in sides},
        changes=tuple(changes),
    )


def slower_methods(comparison: RunComparison, fail_below: float) -> list[str]:
    """Drafters whose decode speed fell below ``fail_below`` times what it was.

    Tested is the overall speedup of B over that of A, each over the baseline of its own run, so
    that a machine which was slower during one run is no failure. A drafter fails where the ratio
    AND the upper end of its paired 95 % interval lie below: a change within the spread over
    prompts passes. At a limit of 1, a drafter whose speed did not change still fails by chance in
    about 1 of 40 comparisons; at 0.98 the change must also be larger than 2 %. What moves a
    drafter and not its baseline from one run to the next is taken for a change.

    Raises:
        UserError: no drafter is shared, or one has no interval or a MISMATCH; a gate that cannot
            judge must not pass.
    """
    for label, methods in comparison.refuted.items():
        if methods:
            raise UserError(
                f"--fail-below cannot judge: {', '.join(methods)} of run {label} "
                f"{'has' if len(methods) == 1 else 'have'} a MISMATCH, so the speed is of a text "
                "that is not the target's."
            )
    overall = [
        item for item in comparison.changes if item.task == OVERALL and item.kind == "drafter"
    ]
    unknown = [item.method for item in overall if not item.speedup_ratio.has_interval]
    if not overall or unknown:
        what = f"no interval for {', '.join(unknown)}" if unknown else "no drafter is in both runs"
        raise UserError(
            f"--fail-below cannot judge: {what}; measure the same drafters in both runs, on at "
            f"least {MIN_CONVERSATIONS} conversations of every shared task."
        )
    return [
        item.method
        for item in overall
        if (item.speedup_ratio.value or 0.0) < fail_below
        and (item.speedup_ratio.high or 0.0) < fail_below
    ]


def _different(run_a: Run, run_b: Run) -> dict[str, str]:
    """Name of each condition that differs, and half a sentence about it."""
    facts_a, facts_b = conditions(run_a), conditions(run_b)
    sources_a, sources_b = (
        {f"prompts of {task['task']}": task["source"] for task in run.config["tasks"]}
        for run in (run_a, run_b)
    )
    plugins_a, plugins_b = plugins(run_a.environment), plugins(run_b.environment)
    for name in (name for name in plugins_a if name in plugins_b):
        facts_a[f"plug-in {name}"], facts_b[f"plug-in {name}"] = plugins_a[name], plugins_b[name]
    for name in (name for name in sources_a if name in sources_b):
        for facts, source in ((facts_a, sources_a[name]), (facts_b, sources_b[name])):
            facts[name] = f"{source['kind']} {form.digest(source['digest'])}"
    return {
        name: f"{name} {_fact(facts_a[name])} in A and {_fact(facts_b[name])} in B"
        for name in facts_a
        if facts_a[name] != facts_b[name]
    }


def _fact(value: object) -> str:
    """A condition in a sentence; digests and commits shortened."""
    text = "unknown" if value is None or value == "" else str(value)
    return form.digest(text) if len(text) in (40, 64) and text.isalnum() else text


def _shared_baseline(side_a: _Side, side_b: _Side) -> str:
    names = [name for name in side_a.run.baselines if name in side_b.run.baselines]
    try:
        return metrics.headline_baseline(
            {name: [side_a.run.of(name), side_b.run.of(name)] for name in names}
        )
    except NoData as error:
        raise UserError(
            "no baseline decoded anything in both runs, so there is nothing to compare by; "
            "measure both with --baseline ar_loop."
        ) from error


def _shared(
    sides: tuple[_Side, _Side], baseline: str, same_tokens: bool
) -> tuple[dict[tuple[str, str], list[tuple[Generation, ...]]], Counter[tuple[Label, str, str]]]:
    """Answers both runs have, and counts of the others.

    Returns:
        Baseline and method in A, then in B, by method and task; answers left out, by run, task
        and reason.
    """
    shared: dict[tuple[str, str], list[tuple[Generation, ...]]] = {}
    dropped: Counter[tuple[Label, str, str]] = Counter()
    for own, other in (sides, sides[::-1]):
        for key, item in own.answers.items():
            twin = other.answers.get(key)
            reason = _reason(item, own, other, same_tokens)
            slow, twin_slow = (
                own.baseline_of(item, baseline),
                twin and other.baseline_of(twin, baseline),
            )
            if reason or twin is None or slow is None or twin_slow is None:
                dropped[own.label, item.task, reason or _NO_BASELINE] += 1
            elif own is sides[0]:
                # Prompts that differ by design are paired by their names.
                second = [replace(x, prompt_sha256=item.prompt_sha256) for x in (twin_slow, twin)]
                shared.setdefault((item.method, item.task), []).append((slow, item, *second))
    return shared, dropped


_NO_BASELINE = "no answer of the baseline to the same prompt in both runs"


def _reason(item: Generation, own: _Side, other: _Side, same_tokens: bool) -> str:
    """Why an answer has no twin in the other run; empty where it has one."""
    there, key = _OTHER[own.label], key_of(item)
    twin = other.answers.get(key)
    if item.task not in other.run.tasks:
        return f"task not in {there}"
    if item.method not in other.methods:
        return f"{item.method} not in {there}"
    if twin is None:
        return f"failed in {there}" if key in other.failed else f"not asked in {there}"
    if same_tokens and twin.prompt_sha256 != item.prompt_sha256:
        return f"other prompt tokens in {there}"
    return ""


def _change(
    method: str, kind: str, task: str, tasks: Sequence[Sequence[tuple[Generation, ...]]]
) -> Change:
    sides = [tuple([item[i] for item in shared] for i in range(4)) for shared in tasks]
    runs: list[tuple[Sides, Sides]] = [((a0, a1), (b0, b1)) for a0, a1, b0, b1 in sides]
    both: list[Sides] = [(first[1], second[1]) for first, second in runs]
    return Change(
        method=method,
        kind=kind,
        task=task,
        num_answers=sum(len(shared) for shared in tasks),
        tau_a=paired.tau([first for first, _ in both]),
        tau_b=paired.tau([second for _, second in both]),
        tau_difference=paired.tau_difference(both),
        speedup_a=paired.speedup([first for first, _ in runs]),
        speedup_b=paired.speedup([second for _, second in runs]),
        speedup_ratio=paired.speedup_change(runs),
        speed_ratio=paired.speedup(both),
    )


def _notes(side_a: _Side, side_b: _Side) -> list[str]:
    """Differences that are no reason to refuse: versions, code, and the drafters themselves."""
    found = []
    versions_a, versions_b = (side.run.environment["versions"] for side in (side_a, side_b))
    for name in ("torch", "transformers"):
        old, new = versions_a.get(name), versions_b.get(name)
        if old != new:
            found.append(f"{name} {form.text(old)} in A and {form.text(new)} in B")
    for name in (name for name in side_a.methods if name in side_b.methods):
        facts = [_drafter_facts(side.methods[name]) for side in (side_a, side_b)]
        found += [
            f"{name}: {fact} {form.text(old)} in A and {form.text(facts[1][fact])} in B"
            for fact, old in facts[0].items()
            if old != facts[1][fact]
        ]
    return found


def _drafter_facts(item: MethodFacts) -> dict[str, Any]:
    checkpoint = item.get("checkpoint") or {}
    second = checkpoint.get("second") or {}
    return {
        **{name: item.get(name) for name in _DRAFTER_FACTS},
        "policies": stack(item),
        "weights": form.digest(checkpoint.get("weights_sha256")),
        "second drafter's weights": form.digest(second.get("weights_sha256")),
    }
