"""From the names of drafters to whoever trains them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from harness import registry
from harness.registry import Entry

if TYPE_CHECKING:
    from drafters.block_diffusion.config import TrainConfig


def train(config: TrainConfig) -> list[Path]:
    """Train what ``config.drafter`` names; returns one checkpoint directory each.

    Objectives are trained in step; then each drafter that has a trainer of its own, by that.

    Raises:
        UserError: an unknown name; and what the trainers raise.
    """
    from drafters.block_diffusion import trainer

    rows = registry.table("drafters")
    names = dict.fromkeys(name.strip() for name in config.drafter.split(","))
    apart = [name for name in names if name in rows and rows[name].trainer]
    together = [name for name in names if name not in apart]
    found: list[Path] = []
    if together:
        found += trainer.train(dataclasses.replace(config, drafter=",".join(together)))
    for name in apart:
        own = Entry(rows[name].trainer, rows[name].description).load()
        found += own(dataclasses.replace(config, drafter=name))
    return found
