"""Objective × test-time method: whether what training gains lasts under every policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness import paired
from harness.metrics import Sides
from harness.paired import Estimate
from harness.records import Generation
from reports import formatting as form
from reports import load_mark
from reports.differences import by_task
from reports.grid import Cell, Column, Row, Table, has_ranges
from reports.group import Comparison
from reports.policies import OWN_CHAIN, Lineup, lineups
from reports.run import Run

_Answers = Mapping[str, Sequence[Sequence[Generation]]]
"""Of each method of a run, by task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """A number of a method, and how two methods and two gains are compared by it."""

    key: str
    """Column of the scores."""
    name: str
    heading: str
    gain: Callable[[Sequence[Sides]], Estimate]
    change: Callable[[Sequence[tuple[Sides, Sides]]], Estimate]
    show: Callable[[float | None], str]
    show_gain: Callable[[float | None], str]
    no_gain: float
    comparison: str
    """What a gain is, in a word."""
    additive: str
    """When two gains leave each other alone."""


_MEASURES = (
    _Measure(
        key="tau",
        name="τ",
        heading="τ, accepted length",
        gain=paired.tau_difference,
        change=paired.tau_change,
        show=form.ratio,
        show_gain=form.signed,
        no_gain=0,
        comparison="difference",
        additive="+0.00 where the two gains add up",
    ),
    _Measure(
        key="speedup",
        name="decode speedup",
        heading="Decode speedup",
        gain=paired.speedup,
        change=paired.speedup_change,
        show=form.times,
        show_gain=form.times,
        no_gain=1,
        comparison="ratio",
        additive="1.00× where the two gains multiply",
    ),
)


def policy_tables(group: Comparison) -> list[Table]:
    """A table of τ and one of speedups; none where no drafter met two test-time methods."""
    found = [(run, lineups(run)) for run in group.runs]
    stacks = list(dict.fromkeys(name for _, own in found for row in own for name in row.methods))
    if not stacks:
        return []
    # The own chain comes first, whatever was asked for first.
    stacks.sort(key=lambda name: name != OWN_CHAIN)
    policies = [name for name in stacks if name != OWN_CHAIN] if OWN_CHAIN in stacks else []
    several = any(len(own) > 1 for _, own in found)
    tables = []
    for measure in _MEASURES:
        rows = [
            row for run, own in found for row in _rows(group, measure, run, own, (stacks, policies))
        ]
        tables.append(
            Table(
                title=f"Objective × test-time method: {measure.name}",
                note=_note(measure, several, bool(policies), rows),
                columns=_columns(measure, stacks, policies, bool(group.first.sample_tasks)),
                rows=tuple(rows),
                badge=group.badge,
            )
        )
    return tables


def _note(measure: _Measure, several: bool, policies: bool, rows: Sequence[Row]) -> str:
    """What the table asks, and how its parts answer."""
    word = measure.comparison
    sentences = [
        "Does what training gains last under every test-time method, and what a policy gains with "
        "every drafter? Values are overall ones; own chain is the drafter without a policy."
    ]
    if several:
        sentences.append(
            f"A row that names one drafter over another holds the {word} of the two in each column."
        )
    if policies:
        sentences.append(f"The columns on the right hold the {word} of policy and own chain.")
    if several and policies:
        sentences.append(
            "Where both meet stands how much more the policy gains with the one drafter than with "
            f"the other: {measure.additive}."
        )
    if several or policies:
        sentences.append("Gains are those on the answers that both have.")
    if has_ranges(rows):
        sentences.append("Intervals are 95 %, those of gains paired.")
    if any(cell.best for row in rows for cell in row.cells):
        sentences.append("The interval of a gain in bold excludes no gain.")
    return " ".join(sentences) + load_mark.meaning(rows)


def _columns(
    measure: _Measure, stacks: Sequence[str], policies: Sequence[str], samples: bool
) -> tuple[Column, ...]:
    groups = ((measure.heading, measure.name, stacks), ("Over own chain", "gain", policies))
    return (
        Column(title="Drafter", kind="label"),
        *(
            Column(
                title=stack or "own chain",
                group=group,
                markdown=f"{word} {stack or 'own chain'}",
                flagged=samples,
            )
            for group, word, names in groups
            for stack in names
        ),
    )


def _rows(
    group: Comparison,
    measure: _Measure,
    run: Run,
    own: Sequence[Lineup],
    columns: tuple[Sequence[str], Sequence[str]],
) -> list[Row]:
    """A row for each drafter of a run, then one for each but the first over the first."""
    stacks, policies = columns
    answers = {
        str(item["method"]): by_task(run, item["method"])
        for item in run.methods
        if not group.is_refuted(run, item["method"])
    }
    rows = []
    for lineup in own:
        methods = lineup.methods
        cells = (
            *(_value_cell(group, measure, run, methods.get(name)) for name in stacks),
            *(
                _gain_cell(measure, answers, methods.get(OWN_CHAIN), methods.get(name))
                for name in policies
            ),
        )
        rows.append(Row(cells=(group.label(run, lineup.name), *cells)))
    for lineup in own[1:]:
        first, methods = own[0].methods, lineup.methods
        cells = (
            *(_gain_cell(measure, answers, first.get(name), methods.get(name)) for name in stacks),
            *(_change_cell(measure, answers, (own[0], lineup), name) for name in policies),
        )
        label = group.label(run, f"{lineup.name} over {own[0].name}")
        rows.append(Row(cells=(label, *cells), total=True))
    return rows


def _value_cell(group: Comparison, measure: _Measure, run: Run, method: str | None) -> Cell:
    if method is None:
        return Cell(text=form.BLANK)
    score, key = group.score(run, method), measure.key
    cell = Cell(
        text=measure.show(score[key]),
        value=score[key],
        detail=form.interval(score[f"{key}_low"], score[f"{key}_high"]),
    )
    timed = load_mark.marked(cell, run, method) if key == "speedup" else cell
    return group.speed(run, method, timed)


def _gain_cell(measure: _Measure, answers: _Answers, first: str | None, second: str | None) -> Cell:
    """The gain of the second method over the first; blank where one was not run, or is refuted."""
    if first is None or second is None or not {first, second} <= answers.keys():
        return Cell(text=form.BLANK)
    return _estimate_cell(measure, measure.gain(_sides(answers, first, second)))


def _change_cell(
    measure: _Measure, answers: _Answers, pair: tuple[Lineup, Lineup], policy: str
) -> Cell:
    """What a policy gains with the second drafter over what it gains with the first."""
    found = [lineup.methods.get(name) for lineup in pair for name in (OWN_CHAIN, policy)]
    methods = [name for name in found if name is not None and name in answers]
    if len(methods) < len(found):
        return Cell(text=form.BLANK)
    before, after = _sides(answers, *methods[:2]), _sides(answers, *methods[2:])
    return _estimate_cell(measure, measure.change(list(zip(before, after, strict=True))))


def _sides(answers: _Answers, first: str, second: str) -> list[Sides]:
    """Answers of two methods, for each task."""
    return list(zip(answers[first], answers[second], strict=True))


def _estimate_cell(measure: _Measure, estimate: Estimate) -> Cell:
    return Cell(
        text=measure.show_gain(estimate.value),
        value=estimate.value,
        detail=form.spread(estimate.low, estimate.high),
        best=estimate.excludes(measure.no_gain),
    )
