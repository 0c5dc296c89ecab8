"""What speaks against believing a method's numbers, found in the records alone; see docs/trust.md.

None of it proves anything: a machine may stall, and code that measures itself can lie better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness import metrics
from harness.paired import or_none
from harness.records import Generation
from harness.stages import Stages, predicted_speedup

_CLOCK_SHARE = 0.1
_CLOCK_S = 0.01
"""A call may take this share of its time, and this long an answer, outside of what is timed."""
_OVER_TAU = 1.25
"""A pass of several tokens costs no less than one of a single token, so speedup stays below τ; load
on the machine while the baseline answered may add so much."""
_OVER_PREDICTED = 1.5
"""The same over the prediction from the parts of a round, which were timed at another moment."""
_REMEMBERED = 1.1
"""Times τ of the first repeat."""


def clock_doubt(answers: Sequence[Generation]) -> str:
    """How far the clock of one method's answers is from a second one; empty where they agree."""
    seen = [item for item in answers if item.elapsed_s is not None]
    measured = sum(item.prefill_s + item.decode_s for item in seen)
    elapsed = sum(item.elapsed_s or 0.0 for item in seen)
    if abs(elapsed - measured) <= _CLOCK_SHARE * elapsed + _CLOCK_S * len(seen):
        return ""
    return (
        f"the clock of the run counted {measured:.3g} s in {len(seen)} answers, a second one "
        f"{elapsed:.3g} s; their times are not to be believed"
    )


def speed_doubt(
    method: str,
    answers: Sequence[Generation],
    ar_loop: Sequence[Generation],
    stages: Stages | None = None,
) -> str:
    """Why ``method`` cannot be as fast as it says; empty where it can, or nothing is known."""
    tau, speedup = or_none(metrics.tau, answers), or_none(metrics.speedup, ar_loop, answers)
    if tau is None or speedup is None:
        return ""
    limit, why = _OVER_TAU * tau, f"τ is {tau:.3g}"
    times = {} if stages is None else stages.methods
    if method in times and "ar_loop" in times:
        predicted = predicted_speedup(tau, times[method], times["ar_loop"])
        if _OVER_PREDICTED * predicted < limit:
            limit = _OVER_PREDICTED * predicted
            why = f"τ and the parts of a round make {predicted:.3g}× likely"
    if speedup <= limit:
        return ""
    return f"{speedup:.3g}× over ar_loop is at odds with its rounds: {why}"


def memory_doubt(answers: Sequence[Generation]) -> str:
    """Whether a method accepts more when it is asked again; empty where it does not.

    For greedy answers, where every repeat has the same text.
    """
    first = or_none(metrics.tau, [item for item in answers if item.repeat == 0])
    later = or_none(metrics.tau, [item for item in answers if item.repeat > 0])
    if first is None or later is None or later <= _REMEMBERED * first:
        return ""
    return (
        f"τ is {first:.3g} when it is asked first and {later:.3g} in repeats: it seems to remember "
        "answers"
    )


def doubts(
    answers: Sequence[Generation], stages: Stages | None, *, greedy: bool
) -> Iterator[tuple[str, str]]:
    """Methods of one run, each with a sentence's worth of doubt; several for one are possible."""
    ar_loop = [item for item in answers if item.method == "ar_loop"]
    for method in dict.fromkeys(item.method for item in answers):
        own = [item for item in answers if item.method == method]
        found = [clock_doubt(own), speed_doubt(method, own, ar_loop, stages)]
        if greedy:
            found.append(memory_doubt(own))
        for doubt in found:
            if doubt:
                yield method, doubt
