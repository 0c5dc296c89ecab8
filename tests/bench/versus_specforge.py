"""This project's training step beside SpecForge's DFlash step: same weights, anchors and labels.

    git clone https://github.com/sgl-project/SpecForge
    python -m tests.bench.versus_specforge --checkout SpecForge --dtype float32

Cross-entropy and gradients must agree in float32, or the exit status is 1. Its dense mask
(``sdpa``) is used on a CPU, flex attention on a GPU. Both are timed in turns; neither's optimiser
is part of it.
"""

from __future__ import annotations

import importlib
import json
import math
import random
import statistics
import sys
import types
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from drafters.block_diffusion.dflash_config import config_to_json
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.variant import block_loss
from harness.errors import UserError
from tests.bench.stopwatch import timed
from tests.bench.train_speed import Step, StepOptions, make_step

TOLERANCE = 1e-4
"""Relative, of losses and of the gradient's norm of differences, in float32."""


@dataclass(frozen=True, kw_only=True)
class Options(StepOptions):
    """Compare a training step with SpecForge's."""

    checkout: Path
    """Its repository."""
    gamma: float = math.inf
    """Of the positional weights, in both."""
    chunk_blocks: int = 128
    """Blocks it takes its head over at once."""


def main() -> int:
    """Compare, time, print."""
    options = tyro.cli(Options)
    try:
        step = make_step(options)
        theirs = _theirs(options, step)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    objective = Objective(gamma=options.gamma)

    def ours() -> torch.Tensor:
        return block_loss(step.model, step.blocks, step.features, step.head, objective).total

    values = {"ours": _value(ours, step.model), "theirs": _value(theirs.loss, theirs.model)}
    loss_gap, gradient_gap = _gaps(values)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    order = random.Random(0)
    jobs: list[tuple[str, Callable[[], torch.Tensor], Any]] = [
        ("ours", ours, step.model),
        ("theirs", theirs.loss, theirs.model),
    ]
    for _ in range(options.steps):
        order.shuffle(jobs)
        for name, loss, model in jobs:
            taken, _ = timed(step.device, lambda loss=loss, model=model: _value(loss, model))
            seconds[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    facts = {
        **asdict(options),
        "loss": {name: float(loss) for name, (loss, _) in values.items()},
        "loss_gap": loss_gap,
        "gradient_gap": gradient_gap,
        "anchors_per_s": {
            name: len(step.blocks.anchors) / taken for name, taken in medians.items()
        },
        "speed_ratio": medians["theirs"] / medians["ours"],
        "num_threads": torch.get_num_threads(),
    }
    print(f"loss               {facts['loss']}, gap {loss_gap:.2g}")
    print(f"gradients          gap {gradient_gap:.2g}")
    print(f"anchors per second {facts['anchors_per_s']}, ratio {facts['speed_ratio']:.2f}")
    print(json.dumps(facts, default=str))
    agree = max(loss_gap, gradient_gap) < TOLERANCE
    return int(options.dtype == "float32" and not agree)


@dataclass(frozen=True)
class Theirs:
    """SpecForge's model on the same inputs."""

    model: torch.nn.Module
    loss: Callable[[], torch.Tensor]


def _theirs(options: Options, step: Step) -> Theirs:
    modules = _modules(options.checkout)
    from transformers import Qwen3Config

    shape = step.model.config
    body = config_to_json(shape, options.dtype)
    draft = modules["draft"].DFlashDraftModel(Qwen3Config(**body, attn_implementation="sdpa"))
    draft.load_state_dict(step.model.state_dict())
    draft = draft.to(step.device, getattr(torch, options.dtype))
    width = shape.hidden_size
    head = torch.nn.Linear(width, len(step.head.lm_head), bias=False)
    embedding = torch.nn.Embedding(len(step.head.embedding), width)
    for module, weight in ((head, step.head.lm_head), (embedding, step.head.embedding)):
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
    on_gpu = step.device.type == "cuda"
    model = modules["training"].OnlineDFlashModel(
        draft,
        head,
        embedding,
        shape.mask_token_id,
        block_size=options.block_size,
        attention_backend="flex_attention" if on_gpu else "sdpa",
        num_anchors=options.num_anchors,
        loss_decay_gamma=None if math.isinf(options.gamma) else options.gamma,
        objective_chunk_blocks=options.chunk_blocks,
    )
    rows = options.num_sequences, options.length
    anchors = step.blocks.anchors.view(options.num_sequences, -1)
    model._sample_anchor_positions = lambda *_: (anchors, torch.ones_like(anchors).bool())
    ids = torch.tensor([sequence.ids for sequence in step.sequences], device=step.device)
    features = step.features.view(*rows, -1)
    answers = torch.ones(rows, device=step.device)
    return Theirs(draft, lambda: model(ids, features, answers)[0])


def _modules(checkout: Path) -> dict[str, types.ModuleType]:
    """Its two modules without the packages around them, which want engines that are not needed."""
    if not (checkout / "specforge/algorithms/common/dflash_family_model.py").is_file():
        raise UserError(f"{checkout} holds no SpecForge; clone it and give its directory.")
    for name in ("", ".core", ".modeling", ".modeling.draft", ".algorithms", ".algorithms.common"):
        package = types.ModuleType(f"specforge{name}")
        package.__path__ = [str(checkout / f"specforge{name}".replace(".", "/"))]
        sys.modules[package.__name__] = package
    return {
        "draft": importlib.import_module("specforge.modeling.draft.dflash"),
        "training": importlib.import_module("specforge.algorithms.common.dflash_family_model"),
    }


def _value(
    loss: Callable[[], torch.Tensor], model: torch.nn.Module
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients by name."""
    model.zero_grad()
    value = loss()
    value.backward()
    return value.detach(), {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _gaps(
    values: dict[str, tuple[torch.Tensor, dict[str, torch.Tensor]]],
) -> tuple[float, float]:
    """Relative differences of the losses, and of all gradients together."""
    (loss, own), (other_loss, other) = values["ours"], values["theirs"]
    apart = sum(float((own[name] - other[name]).double().square().sum()) for name in own)
    norm = sum(float(gradient.double().square().sum()) for gradient in other.values())
    return abs(float(loss) / float(other_loss) - 1), math.sqrt(apart / norm)


if __name__ == "__main__":
    sys.exit(main())
