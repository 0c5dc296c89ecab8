"""How long a run still takes, its stage times, audit and scores included.

What a part costs is guessed from the warm-up, until answers of the run itself tell better.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from harness import stage_clock
from harness.plan import Plan
from harness.records import Generation, Record
from harness.scorer import graders_of, num_cores

_WIDER = 3.0
"""Passes in the run's dtype that one pass of the audit's reference is worth, on a CPU."""
_DISTINCT = 0.5
"""Share of the answers whose tokens no other method wrote on the same prompt."""
_SANDBOX_S = 5.0
_PROGRAM_S = 0.5
"""What trying the sandbox takes, and one program on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one method's warm-up took."""

    prefill_s: float
    num_prompt_tokens: int
    token_s: float
    """After the first token."""

    def answer_s(self, num_tokens: float) -> float:
        """Seconds of an answer as long as this."""
        return self.prefill_s + self.token_s * max(num_tokens - 1, 0)

    def pass_s(self, num_tokens: float) -> float:
        """Seconds of one pass over the prompt and an answer as long as this."""
        return self.prefill_s * (1 + num_tokens / self.num_prompt_tokens)


class Forecast:
    """Seconds that are left of a run."""

    def __init__(self, plan: Plan, timed: Iterable[str], costs: Mapping[str, Cost]) -> None:
        """Foresee what ``plan`` asks of this process.

        Args:
            plan: of the whole run.
            timed: methods whose parts of a round will be timed.
            costs: by method; one that has none is left out.
        """
        self._plan = plan
        self._costs = costs
        self._timed = [costs[name] for name in timed if name in costs]
        graders = graders_of(list(plan.tasks))
        self._programs = {name for name, grader in graders.items() if grader.runs_code}
        self._seconds: dict[str, list[float]] = defaultdict(list)
        self._num_tokens: list[int] = []
        self._texts: set[tuple[str, str, int, tuple[int, ...]]] = set()

    def note(self, record: Record) -> None:
        """Learn from one answer."""
        if isinstance(record, Generation):
            self._seconds[record.method].append(record.prefill_s + record.decode_s)
            self._num_tokens.append(len(record.new_tokens))
            self._texts.add((record.task, record.prompt_id, record.turn, record.new_tokens))

    def answers_s(self, left: Counter[str]) -> float:
        """Seconds of the answers ``left``, by method; at full length until one is known."""
        return sum(count * self._answer_s(name) for name, count in left.items())

    def after_answers_s(self) -> float:
        """Seconds of all that follows the answers."""
        return self.stages_s() + self.after_stages_s()

    def after_stages_s(self) -> float:
        """Seconds of audit and scores."""
        return self.audit_s() + self.scores_s()

    def stages_s(self) -> float:
        """Seconds of timing the parts of a round."""
        prompts = sum(len(chosen.prompts) for chosen in self._plan.tasks.values())
        contexts = min(prompts, stage_clock.NUM_CONTEXTS)
        return contexts * sum(cost.answer_s(stage_clock.NUM_TOKENS) for cost in self._timed)

    def audit_s(self) -> float:
        """Seconds of scoring every answer again; equal ones of a prompt share a pass."""
        cost = self._costs.get("ar_loop")
        if cost is None:
            return 0.0
        pass_s = cost.pass_s(self._mean_tokens())
        if self._plan.config.temperature > 0:
            return self._plan.num_generations * pass_s
        return self._num_distinct(self._plan.num_generations) * pass_s * (1 + _WIDER)

    def scores_s(self) -> float:
        """Seconds of running the programs in answers."""
        if not (self._programs and self._plan.config.confirm_run_unsafe_code):
            return 0.0
        prompts = {name: len(chosen.prompts) for name, chosen in self._plan.tasks.items()}
        share = sum(prompts[name] for name in self._programs) / sum(prompts.values())
        programs = self._num_distinct(share * self._plan.num_generations)
        return _SANDBOX_S + programs * _PROGRAM_S / num_cores()

    def _answer_s(self, method: str) -> float:
        if known := self._seconds.get(method):
            return fmean(known)
        cost = self._costs.get(method)
        return 0.0 if cost is None else cost.answer_s(self._plan.max_new_tokens)

    def _mean_tokens(self) -> float:
        return fmean(self._num_tokens) if self._num_tokens else self._plan.max_new_tokens

    def _num_distinct(self, num_answers: float) -> float:
        if not self._num_tokens:
            return num_answers * _DISTINCT
        return num_answers * len(self._texts) / len(self._num_tokens)
