"""How tokens are drawn: one set of rules for the target's ``p`` and the drafter's ``q``."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature, nucleus and top-k; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    seed: int = 0
    """Seed of this one generation, see `generation_seed`."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be at least 0 and finite, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0, not {self.top_k}")

    @property
    def greedy(self) -> bool:
        """Whether every draw is the argmax."""
        return self.temperature == 0.0

    def probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Float32 distribution over the vocabulary; one-hot when greedy.

        Args:
            logits: ``[..., V]``, any float type.

        Order as in transformers: temperature, then top-k, then top-p on what is left. The token
        that crosses ``top_p`` is kept.
        """
        import torch

        if self.greedy:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros_like(logits, dtype=torch.float32).scatter_(-1, best, 1.0)
        scaled = logits.float() / self.temperature
        if 0 < self.top_k < scaled.shape[-1]:
            floor = scaled.topk(self.top_k, dim=-1).values[..., -1:]
            scaled = scaled.masked_fill(scaled < floor, float("-inf"))
        probs = scaled.softmax(-1)
        if self.top_p < 1:
            ordered, index = probs.sort(stable=True, dim=-1, descending=True)
            outside = ordered.cumsum(-1) - ordered >= self.top_p
            probs = probs.masked_fill(torch.zeros_like(outside).scatter(-1, index, outside), 0.0)
            probs = probs / probs.sum(-1, keepdim=True)
        return probs

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh generator for one purpose (``"verify"``, ``"draft"``), independent of others."""
        import torch

        generator = torch.Generator(device=device)
        generator.manual_seed(_hash(self.seed, stream))
        return generator


def generation_seed(seed: int, task: str, prompt_id: str, turn: int, repeat: int) -> int:
    """Seed of one generation; depends on neither prompt order, process count nor method."""
    return _hash(seed, task, prompt_id, turn, repeat)


def _hash(*parts: object) -> int:
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
