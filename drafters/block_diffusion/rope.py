"""Rotary embedding of absolute positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from drafters.block_diffusion.model import DrafterConfig


class Rope(nn.Module):
    """Rotary embedding of absolute positions, by transformers' own tables."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        from transformers import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

        self.rotary = Qwen3RotaryEmbedding(
            Qwen3Config(
                hidden_size=config.hidden_size,
                num_attention_heads=config.num_attention_heads,
                head_dim=config.head_dim,
                max_position_embeddings=config.max_position_embeddings,
                rope_parameters=dict(config.rope_parameters),
            )
        )

    def forward(
        self, positions: torch.Tensor, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine ``[B, 1, L, E]`` of positions ``[B, L]`` in the dtype of ``like``."""
        cos, sin = self.rotary(like, positions)
        return cos.unsqueeze(1), sin.unsqueeze(1)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary embedding to ``[B, heads, L, E]``."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
