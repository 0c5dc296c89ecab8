"""Linear layers whose weights are laid out for the CPU's matrix kernels once, not at every call.

In bfloat16, oneDNN reorders a plain weight whenever a few rows are multiplied with it; on small
batches that is a quarter of the time. The packed product is the same product: `can_pack` compares
bits before anything is replaced.
"""

from __future__ import annotations

import torch
from torch import nn


class PackedLinear(nn.Module):
    """A frozen linear layer for inference; the plain weight is not kept."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = _pack(linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., in_features]`` to ``[..., out_features]``."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


def _pack(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)


def can_pack(model: nn.Module) -> bool:
    """Whether this machine packs: bfloat16 on a CPU that multiplies it, with equal bits."""
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    if linear is None or linear.weight.device.type != "cpu":
        return False
    if linear.weight.dtype != torch.bfloat16 or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    with torch.inference_mode():
        x = torch.linspace(-2, 2, 3 * linear.in_features).view(3, -1).to(torch.bfloat16)
        try:
            return torch.equal(PackedLinear(linear)(x), linear(x))
        except RuntimeError:  # a CPU or a torch without these kernels
            return False


def pack_linear_layers(model: nn.Module) -> None:
    """Replace every linear layer of ``model``; a tied embedding keeps the plain weight."""
    with torch.inference_mode():
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, PackedLinear(child))
