"""The target's own responses, many at a time: who is finished makes room for the next prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from drafters.block_diffusion.responses import Query
from harness.batched_cache import BatchedCache
from harness.errors import NotNumbers, UserError
from harness.sampling import Sampling
from targets.attention import step_inputs
from targets.transformers_lm import TransformersTarget

_JOIN_TOKENS, _JOIN_PROMPTS = 4096, 16
"""Of one pass over prompts: padded tokens, and prompts (each may need a row of logits of all)."""
_SAME = 0.03
"""Relative difference of logits that bfloat16 explains."""


@dataclass(slots=True)
class _Slot:
    """One response in the making."""

    index: int
    """Of its query."""
    length: int
    """Rows in the cache: all tokens but the last."""
    limit: int
    """New tokens at most."""
    uniforms: list[float]
    """One a draw; none when greedy."""
    tokens: list[int] = field(default_factory=list)


class BatchGenerator:
    """Continues prompts with the target, as its own loop would with nothing proposed.

    In float32 the greedy tokens are those of one sequence at a time. A response's draws depend on
    its query alone, not on what is beside it.
    """

    def __init__(
        self,
        target: TransformersTarget,
        max_new_tokens: int,
        *,
        sampling: Sampling | None = None,
        batch_size: int = 32,
    ) -> None:
        """Prepare; memory is taken when the first prompts come.

        Args:
            target: loaded; its weights stay as they are.
            max_new_tokens: of each response; less where the target's context ends before.
            sampling: greedy if not given. Seeds come from the queries.
            batch_size: responses in the making at once.
        """
        self.target = target
        self.max_new_tokens = max_new_tokens
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size

    def generate(self, queries: Sequence[Query]) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of a query and its new tokens, stop token included, as it finishes.

        Raises:
            UserError: the cache does not fit in memory, or logits are not numbers.
        """
        # Short prompts first: neighbours are alike, so little of a joining pass is padding.
        waiting = [i for i in range(len(queries)) if self._limit(queries[i]) > 0]
        waiting.sort(key=lambda i: (-len(queries[i].ids), i))
        if not waiting:
            return
        rows = max(len(queries[i].ids) + self._limit(queries[i]) for i in waiting)
        self.target.expect(rows)  # neighbours share a pass, and with it its rotary factors
        if not _reads_together(self.target):
            for index in reversed(waiting):
                yield index, self._alone(queries[index], index)
            return
        count = min(self.batch_size, len(waiting))
        cache = BatchedCache(self.target.num_layers, count, rows)
        slots: list[_Slot | None] = [None] * count
        try:
            while waiting or any(slots):
                # A pass over prompts costs many steps: on a wide batch wait for several.
                if waiting and slots.count(None) >= min(len(waiting), max(1, count // 8)):
                    yield from self._join(queries, waiting, slots, cache)
                    continue
                if not waiting and slots.count(None) * 2 >= len(slots):
                    slots = self._close_ranks(slots, cache)
                    continue
                yield from self._step(slots, cache)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the keys and values of {count} responses do not fit in memory; make --batch-size "
                "smaller."
            ) from error

    @torch.inference_mode()
    def _alone(self, query: Query, index: int) -> list[int]:
        """New tokens of one query, by the library's own cache."""
        limit = self._limit(query)
        slot = _Slot(index, len(query.ids), limit, self._uniforms(query, limit))
        ids, past = torch.tensor([query.ids], device=self.target.device), None
        while True:
            output = self.target.model(
                input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1
            )
            past = output.past_key_values
            slot.tokens += self._choose(output.logits[:, -1], [slot])
            if slot.tokens[-1] in self.target.stop_ids or len(slot.tokens) >= slot.limit:
                return slot.tokens
            ids = ids.new_tensor([[slot.tokens[-1]]])

    def _limit(self, query: Query) -> int:
        return min(self.max_new_tokens, self.target.max_context - len(query.ids))

    def _join(
        self,
        queries: Sequence[Query],
        waiting: list[int],
        slots: list[_Slot | None],
        cache: BatchedCache,
    ) -> Iterator[tuple[int, list[int]]]:
        """Read as many prompts as there is room for, and choose their first tokens."""
        free = [place for place, slot in enumerate(slots) if slot is None]
        places: list[int] = []
        while waiting and free and len(places) < _JOIN_PROMPTS:
            query = queries[waiting[-1]]  # the longest so far
            if places and len(query.ids) * (len(places) + 1) > _JOIN_TOKENS:
                break
            place = free.pop()
            limit = self._limit(query)
            slots[place] = _Slot(waiting.pop(), len(query.ids), limit, self._uniforms(query, limit))
            places.append(place)
        new = [slot for place in places if (slot := slots[place]) is not None]
        prompts = [queries[slot.index].ids for slot in new]
        yield from self._take(slots, places, self._read(prompts, places, cache, new))

    @torch.inference_mode()
    def _read(
        self,
        prompts: Sequence[Sequence[int]],
        places: Sequence[int],
        cache: BatchedCache,
        new: Sequence[_Slot],
    ) -> list[int]:
        device = self.target.device
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p) for p in prompts], batch_first=True)
        lasts = sorted({len(prompt) - 1 for prompt in prompts})
        cache.join(torch.tensor(places, device=device))
        output = self.target.model(
            input_ids=ids.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=torch.tensor(lasts, device=device),
        )
        columns = torch.tensor([lasts.index(len(prompt) - 1) for prompt in prompts], device=device)
        every = torch.arange(len(prompts), device=device)
        return self._choose(output.logits[every, columns], new)

    def _step(
        self, slots: list[_Slot | None], cache: BatchedCache
    ) -> Iterator[tuple[int, list[int]]]:
        """One pass: every response in the making becomes a token longer."""
        tokens = self._pass(slots, cache)
        places = [place for place, slot in enumerate(slots) if slot is not None]
        for place in places:
            slot = slots[place]
            assert slot is not None
            slot.length += 1
        yield from self._take(slots, places, [tokens[place] for place in places])

    @torch.inference_mode()
    def _pass(self, slots: Sequence[_Slot | None], cache: BatchedCache) -> list[int]:
        target = self.target
        # An empty slot writes to its first row, which the next prompt overwrites.
        lengths = [0 if slot is None else slot.length for slot in slots]
        pending = [0 if slot is None else slot.tokens[-1] for slot in slots]
        width = max(lengths) + 1
        at = torch.tensor(lengths, device=target.device)
        cache.step(at, width)
        output = target.model(
            input_ids=torch.tensor(pending, device=target.device)[:, None],
            past_key_values=cache,
            use_cache=True,
            **step_inputs(target.text_config, at, width, target.dtype),
        )
        return self._choose(output.logits[:, -1], slots)

    def _take(
        self, slots: list[_Slot | None], places: Sequence[int], tokens: Sequence[int]
    ) -> Iterator[tuple[int, list[int]]]:
        """Add each slot's token; finished responses leave."""
        for place, token in zip(places, tokens, strict=True):
            slot = slots[place]
            assert slot is not None
            slot.tokens.append(token)
            if token in self.target.stop_ids or len(slot.tokens) >= slot.limit:
                slots[place] = None
                yield slot.index, slot.tokens

    @torch.inference_mode()
    def _close_ranks(self, slots: list[_Slot | None], cache: BatchedCache) -> list[_Slot | None]:
        """Nobody waits any more: drop the empty slots, whose rows would still be computed."""
        kept = [place for place, slot in enumerate(slots) if slot is not None]
        cache.keep_slots(torch.tensor(kept, device=self.target.device))
        return [slots[place] for place in kept]

    def _uniforms(self, query: Query, count: int) -> list[float]:
        if self.sampling.greedy:
            return []
        generator = Sampling(seed=query.seed).generator("response")
        drawn: list[float] = torch.rand(count, generator=generator).tolist()
        return drawn

    def _choose(self, logits: torch.Tensor, slots: Sequence[_Slot | None]) -> list[int]:
        """A token of each row of ``[rows, V]``: the best, or where a uniform number falls."""
        best = logits.max(-1)
        if not bool(best.values.isfinite().all()):
            raise NotNumbers(self.target.name)
        if self.sampling.greedy:
            tokens: list[int] = best.indices.tolist()
            return tokens
        drawn = [0.0 if slot is None else slot.uniforms[len(slot.tokens)] for slot in slots]
        heights = self.sampling.probs(logits).double().cumsum(-1)
        at = torch.tensor(drawn, device=logits.device, dtype=torch.float64)[:, None]
        # Right of equal heights: a token of probability zero is never met.
        chosen = torch.searchsorted(heights, at * heights[:, -1:], right=True)
        tokens = chosen[:, 0].tolist()
        return tokens


@torch.inference_mode()
def _reads_together(target: TransformersTarget) -> bool:
    """Whether a step of two sequences shows what a pass over each of them shows.

    Some architectures (ALiBi) take no masks of ours.
    """
    ids = torch.arange(1, 7, device=target.device)[None] % target.vocab_size
    prompts = [ids[0, :2], ids[0, :4]]
    cache = BatchedCache(target.num_layers, 2, 8)
    cache.join(torch.tensor([0, 1], device=target.device))
    lengths = torch.tensor([2, 4], device=target.device)
    try:
        padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        target.model(input_ids=padded, past_key_values=cache, use_cache=True)
        cache.step(lengths, 5)
        inputs = step_inputs(target.text_config, lengths, 5, target.dtype)
        found = target.model(
            input_ids=ids[0, [2, 4], None], past_key_values=cache, use_cache=True, **inputs
        ).logits[:, -1]
    except (ValueError, TypeError, RuntimeError):
        return False
    alone = [target.model(input_ids=ids[:, :n], use_cache=False).logits[0, -1] for n in (3, 5)]
    expected = torch.stack(alone).float()
    return bool((found.float() - expected).norm() < _SAME * expected.norm())
