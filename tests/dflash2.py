"""Small random DFlash 2 drafters, and a target so small that their guesses are sometimes right."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from drafters.block_diffusion.candidate_selector import SelectorShape
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.dynamic_conv import ConvShape
from drafters.block_diffusion.model import BlockDiffusionModel, DrafterConfig
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from harness.sampling import Sampling
from harness.verify import Verdict
from tests import toy
from tests.test_block_diffusion import small_config

FEW = 8
"""Tokens of the smallest vocabulary."""


def tiny_vocabulary(seed: int = 0) -> toy.ToyTarget:
    """A target that knows `FEW` tokens."""
    torch.manual_seed(seed)
    sizes = {**toy.SIZES, "vocab_size": FEW}
    config = Qwen3Config(num_hidden_layers=4, head_dim=8, tie_word_embeddings=True, **sizes)
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    return toy.ToyTarget(model, None, name="few")


def plain_config(target: toy.ToyTarget, block_size: int = 4, **changes: Any) -> DrafterConfig:
    return dataclasses.replace(small_config(target, block_size), **changes)


def config(
    target: toy.ToyTarget,
    block_size: int = 4,
    *,
    taps: int = 2,
    group_size: int = 4,
    rank: int = 8,
    top_k: int = 6,
    **changes: Any,
) -> DrafterConfig:
    return plain_config(
        target,
        block_size,
        conv=ConvShape(kernel_size=taps, group_size=group_size),
        selector=SelectorShape(rank=rank, top_k=min(top_k, target.vocab_size)),
        **changes,
    )


@torch.no_grad()
def random_model(target: toy.ToyTarget, shape: DrafterConfig, seed: int = 1) -> BlockDiffusionModel:
    """Every weight random, and large enough to matter."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(shape, head, seed, torch.float32)
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        if "norm" in name or "base_kernel" in name:
            parameter.add_(0.2 * noise)
        elif "codebook" in name:
            parameter.copy_(noise)
        elif "kernel_projection" in name:
            parameter.copy_(0.05 * noise)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_(6)  # else every draft is the mask again
    return model.eval().requires_grad_(False)


def random_features(target: toy.ToyTarget, shape: DrafterConfig, rows: int) -> torch.Tensor:
    width = len(shape.target_layer_ids) * target.hidden_size
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def started(
    model: BlockDiffusionModel,
    target: toy.ToyTarget,
    features: torch.Tensor,
    split: int | None = None,
    **options: Any,
) -> BlockDiffusionDrafter:
    """A drafter that has read ``features``, from ``split`` on as if newly committed."""
    options = {"block_size": model.config.block_size, "sampling": Sampling(), **options}
    sampling = options.pop("sampling")
    drafter = BlockDiffusionDrafter(model, target, **options)
    split = len(features) if split is None else split
    drafter.start(torch.zeros(split, dtype=torch.int64), features[:split], sampling)
    if split < len(features):
        drafter.observe(Verdict((), (), 0), features[split:])
    return drafter
