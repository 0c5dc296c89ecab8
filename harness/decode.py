"""Prefill, then propose → verify → commit until stop: ONE loop, the baseline included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from drafters.base import Drafter, Proposal
from harness.clock import Clock, clock_for
from harness.errors import UserError
from harness.records import FinishReason, Round
from harness.sampling import Sampling
from harness.stopping import Stopping
from harness.verify import Verdict, draw, verify
from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """An answer and how it came about, as `harness.records.Generation` keeps it."""

    new_tokens: tuple[int, ...]
    """The prefill's token and the stop token included."""
    rounds: tuple[Round, ...] | None
    """None for a foreign baseline."""
    prefill_s: float
    """Start to the first token on the host."""
    decode_s: float
    """First token to last; the drafter's start and first draft included."""
    finish_reason: FinishReason
    peak_memory_bytes: int | None
    """Device memory on a GPU, None elsewhere."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A round whose draft tokens are still on the device: reading them can wait for the end."""

    nodes: int
    top: torch.Tensor
    accepted: int
    committed: int

    def record(self) -> Round:
        draft_tokens = tuple(self.top.tolist())
        return Round(
            depth=len(draft_tokens),
            nodes=self.nodes,
            accepted=self.accepted,
            committed=self.committed,
            draft_tokens=draft_tokens,
        )


def generate(
    target: Target,
    drafter: Drafter,
    prompt_ids: Sequence[int],
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop_strings: Sequence[str] = (),
    clock: Clock | None = None,
) -> Decoded:
    """Answer one prompt.

    Args:
        target: the model that decides.
        drafter: the method under test; `drafters.none.NoDrafter` makes this ``ar_loop``.
        prompt_ids: at least one token.
        sampling: how tokens are drawn, and the seed of this answer.
        max_new_tokens: at least 1.
        stop_strings: texts that end the answer, beside the target's stop ids.
        clock: the device's own when None.

    Raises:
        ValueError: an empty prompt or limit, or a drafter that breaks its contract.
        UserError: the prompt leaves no room in the context.
    """
    clock = clock or clock_for(target.device)
    stopping = stopping_for(target, prompt_ids, max_new_tokens, stop_strings)
    memory = PeakMemory(target.device)
    try:
        with torch.inference_mode():
            started = clock.now()
            generator = sampling.generator("verify", target.device)
            max_tokens = len(prompt_ids) + stopping.remaining
            target.start(max_tokens, drafter.max_nodes, drafter.feature_layers)
            prompt = torch.tensor(prompt_ids, dtype=torch.int64, device=target.device)
            output = target.prefill(prompt)
            stopping.commit([draw(output.logits[-1], sampling, generator)])
            prefilled = clock.now()
            offers: list[_Offer] = []
            if stopping.reason is None:
                drafter.start(prompt, output.features, sampling)
                accept = partial(verify, sampling=sampling, generator=generator)
                offers = _rounds(target, drafter, list(prompt_ids), stopping, accept)
            finished = clock.now()
    finally:
        drafter.reset()
    assert stopping.reason is not None
    return Decoded(
        new_tokens=tuple(stopping.tokens),
        rounds=tuple(offer.record() for offer in offers),
        prefill_s=prefilled - started,
        decode_s=finished - prefilled,
        finish_reason=stopping.reason,
        peak_memory_bytes=memory.read(),
    )


def _rounds(
    target: Target,
    drafter: Drafter,
    prefix: list[int],
    stopping: Stopping,
    accept: Callable[[torch.Tensor, Proposal], Verdict],
) -> list[_Offer]:
    """Propose, verify, commit and observe until ``stopping`` has a reason."""
    nothing = Proposal(torch.empty(0, dtype=torch.int64, device=target.device), ())
    offers: list[_Offer] = []
    pending = stopping.tokens[-1]
    while True:
        # The bonus takes one of the tokens that are left.
        budget = stopping.remaining - 1
        proposal = drafter.propose(prefix, pending, budget) if budget > 0 else nothing
        top = _top_path(proposal, budget, drafter.max_nodes)
        output = target.verify(pending, proposal)
        verdict = accept(output.logits, proposal)
        committed = stopping.commit((*verdict.tokens, verdict.next_token))
        offers.append(_Offer(len(proposal.parents), top, verdict.accepted, committed))
        if stopping.reason is not None:
            return offers
        target.commit(verdict.path)
        prefix += (pending, *verdict.tokens)
        pending = verdict.next_token
        if proposal is not nothing:
            drafter.observe(verdict, _rows(output.features, verdict.path))


def _top_path(proposal: Proposal, budget: int, max_nodes: int) -> torch.Tensor:
    """Tokens of the first-listed deepest path, copied: a drafter may reuse its buffers.

    Raises:
        ValueError: more or deeper nodes than the drafter may offer.
    """
    nodes = len(proposal.parents)
    if nodes > max_nodes:
        raise ValueError(f"the drafter proposed {nodes} nodes, but states max_nodes = {max_nodes}")
    if proposal.is_chain:
        depth, path = nodes, None
    else:
        depths = proposal.depths()
        depth, path = max(depths), [depths.index(max(depths))]
        while proposal.parents[path[0]] >= 0:
            path.insert(0, proposal.parents[path[0]])
    if depth > budget:
        raise ValueError(f"the drafter proposed {depth} tokens deep with a budget of {budget}")
    return proposal.tokens.clone() if path is None else proposal.tokens[path]


def _rows(features: torch.Tensor | None, path: tuple[int, ...]) -> torch.Tensor | None:
    """Rows of the pending token and the accepted nodes."""
    if features is None:
        return None
    if path == tuple(range(len(path))):
        return features[: len(path) + 1]
    return features[[0, *(node + 1 for node in path)]]


def stopping_for(
    target: Target, prompt_ids: Sequence[int], max_new_tokens: int, stop_strings: Sequence[str]
) -> Stopping:
    """The rules one answer ends by.

    Raises:
        ValueError: an empty prompt, or no token may be written.
        UserError: the prompt leaves no room in the target's context.
    """
    if not prompt_ids:
        raise ValueError("a prompt needs at least one token")
    room = target.max_context - len(prompt_ids)
    if room < 1:
        raise UserError(
            f"the prompt has {len(prompt_ids)} tokens and {target.name} reads {target.max_context} "
            "in all; shorten the prompt or choose a target with a longer context."
        )
    return Stopping(
        stop_ids=target.stop_ids,
        max_new_tokens=max_new_tokens,
        room=room,
        stop_strings=stop_strings,
        decode=target.decode,
        decode_whole=getattr(target, "decode_whole", None),
    )


class PeakMemory:
    """Most device memory in use since it was made; None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int | None:
        """Bytes."""
        if self._device.type != "cuda":
            return None
        return int(torch.cuda.max_memory_allocated(self._device))
