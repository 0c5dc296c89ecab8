"""The convolution around a DFlash 2 sublayer: every draft position reads the few before it.

Two taps, in the published checkpoints: a position itself and the one before it. The taps' weights
are learned, one a channel, and corrected at every position by what stands there, one a group of
channels. Nothing crosses a block: before its first position there are zeros, and the context is
not convolved at all.

Source: DFlash 2 (inco.ai/blog/dflash2, August 2026); names and arithmetic as in the PyPI package
``dflash`` 0.1.0.

Shapes: K positions of a block, D hidden, P taps, G groups, S channels of a group (D = G·S).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvShape:
    """How far a convolution reaches back, and what shares a correction."""

    kernel_size: int
    """Taps: the position itself and those before it."""
    group_size: int
    """Neighbouring channels with one correction."""

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.group_size < 1:
            raise ValueError(
                "conv_kernel_size and conv_group_size must be at least 1, not "
                f"{self.kernel_size} and {self.group_size}"
            )


class DynamicConv(nn.Module):
    """Grouped dynamic causal depthwise convolution, once before a sublayer and once behind it."""

    def __init__(self, width: int, shape: ConvShape) -> None:
        """``width`` channels; new, it changes nothing: the position itself counts whole."""
        super().__init__()
        taps, groups = shape.kernel_size, width // shape.group_size
        self._sides = (2, taps, groups)
        base = torch.zeros(2, taps, width)
        base[:, 0] = 1
        self.base_kernel = nn.Parameter(base)
        self.kernel_projection = nn.Linear(width, 2 * taps * groups, bias=False)
        nn.init.zeros_(self.kernel_projection.weight)

    def before(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The sublayer's input, convolved, and the correction that `after` takes.

        Args:
            x: ``[..., K, D]``; both corrections are read from it as it is here.
        """
        corrections = self.kernel_projection(x).unflatten(-1, self._sides)
        first, second = corrections.unbind(-3)
        return _convolve(x, self.base_kernel[0], first), second

    def after(self, x: torch.Tensor, correction: torch.Tensor) -> torch.Tensor:
        """The sublayer's output ``[..., K, D]``, convolved; ``correction`` is from `before`."""
        return _convolve(x, self.base_kernel[1], correction)


def _convolve(x: torch.Tensor, base: torch.Tensor, correction: torch.Tensor) -> torch.Tensor:
    """Sum over taps p of ``(base[p] + correction[p]) · x``, p positions back.

    Args:
        x: ``[..., K, D]``.
        base: ``[P, D]``.
        correction: ``[..., K, P, G]``, of the position that is written.
    """
    taps, groups = correction.shape[-2:]
    grouped = x.unflatten(-1, (groups, -1))
    weights = base.unflatten(-1, (groups, -1))
    out = torch.zeros_like(grouped)
    for tap in range(taps):
        past = F.pad(grouped, (0, 0, 0, 0, tap, 0))[..., : grouped.shape[-3], :, :]
        # Two products, not one by their sum: in bfloat16 that is another rounding.
        out = torch.addcmul(out + weights[tap] * past, correction[..., tap, :, None], past)
    return out.flatten(-2)
