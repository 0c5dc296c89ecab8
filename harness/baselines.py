"""Baselines that are not this project's loop: transformers' own ``generate``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from harness.clock import Clock, clock_for
from harness.decode import Decoded, PeakMemory, stopping_for
from harness.sampling import Sampling
from harness.stopping import Stopping
from targets.attention import GROUPED
from targets.transformers_lm import TransformersTarget


def hf_generate(
    target: TransformersTarget,
    prompt_ids: Sequence[int],
    *,
    sampling: Sampling,
    max_new_tokens: int,
    stop_strings: Sequence[str] = (),
    clock: Clock | None = None,
) -> Decoded:
    """Answer one prompt as most users would: ``model.generate`` with its own cache and sampling.

    The stopping rules are the loop's. Nothing else of the model's ``generation_config`` applies,
    so a repetition penalty in it cannot make the baseline another distribution. Weights are laid
    out and rotary factors chosen as for the loop. Where the target runs with the harness's
    attention, this uses the library's ``sdpa``.

    Raises:
        ValueError, UserError: as `harness.decode.generate`.
    """
    clock = clock or clock_for(target.device)
    stopping = stopping_for(target, prompt_ids, max_new_tokens, stop_strings)
    memory = PeakMemory(target.device)
    watch = _Watch(stopping, clock)
    target.prepare()
    target.expect(len(prompt_ids) + stopping.remaining)
    devices = [target.device] if target.device.type == "cuda" else []
    with _as_users_run_it(target.model), torch.random.fork_rng(devices):
        torch.manual_seed(sampling.seed)
        started = clock.now()
        prompt = torch.tensor([list(prompt_ids)], dtype=torch.int64, device=target.device)
        target.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=_generation_config(target, sampling, stopping.remaining),
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        finished = clock.now()
    assert stopping.reason is not None and watch.first_token_at is not None
    return Decoded(
        new_tokens=tuple(stopping.tokens),
        rounds=None,
        prefill_s=watch.first_token_at - started,
        decode_s=finished - watch.first_token_at,
        finish_reason=stopping.reason,
        peak_memory_bytes=memory.read(),
    )


class _Watch:
    """A stopping criterion: the loop's rules, and the moment the first token was on the host."""

    def __init__(self, stopping: Stopping, clock: Clock) -> None:
        self._stopping = stopping
        self._clock = clock
        self.first_token_at: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self._stopping.commit([int(input_ids[0, -1])])
        if self.first_token_at is None:
            self.first_token_at = self._clock.now()
        done = self._stopping.reason is not None
        return torch.tensor([done], device=input_ids.device)


def _generation_config(
    target: TransformersTarget, sampling: Sampling, max_new_tokens: int
) -> GenerationConfig:
    if sampling.greedy:
        rules: dict[str, Any] = {"do_sample": False}
    else:
        rules = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(target.stop_ids) or None,
        pad_token_id=min(target.stop_ids, default=0),
        **rules,
    )


@contextlib.contextmanager
def _as_users_run_it(model: Any) -> Iterator[None]:
    """The library's attention, and no generation defaults but the library's."""
    config, attn = model.generation_config, model.config._attn_implementation
    model.generation_config = GenerationConfig()
    if attn == GROUPED:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.generation_config = config
        if attn == GROUPED:
            model.set_attn_implementation(attn)
