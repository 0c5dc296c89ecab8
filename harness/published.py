"""Accepted length and speedup as others publish them, from the same records.

For holding a figure of theirs against one of ours; the headline numbers are in `harness.metrics`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.metrics import NoData, mean, responses, rounds_of, timed_pairs
from harness.records import Generation


def tau_uncut(generations: Sequence[Generation]) -> float:
    """`harness.metrics.tau` before the last round is cut at stop and limit.

    Spec-Bench's, where answers end at a stop token; see `tau_macro_uncut` for the others.

    Raises:
        NoData: no generation has rounds.
    """
    return mean([item.accepted + 1 for item in rounds_of(generations)])


def tau_macro_uncut(generations: Sequence[Generation]) -> float:
    """`harness.metrics.tau_macro` before that cut.

    What DFlash-family papers print, where answers end at a stop token. At the length limit their
    loops draft whole blocks, where ours is offered no deeper than the limit, and may run one round
    more: 2.070 for our 2.037 on equal tokens at a limit of 32, 1.902 for 1.891 at 128.

    Raises:
        NoData: no generation has rounds.
    """
    return mean([mean([item.accepted + 1 for item in rounds]) for rounds in responses(generations)])


def speedup_dflash(baseline: Sequence[Generation], method: Sequence[Generation]) -> float:
    """Baseline's mean over answers of decode seconds a token, over the method's; same prompts.

    Divided by all N tokens, the prefill's too, as DFlash does. Its clock starts after the first
    draft; that draft stays in here, for records do not hold its time.

    Raises:
        NoData: no prompt in common, or one side took no time.
    """
    both = timed_pairs(baseline, method)
    slow, fast = (
        mean([item.decode_s / len(item.new_tokens) for item in side])
        for side in ([a for a, _ in both], [b for _, b in both])
    )
    if slow == 0 or fast == 0:
        raise NoData("one side decoded nothing")
    return slow / fast


def speedup_spec_bench(baseline: Sequence[Generation], method: Sequence[Generation]) -> float:
    """Method's mean over conversations of tokens a second, over the baseline's; same prompts.

    All N tokens over prefill and decode seconds, the turns of a conversation summed, as
    Spec-Bench does. It counts the baseline's tokens by reading its text again; here both sides
    are counted alike.

    Raises:
        NoData: no prompt in common, or a conversation that took no time.
    """
    both = timed_pairs(baseline, method)
    slow, fast = _mean_speed([a for a, _ in both]), _mean_speed([b for _, b in both])
    return fast / slow


def _mean_speed(generations: Sequence[Generation]) -> float:
    """Mean over conversations of tokens a second, prefill included."""
    tokens: dict[tuple[object, ...], int] = defaultdict(int)
    seconds: dict[tuple[object, ...], float] = defaultdict(float)
    for item in generations:
        conversation = (item.task, item.prompt_id, item.repeat)
        tokens[conversation] += len(item.new_tokens)
        seconds[conversation] += item.prefill_s + item.decode_s
    if not all(seconds.values()):
        raise NoData("a conversation took no time")
    return mean([tokens[name] / seconds[name] for name in tokens])
