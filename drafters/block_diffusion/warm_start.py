"""Going on from a drafter that was trained before, with other data, blocks or objective."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.checkpoint import Checkpoint
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.model import (
    BlockDiffusionModel,
    DrafterConfig,
    build_target_layer_ids,
)
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.span import Span
from harness.errors import UserError
from targets.transformers_lm import TransformersTarget

Found = Checkpoint[BlockDiffusionModel]


def find_start(name: str, config: TrainConfig, target: TransformersTarget) -> Found | None:
    """What ``config.start_from`` holds for the variant ``name``; None where nothing was asked for.

    Raises:
        UserError: it holds no drafter for this target that can be trained with ``config``.
    """
    if config.start_from is None:
        return None
    place = start_place(name, config.start_from)
    found = checkpoint.load(str(place), target)
    _check(found.model.config, config, target, place)
    return found


def start_place(name: str, start_from: Path) -> Path:
    """The directory with the checkpoint that the variant ``name`` starts from.

    Raises:
        UserError: there is none.
    """
    place = start_from / name if (start_from / name).is_dir() else start_from
    if not (place / "config.json").is_file():
        raise UserError(
            f"{start_from} holds no checkpoint to start {name} from, neither itself nor in "
            f"{name}/; name a directory that does."
        )
    return place


def _check(shape: DrafterConfig, config: TrainConfig, target: TransformersTarget, at: Path) -> None:
    if shape.num_hidden_layers != config.num_layers:
        raise UserError(
            f"{at} has {shape.num_hidden_layers} layers, not {config.num_layers}; write "
            f"--num-layers {shape.num_hidden_layers}."
        )
    if config.mlp_width not in (None, shape.intermediate_size):
        raise UserError(
            f"{at} has MLPs of width {shape.intermediate_size}, not {config.mlp_width}; leave out "
            "--mlp-width."
        )
    count = len(shape.target_layer_ids)
    if shape.target_layer_ids != build_target_layer_ids(target.num_layers, count):
        raise UserError(
            f"{at} reads layers {', '.join(map(str, shape.target_layer_ids))} of its target, which "
            "this trainer does not keep; start from another checkpoint."
        )
    if count != len(build_target_layer_ids(target.num_layers, config.num_features)):
        raise UserError(
            f"{at} reads {count} layers of its target, not {config.num_features}; write "
            f"--num-features {count}."
        )
    if shape.conv is not None or any(span != Span() for span in shape.spans):
        raise UserError(
            f"{at} has layers that decode only (DFlash 2, sliding or causal); start from another "
            "checkpoint."
        )


def started_model(
    found: Found, config: TrainConfig, scale: torch.Tensor, dtype: torch.dtype, head: SharedHead
) -> BlockDiffusionModel:
    """The drafter of ``found`` in blocks of ``config``, for features divided by ``scale [F]``.

    It goes on with the multiplier of ``head``, with which it is trained, at the same logits.
    """
    before, device = found.model.config.output_multiplier, head.embedding.device
    multiplier = head.scales.output_multiplier
    shape = dataclasses.replace(
        found.model.config, block_size=config.block_size, output_multiplier=multiplier
    )
    model = BlockDiffusionModel(shape)
    state = {name: value.float() for name, value in found.model.state_dict().items()}
    state["fc.weight"] = state["fc.weight"] * scale.float().cpu()
    state["norm.weight"] = state["norm.weight"] * (before / multiplier)
    model.load_state_dict(state)
    return model.to(device=device, dtype=dtype)


def start_facts(found: Found) -> dict[str, Any]:
    """What ``training.json`` says of it: its weights, and the whole record of its own training."""
    return {"weights_sha256": found.weights_sha256, "training": found.training}
