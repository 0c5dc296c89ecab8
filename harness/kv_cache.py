"""Preallocated keys and values: rollback moves a pointer, a tree's accepted rows are gathered.

Works with transformers 5.15 to 5.23; uses no version-dependent ``crop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


class KVLayer(CacheLayerMixin):
    """Keys and values of one layer, ``[B, heads, capacity, D]``, written in place.

    Sliding layers keep the full length too: the mask applies the window, and rollback stays exact.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, capacity: int, whole_views: bool) -> None:
        super().__init__()
        self.capacity = capacity
        self.whole_views = whole_views
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate zeroed buffers: whole views hold unwritten rows, read and masked."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_zeros(_with_rows(key_states.shape, self.capacity))
        self.values = value_states.new_zeros(_with_rows(value_states.shape, self.capacity))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append rows; returns views of every row so far, or of the whole buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows = key_states.shape[-2]
        self.keys.narrow(2, self.length, rows).copy_(key_states)
        self.values.narrow(2, self.length, rows).copy_(value_states)
        self.length += rows
        width = self.capacity if self.whole_views else self.length
        return self.keys.narrow(2, 0, width), self.values.narrow(2, 0, width)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset that the library's masks are built for."""
        return self.capacity if self.whole_views else self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Rows written."""
        return self.length

    def get_max_length(self) -> int:
        """Rows there is room for."""
        return self.capacity

    def reset(self) -> None:
        """Forget every row; the buffers stay."""
        self.length = 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` rows (the library counts them negatively)."""
        self.length += tokens_to_remove

    def reserve(self, capacity: int) -> None:
        """Make room for ``capacity`` rows; those written so far stay."""
        self.capacity = capacity
        if self.is_initialized:
            for name in ("keys", "values"):
                kept = getattr(self, name).narrow(2, 0, self.length)
                fresh = kept.new_zeros(_with_rows(kept.shape, capacity))
                fresh.narrow(2, 0, self.length).copy_(kept)
                setattr(self, name, fresh)

    def gather(self, start: int, rows: torch.Tensor) -> None:
        """Move ``rows`` (indices of the whole buffer) to ``start`` and end there."""
        count = rows.shape[0]
        for buffer in (self.keys, self.values):
            buffer.narrow(2, start, count).copy_(buffer.index_select(2, rows))
        self.length = start + count


class KVCache(Cache):
    """One `KVLayer` a decoder layer; every layer holds the same number of rows between passes."""

    layers: list[KVLayer]

    def __init__(self, num_layers: int, capacity: int, *, whole_views: bool = False) -> None:
        """Make an empty cache; memory is taken at the first pass.

        Args:
            num_layers: decoder layers.
            capacity: rows it has room for.
            whole_views: hand attention all rows there is room for, written or not.
        """
        self.capacity = capacity
        self.whole_views = whole_views
        super().__init__(layers=[KVLayer(capacity, whole_views) for _ in range(num_layers)])

    @property
    def length(self) -> int:
        """Rows committed or just written."""
        return self.layers[0].length

    def reserve(self, capacity: int) -> None:
        """Make room for at least ``capacity`` rows; those written so far stay."""
        if capacity > self.capacity:
            self.capacity = capacity
            for layer in self.layers:
                layer.reserve(capacity)

    def rewind(self, length: int) -> None:
        """Keep the first ``length`` rows."""
        for layer in self.layers:
            layer.length = length

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the rows after ``start``, keep those at the offsets ``rows``, in that order."""
        if list(rows) == list(range(len(rows))):
            self.rewind(start + len(rows))
            return
        index = torch.tensor([start + row for row in rows], device=self.layers[0].device)
        for layer in self.layers:
            layer.gather(start, index)


def _with_rows(shape: torch.Size, rows: int) -> tuple[int, ...]:
    return (*shape[:-2], rows, shape[-1])
