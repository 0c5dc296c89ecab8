"""From the names in ``train --drafter`` to the trainers that make them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.objectives import FIVE
from harness.errors import UserError
from harness.registry import imported, resolve, table
from harness.whole_file import require_directory
from targets.base import TargetOptions
from targets.find import check_target

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
    variants = by_trainer.get(_BLOCK_DIFFUSION, [])
    variants = list(FIVE) if variants == ["all"] else variants
    for name in variants:
        resolve("objectives", name)
    check_training(config, variants)
    made: list[Path] = []
    for trainer, names in by_trainer.items():
        made += imported(trainer)(dataclasses.replace(config, drafter=",".join(names)))
    return made


def check_training(config: TrainConfig, variants: Sequence[str]) -> None:
    """Say what can be said against a training before any weights are loaded.

    Args:
        config: of the training.
        variants: names of the block-diffusion drafters it trains.

    Raises:
        UserError: data or a checkpoint that are not there, a checkpoint of another
            target, or a target that cannot be had.
    """
    from drafters.block_diffusion import checkpoint
    from drafters.block_diffusion.prompts import check_prompts
    from drafters.block_diffusion.warm_start import start_place

    check_target(TargetOptions(name=config.target, revision=config.revision))
    if config.data is not None:
        check_prompts(config.data)
    if config.start_from is not None:
        for name in variants:
            place = start_place(name, config.start_from)
            checkpoint.check(name, str(place), config.target)
    if config.output_dir is not None:
        require_directory(config.output_dir)
