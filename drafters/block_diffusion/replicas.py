"""Data-parallel training: the same model in every process, each with its share of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from harness.shards import Ring

_T = TypeVar("_T")


class Replicas:
    """What the processes of one training sum up.

    Losses are divided by what *all* processes hold, and gradients added: the result is that of one
    process with the whole batch. (Wrappers that average gradients assume equal shares.)
    """

    def __init__(self, ring: Ring, device: torch.device) -> None:
        """``ring`` must have met; sums travel by nccl between GPUs, else by gloo."""
        self.ring = ring
        self.place = ring.place
        self._device = device
        self._group: Any = None
        if self.place.size > 1 and device.type == "cuda":
            import torch.distributed as dist

            self._group = dist.new_group(backend="nccl")

    def share(self, items: Sequence[_T]) -> list[_T]:
        """This process's part of what all were given."""
        return list(items[self.place.rank :: self.place.size])

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` added up over all processes; a new tensor, without gradient."""
        total = values.detach().to(self._device, copy=True)
        self._add_up(total)
        return total

    def sum_gradients(self, gradients: Sequence[torch.Tensor]) -> None:
        """Add up over all processes, in place."""
        if self.place.size == 1:
            return
        flat = _flatten_dense_tensors(gradients)
        self._add_up(flat)
        for own, total in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
            own.copy_(total)

    def _add_up(self, values: torch.Tensor) -> None:
        if self.place.size == 1:
            return
        import torch.distributed as dist

        dist.all_reduce(values, group=self._group)
