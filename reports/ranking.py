"""Ranks: how many drafters are shown to be faster than each, and how many to be slower."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from reports import differences
from reports.group import Comparison

Place = tuple[str, str]
"""Run id and method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Where a drafter may stand among those that have a rank."""

    best: int
    worst: int
    rivals: tuple[Place, ...]
    """Those that it is told apart from by no interval, in the order of the rows."""

    @property
    def text(self) -> str:
        """One number, or the range of those that it may have."""
        return str(self.best) if self.best == self.worst else f"{self.best}–{self.worst}"


def ranks(group: Comparison) -> Mapping[Place, Rank]:
    """Run id and method to rank, of those that have one, fastest first."""
    ranked = [
        (run, str(item["method"])) for run, item in group.ranked() if not group.unranked(run, item)
    ]
    faster: Counter[Place] = Counter()
    slower: Counter[Place] = Counter()
    rivals: dict[Place, list[Place]] = {(run.run_id, method): [] for run, method in ranked}
    for first, second in itertools.combinations(ranked, 2):
        places = [(run.run_id, method) for run, method in (first, second)]
        ratio = differences.speed_ratio(first, second, group.headline or "")
        if not ratio.excludes(1):
            for place, other in (places, places[::-1]):
                rivals[place].append(other)
            continue
        winner, loser = places if (ratio.value or 0.0) > 1 else places[::-1]
        faster[loser] += 1
        slower[winner] += 1
    return {
        place: Rank(best=1 + faster[place], worst=len(ranked) - slower[place], rivals=tuple(others))
        for place, others in rivals.items()
    }
