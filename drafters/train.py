"""From the names in ``train --drafter`` to the trainers that make them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from drafters.block_diffusion.config import TrainConfig
from harness.errors import UserError
from harness.registry import imported, table

_BLOCK_DIFFUSION = "drafters.block_diffusion.trainer:train"
"""Trains every objective there is, and says which there are."""


def train(config: TrainConfig) -> list[Path]:
    """Train all that ``config`` names, those of one trainer together; checkpoint directories.

    Raises:
        UserError: an unknown name, or whatever a trainer cannot work with.
    """
    rows: dict[str, Any] = table("drafters")
    by_trainer: dict[str, list[str]] = {}
    for name in dict.fromkeys(name.strip() for name in config.drafter.split(",")):
        trainer = rows[name].trainer if name in rows else ""
        by_trainer.setdefault(trainer or _BLOCK_DIFFUSION, []).append(name)
    others = sorted(by_trainer.keys() - {_BLOCK_DIFFUSION})
    if config.start_from is not None and others:
        raise UserError(
            "--start-from is for block-diffusion drafters, and "
            f"{by_trainer[others[0]][0]} is none; leave it out."
        )
    made: list[Path] = []
    for trainer, names in by_trainer.items():
        made += imported(trainer)(dataclasses.replace(config, drafter=",".join(names)))
    return made
