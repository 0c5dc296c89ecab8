"""How far the rows of a block see in one layer: everything, a window, or nothing behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Span:
    """What a row of a block sees of the context and of its own block."""

    causal: bool = False
    """Whether it sees no later row."""
    window: int | None = None
    """It sees no row this far away or further; None for any distance."""

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 1:
            raise ValueError(f"sliding_window must be at least 1, not {self.window}")

    def view(
        self, length: int, block_size: int, device: torch.device
    ) -> tuple[int, torch.Tensor | None]:
        """What a block behind ``length`` context rows sees.

        Returns:
            The first row that any row of the block sees, and ``[K, length + K − first]`` bool, True
            where a row of the block sees one from there on; None where all of it is seen.
        """
        end = length + block_size
        if not self.causal and (self.window is None or end <= self.window):
            return 0, None
        first = 0 if self.window is None else max(0, length + 1 - self.window)
        rows = torch.arange(length, end, device=device)
        ahead = torch.arange(first, end, device=device) - rows[:, None]
        seen = ahead <= 0 if self.causal else torch.ones_like(ahead, dtype=torch.bool)
        return first, seen if self.window is None else seen & (ahead.abs() < self.window)
