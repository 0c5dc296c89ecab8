"""Whether two drafters differ beyond the spread over prompts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import metrics, paired
from harness.metrics import Sides
from harness.paired import Estimate
from harness.records import Generation
from reports.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two methods of one run, on the answers both have."""

    first: str
    second: str
    num_drafted: int
    """Answers that ``tau`` compares; times of one process a host are compared, so ``speed`` may
    rest on fewer."""
    tau: Estimate
    """Overall τ of the first less that of the second."""
    speed: Estimate
    """Overall decode speed of the first over that of the second."""

    @property
    def differs_in(self) -> tuple[str, ...]:
        """What differs significantly."""
        marks = (("τ", self.tau.excludes(0)), ("speed", self.speed.excludes(1)))
        return tuple(name for name, differs in marks if differs)

    @property
    def untold(self) -> tuple[str, ...]:
        """What no interval speaks about."""
        return tuple(
            name
            for name, estimate in (("τ", self.tau), ("speed", self.speed))
            if not estimate.has_interval
        )


def of_pairs(run: Run, pairs: Sequence[tuple[str, str]]) -> Iterator[Difference]:
    """How the methods of each pair differ."""
    answers = {method: by_task(run, method) for method in itertools.chain(*pairs)}
    for first, second in pairs:
        sides: list[Sides] = list(zip(answers[second], answers[first], strict=True))
        yield Difference(
            first=first,
            second=second,
            num_drafted=sum(len(metrics.drafted_pairs(*side)) for side in sides),
            tau=paired.tau_difference(sides),
            speed=paired.speedup(sides),
        )


def speed_ratio(first: tuple[Run, str], second: tuple[Run, str], headline: str) -> Estimate:
    """Overall decode speed of the first method over that of the second.

    Within a run their speeds are compared directly. Across runs each is taken over the
    ``headline`` baseline's answers in its own run.
    """
    (run, method), (other_run, other) = first, second
    if run is other_run:
        return paired.speedup(list(zip(by_task(run, other), by_task(run, method), strict=True)))
    return paired.speedup_change(
        [
            ((slow_b, fast_b), (slow_a, fast_a))
            for slow_b, fast_b, slow_a, fast_a in zip(
                by_task(other_run, headline),
                by_task(other_run, other),
                by_task(run, headline),
                by_task(run, method),
                strict=True,
            )
        ]
    )


def by_task(run: Run, method: str) -> list[list[Generation]]:
    """Answers of one method, for each task of the run."""
    found: dict[str, list[Generation]] = {task: [] for task in run.tasks}
    for item in run.of(method):
        found[item.task].append(item)
    return list(found.values())
