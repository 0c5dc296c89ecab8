"""Low-rank additions to frozen linear layers: trained beside them, then merged into a copy.

Two small matrices a layer are all there is to it, and they are what is shipped: no package for
adapters is needed to train or to load them.

Source: LoRA, arXiv 2106.09685, Eq. 3, with α = r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

_LINEAR = (nn.Linear, Conv1D)
"""GPT-2's kind stores its weight transposed."""


class LowRankLinear(nn.Module):
    """``W x + up (down x)``; W stays as it is, and the addition is zero at first."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base = base
        like = _weight(base)
        self.down = nn.Parameter(like.new_empty(rank, like.shape[1]))
        self.up = nn.Parameter(like.new_zeros(like.shape[0], rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)


def linear_layers(decoder: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of a decoder by its dotted name; the LM head is none of them."""
    return {name: part for name, part in decoder.named_modules() if isinstance(part, _LINEAR)}


def _weight(layer: nn.Module) -> torch.Tensor:
    """``[out, in]``, a view of what the layer stores."""
    stored = layer.get_parameter("weight")
    return stored.T if isinstance(layer, Conv1D) else stored


def attach(decoder: nn.Module, rank: int, seed: int) -> dict[str, nn.Parameter]:
    """Put an addition to every linear layer; returns the factors by key, ready to train.

    Args:
        decoder: changed in place.
        rank: of every addition.
        seed: of the ``down`` factors, which are normal with variance 1 / in_features.
    """
    factors: dict[str, nn.Parameter] = {}
    generator = torch.Generator().manual_seed(seed)
    for name, base in linear_layers(decoder).items():
        layer = LowRankLinear(base, rank)
        width = _weight(base).shape[1]
        drawn = torch.randn(rank, width, generator=generator)
        with torch.no_grad():
            layer.down.copy_(drawn * width**-0.5)
        parent, _, attribute = name.rpartition(".")
        setattr(decoder.get_submodule(parent), attribute, layer)
        factors |= {f"{name}.down": layer.down, f"{name}.up": layer.up}
    return factors


def factor_shapes(decoder: nn.Module, rank: int) -> dict[str, tuple[int, ...]]:
    """Shape of every factor that `merge` wants."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, base in linear_layers(decoder).items():
        rows, columns = _weight(base).shape
        shapes[f"{name}.down"] = (rank, columns)
        shapes[f"{name}.up"] = (rows, rank)
    return shapes


@torch.no_grad()
def merge(decoder: Any, factors: Mapping[str, torch.Tensor]) -> None:
    """Add the products to the weights, in place; the sum is made in float32 and rounded once."""
    for name, base in linear_layers(decoder).items():
        down, up = (factors[f"{name}.{part}"].to(_weight(base).device) for part in ("down", "up"))
        weight = _weight(base)
        weight.copy_(weight.float() + up.float() @ down.float())
