"""Measures the parts of a round by watching the decode loop from its two sides.

The loop is `harness.decode.generate` itself, on answers that count for nothing else: reading the
clock between the parts makes a GPU wait, which a timed answer must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from drafters.base import Drafter
from harness.clock import Clock, clock_for, no_collection
from harness.decode import generate
from harness.errors import FAILURES, one_line, raise_ctrl_c
from harness.methods import Method
from harness.plan import Plan
from harness.progress import say
from harness.records import Generation
from harness.sampling import Sampling
from harness.stages import Stages, StageTimes
from targets.base import Target

_NUM_CONTEXTS = 6
_NUM_TOKENS = 24
"""Answered after each context."""


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
    plan: Plan, target: Target, methods: Sequence[Method], answers: Sequence[Generation]
) -> Stages | None:
    """Stage times of every method at the median context length of ``ar_loop``'s ``answers``.

    Oracles, and methods that show no rounds, are left out. None where nothing could be measured.
    """
    if not answers:
        return None
    lengths = [item.num_prompt_tokens + len(item.new_tokens) // 2 for item in answers]
    length = int(median(lengths))
    config = plan.config
    sampling = Sampling(config.temperature, config.top_p, config.top_k, config.seed)
    contexts = _contexts(plan, target, answers, length)
    known: dict[str, StageTimes] = {}
    for method in methods:
        if method.drafter is None or method.prepare is not None:
            continue
        try:
            times = stage_times(target, method.drafter, contexts, sampling)
        except FAILURES as error:
            raise_ctrl_c(error)
            say(f"{method.name} failed while its parts were timed: {one_line(error)}")
            continue
        if times is not None:
            known[method.name] = times
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
    for item in first[:_NUM_CONTEXTS]:
        text = texts[item.task, item.prompt_id]
        ids = target.encode_chat([{"role": "user", "content": text}])
        kept = max(0, min(length - len(ids), len(item.new_tokens) - 1))
        contexts.append([*ids, *item.new_tokens[:kept]])
    return contexts


def stage_times(
    target: Target,
    drafter: Drafter,
    contexts: Sequence[Sequence[int]],
    sampling: Sampling,
    clock: Clock | None = None,
) -> StageTimes | None:
    """Stage times of a method behind each context; None where no two rounds followed each other.

    Args:
        target: as in a run.
        drafter: the method; `drafters.none.NoDrafter` for ``ar_loop``.
        contexts: token ids, a prompt and the beginning of its answer.
        sampling: as in the run.
        clock: the device's own when None.
    """
    clock = clock or clock_for(target.device)
    draft_s: list[float] = []
    verify_s: list[float] = []
    commit_s: list[float] = []
    for context in contexts:
        log: list[tuple[str, float, float]] = []
        sides: tuple[Any, Any] = (
            _Watched(target, "verify", clock, log),
            _Watched(drafter, "propose", clock, log),
        )
        with no_collection():
            generate(*sides, context, sampling=sampling, max_new_tokens=_NUM_TOKENS, clock=clock)
        for draft, verify, following in zip(log, log[1:], log[2:], strict=False):
            if (draft[0], verify[0], following[0]) == ("propose", "verify", "propose"):
                draft_s.append(draft[2] - draft[1])
                verify_s.append(verify[2] - verify[1])
                commit_s.append(following[1] - verify[2] + verify[1] - draft[2])
    if not draft_s:
        return None
    return StageTimes(draft_s=tuple(draft_s), verify_s=tuple(verify_s), commit_s=tuple(commit_s))
