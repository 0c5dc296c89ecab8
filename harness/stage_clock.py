"""Measures the parts of a round by watching the decode loop from its two sides.

The loop is `harness.decode.generate` itself, on answers that count for nothing else: reading the
clock between the parts makes a GPU wait, which a timed answer must not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from drafters.base import Drafter
from harness.clock import Clock, clock_for, no_collection
from harness.decode import generate
from harness.errors import FAILURES, one_line, raise_ctrl_c
from harness.methods import Method
from harness.plan import Plan
from harness.progress import Progress, say
from harness.records import Generation
from harness.sampling import Sampling
from harness.stages import Stages, StageTimes
from targets.base import Target

NUM_CONTEXTS = 12
NUM_TOKENS = 24
"""Answered after each context."""

_Round = tuple[float, float, float]
"""Seconds of draft, verify and commit."""


class _Watched:
    """A target or drafter one of whose verbs is timed; everything else is its own."""

    def __init__(
        self, inner: Any, verb: str, clock: Clock, log: list[tuple[str, float, float]]
    ) -> None:
        self._inner, self._verb, self._clock, self._log = inner, verb, clock, log

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name != self._verb:
            return value

        def timed(*args: Any) -> Any:
            started = self._clock.now()
            result = value(*args)
            self._log.append((name, started, self._clock.now()))
            return result

        return timed


def measure_stages(
    plan: Plan,
    target: Target,
    methods: Sequence[Method],
    answers: Sequence[Generation],
    *,
    after: Callable[[], float] | None = None,
) -> Stages | None:
    """Stage times of every method at the median context length of ``ar_loop``'s ``answers``.

    Oracles, and methods that show no rounds, are left out. None where nothing could be measured.
    What comes ``after`` takes so many seconds.
    """
    if not answers:
        return None
    lengths = [item.num_prompt_tokens + len(item.new_tokens) // 2 for item in answers]
    length = int(median(lengths))
    config = plan.config
    sampling = Sampling(config.temperature, config.top_p, config.top_k, config.seed)
    contexts = _contexts(plan, target, answers, length)
    drafters = {
        method.name: method.drafter
        for method in methods
        if method.has_stages and method.drafter is not None
    }
    known = stage_times(target, drafters, contexts, sampling, after=after)
    return Stages(num_context_tokens=length, methods=known) if "ar_loop" in known else None


def _contexts(
    plan: Plan, target: Target, answers: Sequence[Generation], length: int
) -> list[list[int]]:
    """Prompts with the beginning of their answers, ``length`` tokens long or as near as there are.

    First turns only: their prompts need no history.
    """
    texts = {
        (task, prompt.prompt_id): prompt.turns[0]
        for task, chosen in plan.tasks.items()
        for prompt in chosen.prompts
    }
    first = [item for item in answers if item.turn == 1 and item.repeat == 0]
    first.sort(key=lambda item: abs(item.num_prompt_tokens + len(item.new_tokens) // 2 - length))
    contexts = []
    for item in first[:NUM_CONTEXTS]:
        text = texts[item.task, item.prompt_id]
        ids = target.encode_chat([{"role": "user", "content": text}])
        kept = max(0, min(length - len(ids), len(item.new_tokens) - 1))
        contexts.append([*ids, *item.new_tokens[:kept]])
    return contexts


def stage_times(
    target: Target,
    drafters: Mapping[str, Drafter],
    contexts: Sequence[Sequence[int]],
    sampling: Sampling,
    clock: Clock | None = None,
    *,
    after: Callable[[], float] | None = None,
) -> dict[str, StageTimes]:
    """Stage times of each method behind each context; no two rounds in a row, no times.

    Methods take turns behind each context, in an order drawn from the seed: a machine that becomes
    slower meanwhile becomes so for all of them.

    Args:
        target: as in a run.
        drafters: by method; `drafters.none.NoDrafter` for ``ar_loop``.
        contexts: token ids, a prompt and the beginning of its answer.
        sampling: as in the run.
        clock: the device's own when None.
        after: seconds of what follows, for the lines on stderr.
    """
    clock = clock or clock_for(target.device)
    order = random.Random(sampling.seed)
    parts: dict[str, list[_Round]] = {name: [] for name in drafters}
    with Progress(len(contexts) * len(parts), "timing", after=after) as progress:
        for context in contexts:
            for name in order.sample(sorted(parts), len(parts)):
                try:
                    parts[name] += _rounds(target, drafters[name], context, sampling, clock)
                except FAILURES as error:
                    raise_ctrl_c(error)
                    say(f"{name} failed while its parts were timed: {one_line(error)}")
                    del parts[name]
                progress.step(name)
    found = {}
    for name in drafters:
        if parts.get(name):
            draft_s, verify_s, commit_s = zip(*parts[name], strict=True)
            found[name] = StageTimes(draft_s=draft_s, verify_s=verify_s, commit_s=commit_s)
    return found


def _rounds(
    target: Target, drafter: Drafter, context: Sequence[int], sampling: Sampling, clock: Clock
) -> list[_Round]:
    """Seconds of every round of one answer but the last."""
    log: list[tuple[str, float, float]] = []
    sides: tuple[Any, Any] = (
        _Watched(target, "verify", clock, log),
        _Watched(drafter, "propose", clock, log),
    )
    with no_collection():
        generate(*sides, context, sampling=sampling, max_new_tokens=NUM_TOKENS, clock=clock)
    return [
        (
            draft[2] - draft[1],
            verify[2] - verify[1],
            following[1] - verify[2] + verify[1] - draft[2],
        )
        for draft, verify, following in zip(log, log[1:], log[2:], strict=False)
        if (draft[0], verify[0], following[0]) == ("propose", "verify", "propose")
    ]
