"""One sitting of a run: every method on every prompt, back to back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.clock import no_collection, second_clock
from harness.conversations import prompt_sha256, turns
from harness.errors import FAILURES, NotNumbers, UserError, one_line, raise_ctrl_c
from harness.forecast import Cost
from harness.load import OtherLoad
from harness.methods import Method
from harness.plan import Plan
from harness.progress import say
from harness.records import Failure, Generation, Record, RecordKey, key_of
from harness.sampling import Sampling, generation_seed
from targets.exact import TreeProposed
from tasks.base import Prompt, Source

if TYPE_CHECKING:
    from targets.base import Target

_WARMUP_TOKENS = 16


class Session:
    """One sitting of a run."""

    def __init__(
        self,
        plan: Plan,
        target: Target,
        methods: Sequence[Method],
        before: Sequence[Record],
    ) -> None:
        """Go on behind the records there are already; what failed is asked again."""
        self._plan = plan
        self._target = target
        self._methods = methods
        self._done: set[RecordKey] = set()
        self._num_done: Counter[str] = Counter()
        """By method."""
        self._answers: dict[RecordKey, Generation] = {}
        """Generations of ``ar_loop``: later turns and oracles need them."""
        self._failed: set[RecordKey] = set()
        self._warm: set[str] = set()
        """Tasks whose methods have had their warm-up."""
        for record in before:
            if isinstance(record, Generation):
                self._note(record)

    @property
    def num_failures(self) -> int:
        """Answers that failed in this sitting."""
        return len(self._failed)

    @property
    def num_left(self) -> int:
        """Answers there are not, those that failed included."""
        return self._plan.num_generations - len(self._done)

    def records(self) -> Iterator[Record]:
        """Ask everything that has no answer yet; a method that raises makes a `Failure`."""
        for task, chosen in self._plan.tasks.items():
            if task not in self._warm and self._is_open(task):
                self._warm_up(task)
            for prompt in chosen.prompts:
                for record in self._conversation(task, chosen.source, prompt):
                    self._note(record)
                    if isinstance(record, Failure):
                        say(f"{record.method} failed on {task} {prompt.prompt_id}: {record.error}")
                    yield record

    def left(self) -> Counter[str]:
        """Answers there are not, by method."""
        each = self._plan.num_generations // len(self._methods)
        return Counter({m.name: each - self._num_done[m.name] for m in self._methods})

    def warm_up(self) -> dict[str, Cost]:
        """Warm up for the first task with answers left; what that took, by method.

        `records` warms up for each later task when it gets there.
        """
        first = next((task for task in self._plan.tasks if self._is_open(task)), None)
        return {} if first is None else self._warm_up(first)

    def _is_open(self, task: str) -> bool:
        """Whether some method still owes an answer."""
        turns_asked = sum(len(prompt.turns) for prompt in self._plan.tasks[task].prompts)
        wanted = turns_asked * len(self._methods) * self._plan.config.repeats
        return sum(key[0] == task for key in self._done) < wanted

    def _warm_up(self, task: str) -> dict[str, Cost]:
        """Let every method answer a text that is not asked, uncounted; what that took.

        Lengths differ from task to task, and with them what caches, buffers and kernels have seen.
        """
        self._warm.add(task)
        try:
            prompt_ids = self._unasked(task)
        except FAILURES as error:
            raise_ctrl_c(error)
            say(f"warm-up on {task} failed: {one_line(error)}")
            return {}
        longest = self._plan.max_new_tokens
        sampling = self._sampling(self._plan.config.seed)
        answer: Sequence[int] | None = None
        costs: dict[str, Cost] = {}
        for method in sorted(self._methods, key=lambda method: method.name != "ar_loop"):
            try:
                _prepare(method, prompt_ids, answer)
                decoded = method.generate(prompt_ids, sampling, min(longest, _WARMUP_TOKENS))
            except TreeProposed as error:
                raise UserError(f"{method.name}: {error}") from error
            except FAILURES as error:
                if isinstance(error, NotNumbers) and not self._done:
                    raise  # as every answer would
                raise_ctrl_c(error)
                say(f"warm-up of {method.name} on {task} failed: {one_line(error)}")
                continue
            if method.name == "ar_loop":
                answer = decoded.new_tokens
            costs[method.name] = Cost(
                prefill_s=decoded.prefill_s,
                num_prompt_tokens=len(prompt_ids),
                token_s=decoded.decode_s / max(len(decoded.new_tokens) - 1, 1),
            )
        return costs

    def _unasked(self, task: str) -> list[int]:
        """As long as the first prompt of a task and made of its words: its halves, exchanged."""
        text = self._plan.tasks[task].prompts[0].turns[0]
        middle = len(text) // 2
        content = text[middle:] + text[:middle]
        return self._target.encode_chat([{"role": "user", "content": content}])

    def _fresh(self, method: Method, task: str) -> Method:
        """``method``, and where it can be, built anew and warm: what it saw before is gone."""
        if method.anew is None:
            return method
        made = method.anew()
        if made.prepare is None:
            sampling = self._sampling(self._plan.config.seed)
            made.generate(
                self._unasked(task), sampling, min(self._plan.max_new_tokens, _WARMUP_TOKENS)
            )
        return made

    def _conversation(self, task: str, source: Source, prompt: Prompt) -> Iterator[Record]:
        """All turns; later ones go on from ``ar_loop``'s first answer, whatever the method."""
        prompts = turns(self._target, task, prompt, self._answers)
        asked = 0
        missing = ""
        while not missing:
            try:
                asked, prompt_ids = next(prompts)
            except StopIteration:
                missing = f"ar_loop failed at turn {asked}, so there is no history to go on from"
            except FAILURES as error:  # the target's template or tokenizer
                raise_ctrl_c(error)
                missing = f"no prompt for turn {asked + 1}: {one_line(error)}"
            else:
                yield from self._ask_all(task, source, prompt.prompt_id, asked, prompt_ids)
        for turn in range(asked + 1, len(prompt.turns) + 1):
            yield from self._fail_turn(task, prompt.prompt_id, turn, missing)

    def _ask_all(
        self,
        task: str,
        source: Source,
        prompt_id: str,
        turn: int,
        prompt_ids: Sequence[int],
    ) -> Iterator[Record]:
        """Every method on one prompt, back to back, as often as asked."""
        for method, repeat in in_order(self._plan, self._methods, task, prompt_id, turn):
            key = (task, prompt_id, turn, method.name, repeat)
            if key in self._done:
                continue
            oracle = self._answers.get((task, prompt_id, turn, "ar_loop", repeat))
            try:
                asked = method if repeat == 0 else self._fresh(method, task)
                record: Record = self._ask(asked, source, key, prompt_ids, oracle)
            except TreeProposed as error:
                raise UserError(f"{method.name}: {error}") from error
            except FAILURES as error:
                raise_ctrl_c(error)
                record = _failure(key, one_line(error))
            yield record

    def _ask(
        self,
        method: Method,
        source: Source,
        key: RecordKey,
        prompt_ids: Sequence[int],
        oracle: Generation | None,
    ) -> Generation:
        task, prompt_id, turn, name, repeat = key
        seed = generation_seed(self._plan.config.seed, task, prompt_id, turn, repeat)
        _prepare(method, prompt_ids, oracle.new_tokens if oracle else None)
        with no_collection(), OtherLoad() as load:
            started = second_clock()
            decoded = method.generate(prompt_ids, self._sampling(seed), self._plan.max_new_tokens)
            elapsed_s = second_clock() - started
        return Generation(
            task=task,
            prompt_id=prompt_id,
            turn=turn,
            method=name,
            repeat=repeat,
            seed=seed,
            source=source.kind,
            source_digest=source.digest,
            prompt_sha256=prompt_sha256(prompt_ids),
            num_prompt_tokens=len(prompt_ids),
            new_tokens=tuple(decoded.new_tokens),
            text=self._target.decode(decoded.new_tokens),
            rounds=decoded.rounds,
            prefill_s=decoded.prefill_s,
            decode_s=decoded.decode_s,
            finish_reason=decoded.finish_reason,
            peak_memory_bytes=decoded.peak_memory_bytes,
            other_load=load.cores,
            elapsed_s=elapsed_s,
        )

    def _fail_turn(self, task: str, prompt_id: str, turn: int, error: str) -> Iterator[Record]:
        for method, repeat in in_order(self._plan, self._methods, task, prompt_id, turn):
            key = (task, prompt_id, turn, method.name, repeat)
            if key not in self._done:
                yield _failure(key, error)

    def _note(self, record: Record) -> None:
        key = key_of(record)
        if isinstance(record, Failure):
            self._failed.add(key)
            return
        if key not in self._done:
            self._done.add(key)
            self._num_done[record.method] += 1
        if record.method == "ar_loop":
            self._answers[key] = record

    def _sampling(self, seed: int) -> Sampling:
        config = self._plan.config
        return Sampling(config.temperature, config.top_p, config.top_k, seed)


def shuffled(
    methods: Sequence[Method], seed: int, task: str, prompt_id: str, turn: int, repeat: int
) -> list[Method]:
    """Order of the methods on one prompt: drawn from the seed, oracles behind ``ar_loop``."""
    order = list(methods)
    random.Random(generation_seed(seed, task, prompt_id, turn, repeat)).shuffle(order)
    return sorted(order, key=lambda method: method.prepare is not None)


def in_order(
    plan: Plan, methods: Sequence[Method], task: str, prompt_id: str, turn: int
) -> list[tuple[Method, int]]:
    """Methods and repeats on one prompt.

    Foreign code comes before all others with all its repeats: the answer that it could look up is
    not there yet, neither in memory nor in the records. Oracles, which need it, do not.
    """
    order = [
        (method, repeat)
        for repeat in range(plan.config.repeats)
        for method in shuffled(methods, plan.config.seed, task, prompt_id, turn, repeat)
    ]
    return sorted(order, key=lambda item: item[0].prepare is not None or not item[0].is_foreign)


def _prepare(method: Method, prompt_ids: Sequence[int], answer: Sequence[int] | None) -> None:
    """Tell an oracle what ``ar_loop`` answered.

    Raises:
        RuntimeError: it needs that answer, and there is none.
    """
    if method.prepare is None:
        return
    if answer is None:
        raise RuntimeError("ar_loop failed here, and this method needs its answer")
    method.prepare(prompt_ids, answer)


def keys_in_order(plan: Plan, methods: Sequence[Method]) -> list[RecordKey]:
    """Keys of a whole run, as one process asks them."""
    return [
        (task, prompt.prompt_id, turn, method.name, repeat)
        for task, chosen in plan.tasks.items()
        for prompt in chosen.prompts
        for turn in range(1, len(prompt.turns) + 1)
        for method, repeat in in_order(plan, methods, task, prompt.prompt_id, turn)
    ]


def _failure(key: RecordKey, error: str) -> Failure:
    task, prompt_id, turn, method, repeat = key
    return Failure(
        task=task, prompt_id=prompt_id, turn=turn, method=method, repeat=repeat, error=error
    )
