"""What a study found, in a few sentences that say no more than its intervals show."""

from __future__ import annotations

from collections.abc import Iterator

from harness import study_metrics
from harness.bootstrap import MIN_CONVERSATIONS
from harness.study_metrics import PLATEAU, Tau
from reports import formatting as form
from reports.study_view import StudyView


def lead(view: StudyView) -> Iterator[str]:
    """The headline budget, and the largest gain there that is shown."""
    steps = view.headline[0]
    yield f"Headline budget of {view.reference}: {form.count(steps)} steps, {_reason(view)}."
    place, tasks = view.main_place
    reference = view.recipe(view.reference, steps)
    gains = {
        name: found
        for name in view.others
        if (found := view.tau([reference, view.recipe(name, steps)], tasks)) is not None
    }
    if not gains:
        return
    estimates = {name: found.estimate(study_metrics.gain) for name, found in gains.items()}
    over = f"over {view.reference}, {place}"
    if not any(item.has_interval for item in estimates.values()):
        counts = _counts(next(iter(gains.values())))
        yield (
            f"Too few prompts to show a gain {over} ({counts}): an interval needs "
            f"{MIN_CONVERSATIONS} conversations of every task."
        )
        return
    shown = [name for name, item in estimates.items() if study_metrics.exceeds(item, 0)]
    if not shown:
        counts = _counts(next(iter(gains.values())))
        yield f"There no objective is shown to gain in replayed τ {over} ({counts})."
        return
    best = max(shown, key=lambda name: estimates[name].value or 0.0)
    rivals = [name for name in gains if name != best and not _gains_more(view, best, name)]
    most = estimates[best]
    yield (
        f"There {best} gains{'' if rivals else ' most:'} {form.points(most.value or 0.0)} % in "
        f"replayed τ ({form.points_interval(most.low, most.high)}) {over} "
        f"({_counts(gains[best])})."
    )
    if rivals:
        yield f"Not shown to gain less: {', '.join(rivals)}."


def _reason(view: StudyView) -> str:
    steps, plateau = view.headline
    if plateau:
        return f"the first where a doubling gained less than {100 * PLATEAU:g} %"
    own = view.reference_taus[steps].estimate(study_metrics.only)
    if study_metrics.exceeds(own, 1):
        return "the largest measured"
    return "the largest measured; its τ is not shown to be above 1"


def _gains_more(view: StudyView, best: str, other: str) -> bool:
    """Whether the one objective is shown to have a higher τ than the other."""
    steps = view.headline[0]
    found = view.tau([view.recipe(other, steps), view.recipe(best, steps)], view.main_place[1])
    return found is not None and study_metrics.exceeds(found.estimate(study_metrics.gain), 0)


def _counts(found: Tau) -> str:
    return ", ".join(
        (form.counted(len(found.seeds), "seed"), form.counted(found.num_prompts, "prompt"))
    )
