"""Under a study's gains: acceptance by position, waste, correlations, and every training."""

from __future__ import annotations

from collections.abc import Sequence

from harness import study_curves, study_metrics
from harness.metrics import overall_mean
from harness.paired import or_none
from harness.positions import Positions, positions_of
from harness.study_curves import Association
from harness.study_records import Measurement, Replayed
from harness.waste import pooled
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table, has_ranges, mark_best
from reports.study_view import StudyView, tau_cell

_BLANK = Cell(text=form.BLANK)


_OBJECTIVE = Column(title="Objective", kind="label")


def position_tables(view: StudyView) -> list[Table]:
    """Joint and conditional acceptance by draft position, at the headline budget."""
    found = {
        name: positions_of(
            pair for item in answers for pair in zip(item.accepted, item.depths, strict=True)
        )
        for name, answers in _headline_answers(view).items()
        if any(item.accepted for item in answers)
    }
    if not found or not any(item.kept for item in found.values()):
        return []
    note = f"At {_at(view)}; seeds and {_answers(view)} pooled."
    return [
        _rate_table(
            {n: (p, p.joint, (p.num_rounds,) * len(p.joint)) for n, p in found.items()},
            "Joint acceptance J(k)",
            f"Percent of all rounds that accepted at least k draft tokens. {note}",
        ),
        _rate_table(
            {n: (p, p.conditional, p.reached) for n, p in found.items()},
            "Conditional acceptance C(k)",
            f"Percent that accepted the k-th draft token, given the k - 1 before it. {note}",
        ),
    ]


def _rate_table(
    found: dict[str, tuple[Positions, Sequence[float | None], Sequence[int]]],
    title: str,
    note: str,
) -> Table:
    depth = max(len(rates) for _, rates, _ in found.values())
    columns = (
        _OBJECTIVE,
        Column(title="Rounds"),
        *(
            Column(title=str(k), group="k, draft tokens", markdown=f"k = {k}", best="high")
            for k in range(1, depth + 1)
        ),
    )
    rows = []
    for name, (counts, rates, totals) in found.items():
        num_rounds = sum(counts.histogram)
        cells = [
            Cell(
                text=form.share(rate),
                value=rate,
                heat=rate,
                title=f"of {form.counted(total, 'round')}",
            )
            for rate, total in zip(rates, totals, strict=True)
        ]
        cells += [_BLANK] * (depth - len(cells))
        total = Cell(text=form.count(num_rounds), value=num_rounds)
        rows.append(Row(cells=(Cell(text=name), total, *cells)))
    return Table(title=title, note=note, columns=columns, rows=mark_best(columns, rows))


def waste_table(view: StudyView) -> Table | None:
    """Correct draft tokens thrown away, at the headline budget."""
    rows = []
    for name, answers in _headline_answers(view).items():
        by_task = [
            or_none(pooled, [item.slots for item in answers if item.task == task])
            for task in view.main_place[1]
        ]
        known = [part for part in by_task if part is not None]
        shares = [
            (p.accept, p.correct, p.waste, p.draft_waste) if p else (None,) * 4 for p in by_task
        ]
        means = [or_none(overall_mean, column) for column in zip(*shares, strict=True)]
        judged = sum(part.judged for part in known)
        rows.append(
            Row(
                cells=(
                    Cell(text=name),
                    *(Cell(text=form.share(value), value=value) for value in means),
                    Cell(text=form.count(judged), value=judged),
                )
            )
        )
    if not rows:
        return None
    return Table(
        title="Correct draft tokens thrown away",
        note=f"At {_at(view)}; means over {_answers(view)}, seeds "
        "pooled. Slots are draft tokens and bonuses; correct is a token that the "
        "answer has at its place, wasted a correct draft token behind an earlier error (arXiv "
        "2606.11552, Table 1). Slots behind the end of an answer are left out.",
        columns=(
            _OBJECTIVE,
            Column(title="accept", group="Percent of slots", markdown="accept %"),
            Column(title="correct", group="Percent of slots", markdown="correct %"),
            Column(title="of slots", group="Percent wasted", markdown="waste %"),
            Column(title="of drafts", group="Percent wasted", markdown="waste of drafts %"),
            Column(title="Slots"),
        ),
        rows=tuple(rows),
    )


def correlation_table(view: StudyView) -> Table | None:
    """Chain reward against draft tokens accepted; train-time τ against replayed τ."""
    rows = []
    for name in view.objectives:
        measured = headline_measurements(view, name)
        found = or_none(study_curves.reward_association, measured) if measured else None
        if found is not None:
            text = "chain reward, draft tokens accepted"
            rows.append(_correlation_row(text, name, found, "block", "prompt"))
    for words, whole in (("all points of all trainings", True), ("finished trainings", False)):
        found = or_none(study_curves.proxy_association, list(view.curves(whole=whole).values()))
        if found is not None:
            text = "train-time τ, replayed τ"
            rows.append(_correlation_row(text, words, found, "point", "training"))
    if not rows:
        return None
    return Table(
        title="Do the proxies follow what is verified?",
        note="What is cheap to watch, correlated with what is verified (see the definitions). "
        f"The first is of replays at {form.count(view.headline[0])} steps, all prompts and seeds "
        "pooled, without blocks that reach over the end of an answer; the second is on held-back "
        "prompts."
        + (
            " Intervals are 95 %, by drawing whole prompts, or whole trainings."
            if has_ranges(rows)
            else ""
        ),
        columns=(
            Column(title="Of", kind="label"),
            Column(title="In", kind="text"),
            Column(title="Spearman"),
            Column(title="Pearson"),
            Column(title="n", kind="text"),
        ),
        rows=tuple(rows),
    )


def _correlation_row(what: str, where: str, found: Association, pairs: str, clusters: str) -> Row:
    counts = (form.counted(found.num_pairs, pairs), form.counted(found.num_clusters, clusters))
    return Row(
        cells=(
            Cell(text=what),
            Cell(text=where),
            *(
                Cell(
                    text=form.ratio(item.value),
                    value=item.value,
                    detail=form.spread(item.low, item.high),
                )
                for item in (found.spearman, found.pearson)
            ),
            Cell(text=" of ".join(counts)),
        )
    )


def arm_table(view: StudyView) -> Table:
    """Every training: where its drafter is, and what it took."""
    rows = []
    for arm in view.arms:
        done = view.results.finished.get(arm)
        recipe = arm.recipe
        own = view.measured(recipe).get(arm.seed)
        found = [
            or_none(study_metrics.tau, [{arm.seed: own}], tasks) if own else None
            for _, tasks in (view.places[0], view.main_place)
        ]
        cells = (
            Cell(text=recipe.objective),
            Cell(text=str(arm.seed), value=arm.seed),
            Cell(text=form.count(recipe.steps), value=recipe.steps),
            Cell(text=str(recipe.block_size), value=recipe.block_size),
            Cell(text=form.small(recipe.learning_rate), value=recipe.learning_rate),
            Cell(text=recipe.responses),
            *map(tau_cell, found[: 2 if view.tasks else 1]),
            *(
                (Cell(text="unfinished"), _BLANK, _BLANK)
                if done is None
                else (
                    Cell(text=done.checkpoint),
                    Cell(text=form.digest(done.weights_sha256), title=done.weights_sha256),
                    Cell(text=form.count(done.train_s), value=done.train_s),
                )
            ),
        )
        rows.append(Row(cells=cells, muted=done is None))
    overall = (Column(title=f"τ {view.main_place[0]}"),) if view.tasks else ()
    return Table(
        title="Trainings",
        note="Decode with a checkpoint by harness run --drafter NAME@LABEL=CHECKPOINT. Seconds "
        "are those of its own optimiser steps.",
        columns=(
            _OBJECTIVE,
            Column(title="Seed"),
            Column(title="Steps"),
            Column(title="Block"),
            Column(title="Learning rate"),
            Column(title="Responses", kind="text"),
            Column(title="τ held back"),
            *overall,
            Column(title="Checkpoint", kind="text"),
            Column(title="Weights SHA-256", kind="text"),
            Column(title="Seconds"),
        ),
        rows=tuple(rows),
    )


def headline_measurements(view: StudyView, name: str) -> list[Measurement]:
    """Last measurements of an objective at the headline budget, all seeds."""
    return list(view.measured(view.recipe(name, view.headline[0])).values())


def _headline_answers(view: StudyView) -> dict[str, list[Replayed]]:
    """What was replayed at the headline budget of the main place, by objective."""
    tasks = view.main_place[1]
    found = {
        name: [
            item
            for measurement in headline_measurements(view, name)
            for item in measurement.replayed
            if item.task in tasks
        ]
        for name in view.objectives
    }
    return {name: answers for name, answers in found.items() if answers}


def _at(view: StudyView) -> str:
    return f"{form.count(view.headline[0])} steps"


def _answers(view: StudyView) -> str:
    return view.marked("tasks", view.tasks) if view.tasks else "held-back answers"
