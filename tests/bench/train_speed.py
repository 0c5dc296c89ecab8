"""Speed and memory of a training step, beside what the matrix products alone would take.

    python -m tests.bench.train_speed --num-sequences 4 --num-anchors 24 --block-size 6
    python -m tests.bench.train_speed --num-sequences 1 --num-anchors 512 --block-size 16 \\
        --length 2048 --train-vocab-size 49152 --steps 1

Random weights and features of SmolLM2-135M's shapes, or of others; no target is loaded. The floor
is the step's matrix products at the rate of one large product on the same device and dtype.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import tyro

from drafters.block_diffusion.data import Blocks, TrainingSequence, draw_anchors, make_blocks
from drafters.block_diffusion.model import (
    BlockDiffusionModel,
    DrafterConfig,
    build_target_layer_ids,
)
from drafters.block_diffusion.objectives import OBJECTIVES
from drafters.block_diffusion.optimizer import MasterAdamW
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model
from drafters.block_diffusion.workbench import Pass


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Shapes of a training step."""

    num_sequences: int = 4
    """Sequences a step."""
    length: int = 270
    """Tokens of each; the first 100 are the prompt."""
    num_anchors: int = 24
    """Blocks a sequence."""
    block_size: int = 6
    """Tokens of a block."""
    train_vocab_size: int = 8192
    """Rows of the softmax."""
    hidden_size: int = 576
    """D."""
    intermediate_size: int = 1536
    """Of the MLP."""
    num_heads: int = 9
    """Query heads."""
    num_key_value_heads: int = 3
    """Key and value heads."""
    num_layers: int = 2
    """Of the drafter."""
    num_features: int = 5
    """Target layers read."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the passes."""
    device: str = "cpu"
    """Or cuda."""
    steps: int = 8
    """Timed; the median counts."""


@dataclass(frozen=True, kw_only=True)
class Options(StepOptions):
    """Time a training step."""

    objective: str = "combined"
    """Its name."""


@dataclass(frozen=True)
class Step:
    """A drafter with random weights, and what one step reads."""

    model: BlockDiffusionModel
    head: SharedHead
    sequences: list[TrainingSequence]
    blocks: Blocks
    features: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.features.device


def main(options: Options) -> int:
    """Time the step, and print what it is made of."""
    made = make_step(options)
    optimizer = MasterAdamW(made.model.parameters(), 1e-4)
    objective = OBJECTIVES[options.objective]
    coins = torch.rand(len(made.blocks.anchors), dtype=torch.float64, device=made.device)
    given = Pass(made.blocks, made.features, None, coins)
    before = _memory_bytes(made.device)

    def step() -> None:
        shown = given.visible(objective)
        loss = block_loss(
            made.model, given.blocks, given.features, made.head, objective, visible=shown
        )
        loss.total.backward()
        optimizer.take_gradients()
        optimizer.step(1.0, 1.0)

    step_s = _seconds(step, made.device, options.steps)
    memory_bytes = _memory_bytes(made.device) - before
    flops, rate = _flops(options), _matmul_rate(made.device, made.features.dtype)
    facts = {
        **asdict(options),
        "step_s": step_s,
        "anchors_per_s": len(made.blocks.anchors) / step_s,
        "tflops": flops / step_s / 1e12,
        "matmul_tflops": rate / 1e12,
        "share_of_matmul_rate": flops / step_s / rate,
        "memory_bytes": memory_bytes,
        "num_threads": torch.get_num_threads(),
    }
    for name in ("step_s", "anchors_per_s", "tflops", "matmul_tflops", "share_of_matmul_rate"):
        print(f"{name:<22}{facts[name]:>12.4g}")
    print(f"{'memory of the steps':<22}{memory_bytes / 1e9:>9.3g} GB")
    print(json.dumps(facts))
    return 0


def make_step(options: StepOptions) -> Step:
    """Random weights, tokens and features of the shapes asked for; the same at each call."""
    torch.manual_seed(0)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    config = _shape(options)
    head = SharedHead(
        0.05 * torch.randn(config.vocab_size, config.hidden_size).to(device, dtype),
        0.05 * torch.randn(options.train_vocab_size, config.hidden_size).to(device, dtype),
        torch.arange(config.vocab_size, device=device) % options.train_vocab_size,
        None,
    )
    model = initial_model(config, head, 0, dtype)
    draw = np.random.default_rng(0)
    sequences = [
        TrainingSequence(tuple(draw.integers(0, 1024, options.length).tolist()), 100)
        for _ in range(options.num_sequences)
    ]
    anchors = [draw_anchors(sequence, options.num_anchors, draw) for sequence in sequences]
    blocks = make_blocks(sequences, anchors, options.block_size).to(device)
    width = options.num_features * config.hidden_size
    features = torch.randn(options.num_sequences * options.length, width).to(device, dtype)
    return Step(model, head, sequences, blocks, features)


def _shape(options: StepOptions) -> DrafterConfig:
    return DrafterConfig(
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_key_value_heads,
        head_dim=options.hidden_size // options.num_heads,
        rms_norm_eps=1e-5,
        vocab_size=max(options.train_vocab_size, 1024),
        max_position_embeddings=max(options.length, 2048),
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        block_size=options.block_size,
        mask_token_id=0,
        target_layer_ids=build_target_layer_ids(30, options.num_features),
        num_target_layers=30,
    )


def _flops(options: StepOptions) -> float:
    """Of the matrix products of weights, forward and backward; attention left out."""
    width, inner = options.hidden_size, options.intermediate_size
    kv = width // options.num_heads * options.num_key_value_heads
    rows = options.num_sequences * options.num_anchors * options.block_size
    context = options.num_sequences * options.length
    layer = 2 * width * width + 2 * width * kv + 3 * width * inner
    noise = 3 * rows * options.num_layers * layer
    # Features take no gradient; fc's output does.
    reading = 2 * context * options.num_features * width * width
    keys = 3 * context * options.num_layers * 2 * width * kv
    labels = rows * (options.block_size - 1) / options.block_size
    softmax = 2 * labels * width * options.train_vocab_size
    return 2.0 * (noise + reading + keys + softmax)


def _seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of ``repeats``, after one that does not count."""
    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product."""
    size = 8192 if device.type == "cuda" else 1536
    left = torch.randn(size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / _seconds(lambda: left @ left, device, 10)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
