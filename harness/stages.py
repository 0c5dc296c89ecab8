"""How long a round's parts take, measured apart from the timed answers; and what they predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from harness.bounds import Count, Seconds
from harness.errors import UserError
from harness.reading import read_text
from harness.typed_json import parse_json, typed


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Seconds of each round's parts, of one method; three lists of one length."""

    draft_s: tuple[Seconds, ...]
    """``propose``: a block."""
    verify_s: tuple[Seconds, ...]
    """The target's pass."""
    commit_s: tuple[Seconds, ...]
    """From the pass to the next draft: verdict, cache, what the drafter makes of it."""

    def __post_init__(self) -> None:
        lists = (self.draft_s, self.verify_s, self.commit_s)
        if not self.draft_s or len({len(times) for times in lists}) != 1:
            raise ValueError("a round has one draft, one pass and one commit")
        if not all(0 <= seconds < math.inf for times in lists for seconds in times):
            raise ValueError("stage times must be finite and not negative")
        if self.round_s == 0:
            raise ValueError("a round takes time")

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of draft, verify and commit."""
        return {
            "draft": median(self.draft_s),
            "verify": median(self.verify_s),
            "commit": median(self.commit_s),
        }

    @property
    def round_s(self) -> float:
        """Median draft, pass and commit together."""
        return sum(self.medians.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCost:
    """What one part of a round costs a method, beside what it costs another."""

    part: str
    """``draft``, ``verify`` or ``commit``."""
    round_s: float
    """Median seconds a round."""
    other_round_s: float
    token_s: float
    """Median seconds a round over τ: what a committed token costs."""
    other_token_s: float

    @property
    def added_s(self) -> float:
        """Seconds that a committed token costs more than the other's."""
        return self.token_s - self.other_token_s

    @property
    def ratio(self) -> float | None:
        """A committed token's cost over the other's; None where that is nothing."""
        return self.token_s / self.other_token_s if self.other_token_s else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Stage times of a run, ``ar_loop`` among the methods."""

    num_context_tokens: Count
    """Tokens in the cache when measuring began: the run's median."""
    methods: Mapping[str, StageTimes]

    def __post_init__(self) -> None:
        if "ar_loop" not in self.methods:
            raise ValueError("stage times of ar_loop are missing")

    def to_json(self) -> dict[str, Any]:
        """What `read_stages` reads back."""
        return {"schema_version": 1, **asdict(self)}


def predicted_speedup(tau: float, method: StageTimes, ar_loop: StageTimes) -> float:
    """τ · t_AR / (t_draft + t_verify + t_commit), medians of each."""
    return tau * ar_loop.round_s / method.round_s


def part_costs(
    tau: float, method: StageTimes, other_tau: float, other: StageTimes
) -> list[PartCost]:
    """The parts of a round of ``method``, the one that adds most to a committed token first."""
    before = other.medians
    costs = [
        PartCost(
            part=part,
            round_s=seconds,
            other_round_s=before[part],
            token_s=seconds / tau,
            other_token_s=before[part] / other_tau,
        )
        for part, seconds in method.medians.items()
    ]
    return sorted(costs, key=lambda cost: cost.added_s, reverse=True)


def read_stages(path: Path) -> Stages | None:
    """Stage times of a run directory; None where there is no file.

    Raises:
        UserError: the file is not one of those.
    """
    if not path.is_file():
        return None
    try:
        body = typed(dict[str, Any], parse_json(read_text(path)))
        body.pop("schema_version", None)
        return typed(Stages, body)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and report again.") from error
