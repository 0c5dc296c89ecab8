"""AdamW on float32 masters of low-precision weights, with warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MasterAdamW:
    """Keeps a float32 copy of every parameter, steps it, and writes it back.

    betas (0.9, 0.95) and no weight decay, as DFlash-family trainers have it (methods of
    arXiv 2602.06036 and its public trainer; 0.95 for short runs).
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.masters = [p.detach().float().clone().requires_grad_() for p in self.parameters]
        self.peak = learning_rate
        self.adam = torch.optim.AdamW(
            self.masters, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )

    def take_gradients(self) -> list[torch.Tensor]:
        """Move the parameters' gradients to the masters, adding up where passes follow each other.

        Returns:
            The masters' gradients, float32, to be summed over processes in place.
        """
        for master, parameter in zip(self.masters, self.parameters, strict=True):
            fresh = parameter.grad
            parameter.grad = None
            if fresh is None:  # A process without a sequence in this pass.
                fresh = torch.zeros_like(parameter)
            master.grad = fresh.float() if master.grad is None else master.grad.add_(fresh)
        return [master.grad for master in self.masters if master.grad is not None]

    def step(self, scale: float, max_grad_norm: float) -> float:
        """Take one step at ``scale`` times the peak rate; returns the norm before clipping."""
        norm = float(nn.utils.clip_grad_norm_(self.masters, max_grad_norm))
        for group in self.adam.param_groups:
            group["lr"] = self.peak * scale
        self.adam.step()
        self.adam.zero_grad()
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.parameters, strict=True):
                parameter.copy_(master)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Masters and moments."""
        return {"masters": self.masters, "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state, and write the masters into the parameters."""
        with torch.no_grad():
            for master, saved, parameter in zip(
                self.masters, state["masters"], self.parameters, strict=True
            ):
                master.copy_(saved)
                parameter.copy_(master)
        self.adam.load_state_dict(state["adam"])


def cosine_with_warmup(step: int, steps: int, warmup_fraction: float) -> float:
    """Share of the peak rate at 0-based ``step`` of ``steps``; linear up, cosine down to 0."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))
