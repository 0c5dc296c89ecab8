"""Records of a study to numbers: τ of several recipes on the same answers and seeds, resampled.

Every interval is a bootstrap of 2,000 draws in which conversations are drawn with replacement
within each task, and seeds with replacement, apart from one another; all recipes of a comparison
see the same draws, so prompts and seeds are paired. With few seeds a plain draw of them is too
narrow by the factor (n - 1) / n in variance; their weights are spread by its inverse (Rao and Wu,
JASA 1988), which makes the variance of a mean over seeds unbiased. With one seed there is none to
draw, and the interval is over prompts alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness import bootstrap
from harness.bootstrap import MIN_CONVERSATIONS, NUM_DRAWS, FloatArray
from harness.metrics import NoData
from harness.paired import Estimate
from harness.study_records import Measurement, Replayed

BySeed = Mapping[int, Measurement]
"""One recipe's measurements."""
Rule = Callable[[FloatArray], FloatArray]
"""``[..., recipes] → [...]``."""

_SEEDS = 1000
"""Place of the seeds among what is drawn; tasks have the places before."""

PLATEAU = 0.02
"""Less than this share gained by doubling the budget is a plateau."""


@dataclass(frozen=True, slots=True)
class Tau:
    """τ of several recipes: pooled within a task, mean over tasks, mean over seeds.

    Attributes:
        by_seed: ``[recipes, seeds]``.
        draws: ``[NUM_DRAWS, recipes]``; None where a task has too few conversations.
        seeds: those that every recipe has.
        num_prompts: conversations, over all tasks.
    """

    by_seed: FloatArray
    draws: FloatArray | None
    seeds: tuple[int, ...]
    num_prompts: int

    @property
    def values(self) -> FloatArray:
        """``[recipes]``."""
        return np.asarray(self.by_seed.mean(1))

    def estimate(self, rule: Rule) -> Estimate:
        """A number made of τ of the recipes, with its interval."""
        value = float(rule(self.values))
        if self.draws is None:
            return Estimate(value=value, low=None, high=None)
        low, high = bootstrap.central(rule(self.draws))
        return Estimate(value=value, low=low, high=high)


def tau(recipes: Sequence[BySeed], tasks: Sequence[str]) -> Tau:
    """τ of ``recipes`` over ``tasks``, on the answers and seeds that all of them have.

    Raises:
        NoData: they share no seed, or no answer with rounds in a task.
    """
    seeds = sorted(set.intersection(*(set(item) for item in recipes))) if recipes else []
    if not seeds or not tasks:
        raise NoData("no seed that every recipe has")
    parts = [_sums([[item[s] for s in seeds] for item in recipes], task) for task in tasks]
    totals = [part.sum(2) for part in parts]
    by_seed = np.mean([total[..., 0] / total[..., 1] for total in totals], axis=0)
    return Tau(
        np.asarray(by_seed, dtype=np.float64),
        _draws(parts, len(seeds)),
        tuple(seeds),
        sum(part.shape[2] for part in parts),
    )


def gain(values: FloatArray) -> FloatArray:
    """Of the second recipe over the first, as a share."""
    return np.asarray(values[..., 1] / values[..., 0] - 1)


def difference(values: FloatArray) -> FloatArray:
    """τ of the second recipe less that of the first."""
    return np.asarray(values[..., 1] - values[..., 0])


def growth(before: float, after: float, ratio: float) -> float:
    """What a doubling of the budget brought, as a share; ``ratio`` is that of the two budgets."""
    return float((after / before) ** (1 / math.log2(ratio)) - 1)


def only(values: FloatArray) -> FloatArray:
    """τ of the first recipe."""
    return np.asarray(values[..., 0])


def headline(taus: Mapping[int, Estimate]) -> tuple[int, bool]:
    """The budget at which numbers are quoted, and whether it is a plateau.

    A drafter that is not shown to accept anything has none, however little its τ grows.

    Args:
        taus: held-back τ of the reference, mean over seeds, by budget in steps.

    Returns:
        The first budget that gained less than `PLATEAU` on the one before, a doubling of it, with
        τ shown above 1, and True; else the largest, and False.
    """
    for before, after in itertools.pairwise(sorted(taus)):
        first, last = taus[before].value or 1.0, taus[after].value or 1.0
        if exceeds(taus[after], 1) and growth(first, last, after / before) < PLATEAU:
            return after, True
    return max(taus), False


def exceeds(found: Estimate, neutral: float) -> bool:
    """Whether the whole interval lies above ``neutral``; not without an interval."""
    return found.low is not None and found.low > neutral


# The 2³ factorial

FACTORS = ("positional", "focal", "chain")
"""Bits of a row's place: 1 positional weights, 2 first-error focal, 4 chain reward."""


def effects() -> dict[str, FloatArray]:
    """Contrasts ``[8]`` of the main effects and interactions, in τ.

    A main effect is the mean τ of the four rows with an intervention less that of the four
    without; an interaction of two is half the difference that one makes to the effect of the
    other, and so on.
    """
    found = {}
    for size in (1, 2, 3):
        for chosen in itertools.combinations(range(3), size):
            signs = [np.prod([1 if row >> bit & 1 else -1 for bit in chosen]) for row in range(8)]
            name = " × ".join(FACTORS[bit] for bit in chosen)
            found[name] = np.array(signs, dtype=np.float64) / 4
    return found


SUM_OF_SINGLES = np.array([-3, 1, 1, 0, 1, 0, 0, 0], dtype=np.float64)
"""Contrast: what the three interventions gain, each alone."""
ALL_THREE = np.array([-1, 0, 0, 0, 0, 0, 0, 1], dtype=np.float64)
"""Contrast: what they gain together."""


def contrast(weights: FloatArray) -> Rule:
    """The rule that sums τ of the recipes with ``weights``."""
    return lambda values: np.asarray(values @ weights)


def length(answers: Sequence[Replayed]) -> tuple[float, float]:
    """Tokens committed by rounds, and the rounds."""
    return sum(item.num_tokens - 1 for item in answers), sum(len(item.accepted) for item in answers)


def _sums(recipes: Sequence[Sequence[Measurement]], task: str) -> FloatArray:
    """``[recipes, seeds, conversations, 2]``: tokens and rounds, of the answers all have."""
    tables = [[by_answer(item, task) for item in recipe] for recipe in recipes]
    flat = [table for recipe in tables for table in recipe]
    shared = sorted(set.intersection(*(set(table) for table in flat)))
    names = sorted({prompt for prompt, *_ in shared})
    found = np.zeros((len(tables), len(tables[0]), len(names), 2))
    places = {name: place for place, name in enumerate(names)}
    for row, recipe in enumerate(tables):
        for column, table in enumerate(recipe):
            for key in shared:
                found[row, column, places[key[0]]] += length([table[key]])
    if not shared or not found[..., 1].sum(2).all():
        raise NoData(f"no answer of {task} with rounds that all recipes have")
    return found


def by_answer(measurement: Measurement, task: str) -> dict[tuple[str, int, int], Replayed]:
    """Answers with rounds, by prompt, turn and length: another length is another answer."""
    return {
        (item.prompt_id, item.turn, item.num_tokens): item
        for item in measurement.replayed
        if item.task == task and item.accepted
    }


def _draws(tasks: Sequence[FloatArray], num_seeds: int) -> FloatArray | None:
    """``[NUM_DRAWS, recipes]`` of the mean over tasks and seeds."""
    if any(sums.shape[2] < MIN_CONVERSATIONS for sums in tasks):
        return None
    found = []
    for position, sums in enumerate(tasks):
        counts = bootstrap.draws(sums.shape[2], position).astype(np.float64)
        drawn = np.einsum("dp,rspk->drsk", counts, sums, optimize=True)
        found.append(drawn[..., 0] / drawn[..., 1])
    weights = seed_weights(num_seeds)
    return np.asarray(np.einsum("drs,ds->dr", np.mean(found, axis=0), weights) / num_seeds)


def seed_weights(num_seeds: int) -> FloatArray:
    """``[NUM_DRAWS, num_seeds]``, each row summing to ``num_seeds``."""
    if num_seeds == 1:
        return np.ones((NUM_DRAWS, 1))
    counts = bootstrap.draws(num_seeds, _SEEDS).astype(np.float64)
    return np.asarray(1 + np.sqrt(num_seeds / (num_seeds - 1)) * (counts - 1))
