"""Draws to verdicts: whether a method's tokens follow the target's distribution.

Were token x drawn from the target's p at its own prefix, then u = (probability of all tokens before
x, the most probable first) + v · p(x), with v uniform on [0, 1], would be uniform on [0, 1] and
independent of what came before: the probability integral transform, one position after another
(Rosenblatt, Ann. Math. Stat. 23, 1952; randomised for discrete draws). So the u of all tokens of a
method are one sample, and a Kolmogorov-Smirnov test asks whether it is uniform. Rules that accept
too eagerly or too greedily, or that do not draw again from the right residual, shift it.

The audit's pass rounds otherwise than the one that drew. A token at the edge of what top-p or top-k
keep may so have no probability in the audit, and its u is 1, however right the draw was. The share
of such tokens is taken off the distance: without it a large honest run would be called wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.draws import Draws
from harness.records import Generation, RecordKey, key_of

FALSE_ALARM = 0.001
"""Chance that a method whose draws are right is called wrong."""
POWER = 0.9
"""Chance with which the shifts that a `Check` states would have been noticed."""
MIN_TOKENS = 200
"""With fewer, not even a rule that is wrong at every second token would be noticed for certain."""

_SPREAD = 0.5
"""Largest standard deviation, times √n, of an empirical distribution function at one point."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The test of one method's draws."""

    num_tokens: int
    distance: float
    """Largest difference between the distribution of u and the uniform one."""
    allowance: float
    """Share of tokens that the audit's pass had just outside of top-p or top-k."""
    p_value: float
    """Of the distance less the allowance."""
    noticeable_shift: float
    """Part of all probability moved one way, to more or to less probable tokens, that is noticed
    with chance `POWER`."""
    noticeable_greed: float | None
    """Share of tokens taken as the most probable, instead of drawn, that is noticed with chance
    `POWER`; None where even all of them would not be."""

    @property
    def verdict(self) -> Literal["consistent", "MISMATCH"]:
        """What the method is called."""
        return "MISMATCH" if self.p_value < FALSE_ALARM else "consistent"


def uniforms(draws: Draws) -> FloatArray:
    """Each token's u in one answer; v is drawn from the answer's key, so always the same."""
    digest = hashlib.sha256(json.dumps(key_of(draws)).encode()).digest()
    v = np.random.default_rng(list(digest)).random(len(draws.given))
    return np.asarray(np.asarray(draws.above) + v * np.asarray(draws.given), dtype=np.float64)


def check(found: Sequence[Draws]) -> Check | None:
    """Kolmogorov-Smirnov over all tokens of one method; None below `MIN_TOKENS`."""
    num_tokens = sum(len(item.given) for item in found)
    if num_tokens < MIN_TOKENS:
        return None
    from scipy import stats

    u = np.concatenate([uniforms(item) for item in found]).clip(0, 1)
    distance = float(stats.kstest(u, "uniform").statistic)
    allowance = sum(item.num_edge for item in found) / num_tokens
    p_value = float(stats.kstwo.sf(max(0.0, distance - allowance), num_tokens))
    shift = float(stats.kstwo.isf(FALSE_ALARM, num_tokens)) + allowance
    shift += float(stats.norm.ppf(POWER)) * _SPREAD / math.sqrt(num_tokens)
    effect = _effect_of_greed(np.concatenate([np.asarray(item.top) for item in found]))
    return Check(
        num_tokens=num_tokens,
        distance=distance,
        allowance=allowance,
        p_value=p_value,
        noticeable_shift=shift,
        noticeable_greed=shift / effect if shift <= effect else None,
    )


def checks(
    generations: Sequence[Generation], draws: Mapping[RecordKey, Draws]
) -> dict[str, Check | None]:
    """The check of every method that has draws, in the order of its first answer."""
    by_method: dict[str, list[Draws]] = {}
    for item in generations:
        if (found := draws.get(key_of(item))) is not None:
            by_method.setdefault(item.method, []).append(found)
    return {method: check(found) for method, found in by_method.items()}


def num_wrong(found: Mapping[str, Check | None]) -> int | None:
    """Methods whose draws are not the target's; None where none could be judged."""
    judged = [item for item in found.values() if item is not None]
    return sum(item.verdict == "MISMATCH" for item in judged) if judged else None


def describe_check(method: str, found: Check | None) -> str:
    """One line for a person."""
    if found is None:
        return f"{method}: too few tokens to judge its draws (at least {MIN_TOKENS})"
    greed = (
        ""
        if found.noticeable_greed is None
        else f", or the most probable token taken in {found.noticeable_greed:.1%} of draws"
    )
    return (
        f"{method}: {found.verdict} ({found.num_tokens} tokens, distance {found.distance:.4f}, "
        f"allowance {found.allowance:.4f}, p = {found.p_value:.3g}); {POWER:.0%} sure to notice "
        f"{found.noticeable_shift:.1%} of all probability moved one way{greed}"
    )


def _effect_of_greed(top: FloatArray) -> float:
    """Largest shift of u's distribution function if every token were the most probable one.

    Then u is uniform on [0, top] at each position.
    """
    grid = np.linspace(0, 1, 201)[1:]
    share = np.array([np.minimum(t / np.maximum(top, t), 1).mean() for t in grid])
    return float((share - grid).max())
