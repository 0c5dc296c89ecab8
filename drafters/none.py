"""Proposes nothing: with it the decode loop is the baseline ``ar_loop``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from drafters.base import Proposal
from drafters.options import DrafterOptions
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import Target


def build(target: Target, options: DrafterOptions) -> NoDrafter:
    """The baseline; it has no options."""
    return NoDrafter(target.device)


class NoDrafter:
    """One token a round, the target's own."""

    feature_layers: tuple[int, ...] = ()
    max_nodes: int = 0
    block_size: int | None = None
    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._nothing = Proposal(torch.empty(0, dtype=torch.int64, device=device), ())

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Nothing to prepare."""

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """No token."""
        return self._nothing

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Nothing to learn."""

    def reset(self) -> None:
        """Nothing to forget."""
