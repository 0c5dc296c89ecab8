"""Records to numbers: here and in the modules that build on this one, and nowhere else.

Every function takes the generations of ONE method. Pooled values weigh every token alike, macro
values every response alike. Nothing to measure raises `NoData`; a table shows that as a blank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.records import Generation, Round

Sides = tuple[Sequence[Generation], Sequence[Generation]]
"""Two methods on the same prompts: (baseline, method), or (first, second)."""


class NoData(ValueError):
    """There is nothing to compute the number from."""


# Accepted length


def num_without_rounds(generations: Sequence[Generation]) -> int:
    """Generations left out of `tau`: foreign baselines', and those the prefill's token ended."""
    return sum(not item.rounds for item in generations)


def tau(generations: Sequence[Generation]) -> float:
    """Accepted length: Σ committed / number of rounds, pooled; bonus included, cut at the end.

    Raises:
        NoData: no generation has rounds.
    """
    # The record has checked that 1 + Σ committed is the number of its tokens.
    answers = [item for item in generations if item.rounds]
    num_rounds = sum(len(item.rounds or ()) for item in answers)
    if num_rounds == 0:
        raise NoData("no generation has rounds")
    return sum(len(item.new_tokens) - 1 for item in answers) / num_rounds


def tau_difference(first: Sequence[Generation], second: Sequence[Generation]) -> float:
    """`tau` of ``second`` less that of ``first``, on answers to the same prompts.

    Raises:
        NoData: no prompt for which both sides have rounds.
    """
    both = drafted_pairs(first, second)
    return tau([b for _, b in both]) - tau([a for a, _ in both])


def tau_change(first: Sides, second: Sides) -> float:
    """`tau_difference` of ``second`` less that of ``first``: 0 where the same is gained twice.

    Raises:
        NoData: as `tau_difference`.
    """
    return tau_difference(*second) - tau_difference(*first)


def tau_macro(generations: Sequence[Generation]) -> float:
    """Mean over responses of the mean tokens committed a round.

    Raises:
        NoData: no generation has rounds.
    """
    return mean([mean([item.committed for item in rounds]) for rounds in responses(generations)])


def node_acceptance_rate(generations: Sequence[Generation]) -> float:
    """Σ accepted / Σ nodes: the share of all draft tokens checked that the target accepted.

    Raises:
        NoData: nothing was drafted.
    """
    rounds = rounds_of(generations)
    nodes = sum(item.nodes for item in rounds)
    if nodes == 0:
        raise NoData("nothing was drafted")
    return sum(item.accepted for item in rounds) / nodes


# Time


def pairs(
    baseline: Sequence[Generation], method: Sequence[Generation]
) -> list[tuple[Generation, Generation]]:
    """Generations of both sides for the same task, prompt, turn, repeat and prompt tokens.

    A later turn whose history differs between the sides is another prompt, and left out.

    Raises:
        ValueError: one side holds the same key twice.
    """
    others = _by_prompt(method)
    return [(item, others[key]) for key, item in _by_prompt(baseline).items() if key in others]


def timed(generations: Sequence[Generation]) -> list[Generation]:
    """Those whose times count: of one process a host."""
    return [item for item in generations if item.process == 0]


def timed_pairs(
    baseline: Sequence[Generation], method: Sequence[Generation]
) -> list[tuple[Generation, Generation]]:
    """`pairs` in which the times of both sides count."""
    return pairs(timed(baseline), timed(method))


def drafted_pairs(
    first: Sequence[Generation], second: Sequence[Generation]
) -> list[tuple[Generation, Generation]]:
    """`pairs` in which both sides have rounds."""
    return [(a, b) for a, b in pairs(first, second) if a.rounds and b.rounds]


def speedup(baseline: Sequence[Generation], method: Sequence[Generation]) -> float:
    """Baseline's decode seconds per token over the method's, both pooled over the same prompts.

    The prefill's token belongs to no decode time, so a generation of N tokens counts N − 1.

    Raises:
        NoData: no prompt in common, or one side decoded nothing.
    """
    both = timed_pairs(baseline, method)
    slow = tokens_per_s([pair[0] for pair in both])
    fast = tokens_per_s([pair[1] for pair in both])
    return fast / slow


def speedup_change(first: Sides, second: Sides) -> float:
    """`speedup` in ``second`` over that in ``first``; each is (baseline, method) of one run.

    A machine that was slower during one of the runs slows its baseline too, and cancels.

    Raises:
        NoData: as `speedup`.
    """
    return speedup(*second) / speedup(*first)


def speedup_end_to_end(baseline: Sequence[Generation], method: Sequence[Generation]) -> float:
    """Σ (prefill_s + decode_s) of the baseline over the method's, on the same prompts.

    Differing answer lengths are part of it.

    Raises:
        NoData: no prompt in common, or no time measured.
    """
    both = timed_pairs(baseline, method)
    before = sum(item.prefill_s + item.decode_s for item, _ in both)
    after = sum(item.prefill_s + item.decode_s for _, item in both)
    if before == 0 or after == 0:
        raise NoData("no time was measured on prompts that both sides answered")
    return before / after


def tokens_per_s(generations: Sequence[Generation]) -> float:
    """Decode speed: Σ (N − 1) / Σ decode_s, pooled.

    Raises:
        NoData: nothing was decoded after the prefill's token.
    """
    answers = timed(generations)
    tokens = sum(len(item.new_tokens) - 1 for item in answers)
    seconds = sum(item.decode_s for item in answers)
    if tokens == 0 or seconds == 0:
        raise NoData("nothing was decoded after the prefill's token")
    return tokens / seconds


def seconds_per_round(generations: Sequence[Generation]) -> float:
    """Σ decode_s / number of rounds, pooled over the generations that show rounds.

    Raises:
        NoData: no generation has rounds.
    """
    answers = timed(generations)
    num_rounds = len(rounds_of(answers))
    return sum(item.decode_s for item in answers if item.rounds) / num_rounds


def peak_memory_bytes(generations: Sequence[Generation]) -> int | None:
    """Largest device memory of any generation; None where it was not measured."""
    measured = [
        item.peak_memory_bytes for item in generations if item.peak_memory_bytes is not None
    ]
    return max(measured, default=None)


def headline_baseline(baselines: Mapping[str, Sequence[Sequence[Generation]]]) -> str:
    """Name of the baseline that all speedups of some runs divide by.

    The one that covers most tasks, each run's counted; among several, the fastest by
    `tokens_per_s` pooled over the runs. A fast one with a task missing would leave blanks.

    Args:
        baselines: by name, the generations in each run.

    Raises:
        NoData: no baseline decoded anything.
    """
    speeds: dict[str, tuple[int, float]] = {}
    for name, runs in baselines.items():
        try:
            speed = tokens_per_s([item for generations in runs for item in generations])
        except NoData:
            continue
        speeds[name] = (sum(len({item.task for item in run}) for run in runs), speed)
    if not speeds:
        raise NoData("no baseline decoded anything")
    return max(speeds, key=lambda name: speeds[name])


# Over tasks


def overall_mean(values: Sequence[float | None]) -> float:
    """Mean of the task values: overall τ.

    Raises:
        NoData: no task, or a task without a value.
    """
    return mean(_complete(values))


def overall_geometric_mean(values: Sequence[float | None]) -> float:
    """Geometric mean of the task values: overall speedup.

    Raises:
        NoData: no task, or a task without a value.
    """
    return math.exp(mean([math.log(value) for value in _complete(values)]))


# Shared with the siblings of this module


def responses(generations: Sequence[Generation]) -> list[tuple[Round, ...]]:
    """The rounds of each generation that has any.

    Raises:
        NoData: none has.
    """
    found = [item.rounds for item in generations if item.rounds]
    if not found:
        raise NoData("no generation has rounds")
    return found


def rounds_of(generations: Sequence[Generation]) -> list[Round]:
    """All rounds in one list.

    Raises:
        NoData: there is none.
    """
    return [item for rounds in responses(generations) for item in rounds]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean.

    Raises:
        NoData: no value.
    """
    if not values:
        raise NoData("nothing to average")
    return sum(values) / len(values)


def _by_prompt(generations: Sequence[Generation]) -> dict[tuple[object, ...], Generation]:
    by_prompt: dict[tuple[object, ...], Generation] = {}
    for item in generations:
        key = (item.task, item.prompt_id, item.turn, item.repeat, item.prompt_sha256)
        if key in by_prompt:
            raise ValueError(f"two generations for {key[:-1]}")
        by_prompt[key] = item
    return by_prompt


def _complete(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise NoData("a task has no value")
    return known
