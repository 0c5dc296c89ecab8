"""Audits to verdicts: the only place where it is judged whether an answer is still the target's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.audit_records import Audit, Deviation
from harness.records import Generation, RecordKey, key_of

Verdict = Literal["exact", "ties only", "not judged", "MISMATCH"]

TOLERANCE = 3.0
"""A token stands if its margin is at most this many times the noise at its position.

Were the errors of the pass that chose it and of the audit's pass independent normal draws of one
size, with 64 tokens measured, one broken near-tie in some 400,000 would be called a MISMATCH; with
16 tokens and twice the noise it would be one in 140. A token that the run's dtype prefers in the
audit's own pass has a margin of at most twice the noise, and so always stands.

They are not quite of one size: on one CPU the pass over a whole answer was up to 2.3 times as near
to float32 as passes of one and six tokens, and two true ties in 560 answers had a margin of 3.01
and 3.03 times its noise. So the auditor measures a token that does not stand a second time.
"""


NOISE_CEILINGS = {"float32": 0.01, "float16": 0.25, "bfloat16": 2.0}
"""Most noise, in logits, that rounding to a dtype explains; with more an answer is not judged.

Three times the noise excuses a token, so noise without a bound excuses any. Over some 800 tokens of
SmolLM2 the largest was 0.63 in bfloat16 (median 0.17), 0.081 in float16 and 0.000035 in float32;
over 2,880 of tiny random models with large weights 1.05, 0.11 and 0.000034. Each ceiling is three
times the larger one or less, in float16 an eighth of bfloat16's (it has three bits more). That of
float32 is wider: long contexts round rotary angles there, which the reference does not undo. Even
so it is far below the 4.7 to 7.6 of factors that changed with length (`targets.rope`).
"""


def stands(deviation: Deviation) -> bool:
    """Whether the noise at its position explains the token."""
    return deviation.margin <= TOLERANCE * deviation.noise


def verdict(audit: Audit) -> Verdict:
    """What an answer is called.

    The rules of stopping look at tokens alone, so an answer that is the beginning of another was
    cut in the wrong place by one of them: no tie explains it. Nor does one where ``ar_loop``'s
    tokens were promised. Where noise is above its ceiling, the run's pass and the reference compute
    two functions, and what that noise would excuse is not shown to be the target's.
    """
    if any(not stands(item) for item in audit.deviations) or ends_elsewhere(audit):
        return "MISMATCH"
    if audit.wrong_end:  # also where the answer had parted from ar_loop's before
        return "MISMATCH"
    if audit.promised and audit.first_divergence is not None:
        return "MISMATCH"
    if noisiest(audit) is not None:
        return "not judged"
    return "exact" if audit.first_divergence is None else "ties only"


def ceiling(audit: Audit) -> float:
    """Most noise that rounding explains; the highest there is where the dtype is not known."""
    return NOISE_CEILINGS.get(audit.dtype or "", max(NOISE_CEILINGS.values()))


def noisiest(audit: Audit) -> Deviation | None:
    """The token with the most noise above the ceiling; None where none has."""
    over = [item for item in audit.deviations if item.noise > ceiling(audit)]
    return max(over, key=lambda item: item.noise, default=None)


def ends_elsewhere(audit: Audit) -> bool:
    """Whether this answer is a beginning of ``ar_loop``'s, or the other way round."""
    return audit.first_divergence == min(audit.num_tokens, audit.num_ar_loop_tokens)


def divergence_margin(audit: Audit, ar_loop: Audit) -> float | None:
    """Margin between the two tokens where the answers first differ; None where none does.

    One of them is the argmax, or both are close below it: the larger margin is that of the pair.
    """
    if audit.first_divergence is None or ends_elsewhere(audit):
        return None
    both = (*audit.deviations, *ar_loop.deviations)
    return max(
        (item.margin for item in both if item.position == audit.first_divergence), default=0.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Verdicts of one method."""

    exact: int
    ties_only: int
    mismatch: int
    not_judged: int = 0
    not_audited: int
    largest_tie: Deviation | None
    """The largest margin that noise explained."""
    most_noise: float | None = None
    """Where answers were not judged."""

    @property
    def worst(self) -> Verdict | None:
        """None where nothing was audited."""
        if self.mismatch:
            return "MISMATCH"
        if self.not_judged:
            return "not judged"
        if self.ties_only:
            return "ties only"
        return "exact" if self.exact else None

    @property
    def counts(self) -> str:
        """All of them in words."""
        unjudged = f"{self.not_judged} not judged, " if self.not_judged else ""
        return (
            f"{self.exact} exact, {self.ties_only} ties only, {self.mismatch} MISMATCH, "
            f"{unjudged}{self.not_audited} not audited"
        )


def tally(generations: Sequence[Generation], audits: Mapping[RecordKey, Audit]) -> Tally:
    """Counts over the answers of one method."""
    found = [audits[key_of(item)] for item in generations if key_of(item) in audits]
    verdicts = [verdict(item) for item in found]
    ties = [
        item
        for audit in found
        for item in audit.deviations
        if stands(item) and item.noise <= ceiling(audit)
    ]
    return Tally(
        exact=verdicts.count("exact"),
        ties_only=verdicts.count("ties only"),
        mismatch=verdicts.count("MISMATCH"),
        not_judged=verdicts.count("not judged"),
        not_audited=len(generations) - len(found),
        largest_tie=max(ties, key=lambda item: item.margin, default=None),
        most_noise=max((item.noise for audit in found if (item := noisiest(audit))), default=None),
    )


def mismatches(audits: Iterable[Audit]) -> list[tuple[Audit, Deviation | None]]:
    """Answers that are not the target's, each with the first token that noise does not explain.

    None where every token stands: the answer ends in the wrong place, or another was promised.
    """
    return [
        (audit, next((item for item in audit.deviations if not stands(item)), None))
        for audit in audits
        if verdict(audit) == "MISMATCH"
    ]


def describe_mismatch(audit: Audit, deviation: Deviation | None) -> str:
    """One line for a person."""
    place = _place(audit)
    if deviation is None and audit.wrong_end:
        return f"MISMATCH: {place}: {audit.wrong_end}"
    if deviation is None and not ends_elsewhere(audit):
        return (
            f"MISMATCH: {place}: parts from ar_loop at position {audit.first_divergence}, "
            "which --exact excludes"
        )
    if deviation is None:
        return (
            f"MISMATCH: {place}: ends after {audit.num_tokens} tokens, "
            f"ar_loop's after {audit.num_ar_loop_tokens}"
        )
    return (
        f"MISMATCH: {place}: position {deviation.position}, margin {deviation.margin:.3g}, "
        f"noise {deviation.noise:.3g}"
    )


def unjudged_lines(audits: Iterable[Audit]) -> Iterator[str]:
    """For a person: each answer that was not judged, and the noise that is too much."""
    for audit in audits:
        worst = noisiest(audit)
        if worst is not None and verdict(audit) == "not judged":
            yield (
                f"not judged: {_place(audit)}: position {worst.position}, noise "
                f"{worst.noise:.3g}, of which rounding explains {ceiling(audit):.3g} in "
                f"{audit.dtype or 'any dtype'}; margin {worst.margin:.3g}"
            )


def _place(audit: Audit) -> str:
    return (
        f"{audit.task} {audit.prompt_id}, turn {audit.turn}, {audit.method}, repeat {audit.repeat}"
    )


def audit_lines(
    generations: Sequence[Generation], audits: Mapping[RecordKey, Audit]
) -> Iterator[str]:
    """For a person: each answer that parts from ``ar_loop``'s and why it may, then every method."""
    for audit in audits.values():
        ar_loop = audits.get((audit.task, audit.prompt_id, audit.turn, "ar_loop", audit.repeat))
        margin = None if ar_loop is None else divergence_margin(audit, ar_loop)
        if margin is not None:
            yield (
                f"{verdict(audit):<10}  {_place(audit)}: parts from ar_loop at position "
                f"{audit.first_divergence}, margin {margin:.3g}"
            )
    for method in dict.fromkeys(item.method for item in generations):
        found = tally([item for item in generations if item.method == method], audits)
        yield f"{method}: {found.counts}"
