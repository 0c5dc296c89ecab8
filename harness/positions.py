"""Acceptance by draft position: the histogram of accepted lengths, joint and conditional rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.metrics import NoData, rounds_of
from harness.records import Generation


@dataclass(frozen=True, slots=True)
class Positions:
    """Rounds pooled, counted by draft position."""

    histogram: tuple[int, ...]
    """``[max depth + 1]``: rounds in which exactly k draft tokens were accepted, from k = 0."""
    kept: tuple[int, ...]
    """``[max depth]``: #{accepted ≥ k}, from k = 1; so are the others."""
    reached: tuple[int, ...]
    """``[max depth]``: #{accepted ≥ k - 1 and depth ≥ k}."""

    @property
    def joint(self) -> tuple[float, ...]:
        """``[max depth]``: J_k = kept over all rounds, so that it never rises with k.

        Rounds that offered less than k count as not accepting k: whether depth is a drafter's
        choice, a tree's shape or cut at the answer's end, the sum stays that of accepted tokens.
        """
        return tuple(kept / self.num_rounds for kept in self.kept)

    @property
    def num_rounds(self) -> int:
        """All of them."""
        return sum(self.histogram)

    @property
    def conditional(self) -> tuple[float | None, ...]:
        """``[max depth]``: C_k = kept over reached; None where position k was never reached."""
        return tuple(
            kept / reached if reached else None
            for kept, reached in zip(self.kept, self.reached, strict=True)
        )


def positions(generations: Sequence[Generation]) -> Positions:
    """Accepted-length histogram and per-position counts.

    Raises:
        NoData: no generation has rounds.
    """
    return positions_of((item.accepted, item.depth) for item in rounds_of(generations))


def positions_of(rounds: Iterable[tuple[int, int]]) -> Positions:
    """The same of rounds given as accepted draft tokens and depth.

    Raises:
        NoData: there is none.
    """
    counts = Counter(rounds)
    if not counts:
        raise NoData("no generation has rounds")
    accepted = np.array([pair[0] for pair in counts])
    depth = np.array([pair[1] for pair in counts])
    weight = np.array(list(counts.values()))
    deepest = int(depth.max())
    later = range(1, deepest + 1)
    return Positions(
        histogram=tuple(int(weight[accepted == k].sum()) for k in range(deepest + 1)),
        kept=tuple(int(weight[accepted >= k].sum()) for k in later),
        reached=tuple(int(weight[(accepted >= k - 1) & (depth >= k)].sum()) for k in later),
    )
