"""The content of ``training.json``: what a drafter was trained on, by what, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drafters.block_diffusion.checkpoint import OWN
from drafters.block_diffusion.prompts import TrainingPrompts
from drafters.block_diffusion.snapshot import Training
from harness import provenance


def training_record(
    name: str,
    settings: Mapping[str, Any],
    prompts: TrainingPrompts,
    training: Training,
    num_processes: int,
) -> dict[str, Any]:
    """JSON-ready; ``settings`` hold what was asked for, with the facts of the ``data``."""
    commit, dirty = provenance.source_state(OWN.parent.parent)
    return {
        "name": name,
        **settings,
        "data": {**settings["data"], **prompts.describe()},
        "step": training.step,
        "train_s": round(training.train_s, 1),
        "num_processes": num_processes,
        "commit": commit,
        "dirty": dirty,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "measured": training.history,
    }
