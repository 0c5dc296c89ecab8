"""How good the answers are, from their scores: shares passed, and whether two methods differ.

Only the first repeat counts, so that each prompt is one trial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from harness.records import Generation, RecordKey, key_of
from harness.score_records import Score, Scored
from tasks.grading import Verdict

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class ScoreTally:
    """Answers of one method to one task, by verdict."""

    counts: Counter[Verdict]

    @property
    def num_scored(self) -> int:
        """Answers that were tried."""
        return sum(count for verdict, count in self.counts.items() if verdict != "not run")

    @property
    def num_passed(self) -> int:
        """Answers that are right."""
        return self.counts["passed"]

    @property
    def share(self) -> float | None:
        """Passed over tried; None where nothing was."""
        return self.num_passed / self.num_scored if self.num_scored else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the share (Wilson 1927, without continuity correction)."""
        if not self.num_scored:
            return None
        from scipy.stats import binomtest

        found = binomtest(self.num_passed, self.num_scored).proportion_ci(0.95, method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreDifference:
    """Two methods on the prompts where both were scored."""

    num_pairs: int
    num_lost: int
    """Passed by the first alone: McNemar's b."""
    num_won: int
    """Passed by the second alone: McNemar's c."""

    @property
    def share(self) -> float | None:
        """Share passed by the second less that by the first; None without pairs."""
        return (self.num_won - self.num_lost) / self.num_pairs if self.num_pairs else None

    @property
    def p_value(self) -> float | None:
        """McNemar's exact test, two-sided (McNemar 1947): b of b + c at even odds."""
        if not self.num_pairs:
            return None
        if not self.num_lost + self.num_won:
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.num_lost, self.num_lost + self.num_won).pvalue)


def tally(generations: Sequence[Generation], scores: Mapping[RecordKey, Score]) -> ScoreTally:
    """Verdicts of answers of one method to one task."""
    found = [scores.get(key_of(item)) for item in generations if item.repeat == 0]
    return ScoreTally(Counter(score.verdict if score else "not run" for score in found))


def difference(
    task: str, first: str, second: str, scores: Mapping[RecordKey, Score]
) -> ScoreDifference:
    """``second`` against ``first`` on one task, pair by pair."""
    passed: dict[str, dict[tuple[str, int], bool]] = {first: {}, second: {}}
    for score in scores.values():
        if score.task == task and score.repeat == 0 and score.method in passed:
            passed[score.method][score.prompt_id, score.turn] = score.verdict == "passed"
    shared = passed[first].keys() & passed[second].keys()
    sides = [(passed[first][place], passed[second][place]) for place in shared]
    return ScoreDifference(
        num_pairs=len(sides),
        num_lost=sides.count((True, False)),
        num_won=sides.count((False, True)),
    )


def score_lines(generations: Sequence[Generation], scored: Scored) -> Iterator[str]:
    """For a person: each method on each task that can be scored."""
    for task in scored.scoring.tasks if scored.scoring else ():
        for method in dict.fromkeys(item.method for item in generations):
            answers = [item for item in generations if (item.task, item.method) == (task, method)]
            found = tally(answers, scored.scores)
            if found.counts:
                words = (f"{found.counts[word]} {word}" for word in VERDICTS if found.counts[word])
                yield f"{task:<14} {method}: {', '.join(words)}"
