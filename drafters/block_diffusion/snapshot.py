"""State of a training: its optimiser, how far it is, what was measured; saved whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from drafters.block_diffusion.optimizer import MasterAdamW


class Training:
    """What has to survive a kill; resumed at any step."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        snapshot: Path,
        logged: tuple[str, ...],
    ) -> None:
        """``logged`` names the parts of a loss whose means stand in the history."""
        self.optimizer = MasterAdamW(parameters, learning_rate)
        self.snapshot = snapshot
        self.logged = logged
        self.step = 0
        self.train_s = 0.0
        self.history: list[dict[str, float]] = []
        """What was measured, by step."""
        self.sums = torch.zeros(len(logged) + 1, dtype=torch.float64)
        """Of ``logged``, and the number of steps, since the last entry of the history."""

    def note(self, values: torch.Tensor) -> None:
        """Count the values ``[len(logged)]`` of one step."""
        self.sums[:-1] += values.cpu()
        self.sums[-1] += 1

    def record(self, train_time_tau: float) -> None:
        """Append to the history, with the mean of what was noted since the last entry."""
        means = (self.sums[:-1] / self.sums[-1].clamp(min=1)).tolist()
        entry = {"step": self.step, "train_time_tau": train_time_tau}
        self.history.append({**entry, **dict(zip(self.logged, means, strict=True))})
        self.sums.zero_()

    def save(self) -> None:
        """Write the snapshot beside the old one, then replace it."""
        fresh = self.snapshot.with_suffix(".new")
        fresh.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {
                "step": self.step,
                "train_s": self.train_s,
                "history": self.history,
                "sums": self.sums,
                "optimizer": self.optimizer.state_dict(),
            },
            fresh,
        )
        fresh.replace(self.snapshot)

    def resume(self) -> None:
        """Take up the snapshot where there is one."""
        if self.snapshot.is_file():
            state: dict[str, Any] = torch.load(self.snapshot, map_location="cpu", weights_only=True)
            self.step, self.train_s = state["step"], state["train_s"]
            self.history, self.sums = state["history"], state["sums"]
            self.optimizer.load_state_dict(state["optimizer"])


def settings_digest(settings: dict[str, Any]) -> str:
    """Name of what makes two trainings the same."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
