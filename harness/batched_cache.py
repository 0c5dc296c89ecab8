"""Keys and values of several sequences at once, each with a length of its own.

A sequence's rows stand at their own positions, so nothing is moved or padded when another one takes
its slot. Passes come in two kinds: `BatchedCache.join` reads whole prompts into slots, right-padded
(a causal pass never looks at what is behind), and `BatchedCache.step` adds one row to every slot
and hands attention the rows of all slots up to one width, with a mask by length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(slots=True)
class _Pass:
    """What the layers of one cache share."""

    num_slots: int
    capacity: int
    joining: torch.Tensor | None
    """``[P]`` slots that prompts are read into; None in a step."""
    lengths: torch.Tensor
    """``[slots]`` rows each holds before a step."""
    width: int
    """Keys a step reads."""


class BatchedLayer(CacheLayerMixin):
    """Keys and values of one layer, ``[slots, heads, capacity, D]``, written in place.

    They are where the layer runs, which may be another device than that of slots and lengths.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = False

    def __init__(self, now: _Pass) -> None:
        super().__init__()
        self._now = now

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate zeros: rows that nobody wrote are read, and masked."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_zeros(self._now.num_slots, states.shape[1], self._now.capacity, width)
            for states, width in (
                (key_states, key_states.shape[-1]),
                (value_states, value_states.shape[-1]),
            )
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the rows of a pass; returns what its attention reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now = self._now
        if now.joining is not None:
            rows = key_states.shape[2]
            joining = now.joining.to(self.device)
            self.keys[joining, :, :rows] = key_states
            self.values[joining, :, :rows] = value_states
            return key_states, value_states
        every = torch.arange(now.num_slots, device=self.device)
        lengths = now.lengths.to(self.device)
        self.keys[every, :, lengths] = key_states[:, :, 0]
        self.values[every, :, lengths] = value_states[:, :, 0]
        return self.keys.narrow(2, 0, now.width), self.values.narrow(2, 0, now.width)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Key length and offset that the library's masks are built for."""
        return (query_length if self._now.joining is not None else self._now.width), 0

    def get_seq_length(self) -> int:
        """Rows before the pass: none for prompts; `BatchedCache.step`'s rows say their own."""
        return 0

    def get_max_length(self) -> int:
        """Rows a slot has room for."""
        return self._now.capacity

    def reset(self) -> None:
        """Nothing to forget: the rows of a slot count only as far as its length."""

    def keep_slots(self, slots: torch.Tensor) -> None:
        """Keep only these slots, in this order."""
        if self.is_initialized:
            slots = slots.to(self.device)
            self.keys, self.values = self.keys[slots], self.values[slots]


class BatchedCache(Cache):
    """One `BatchedLayer` a decoder layer."""

    layers: list[BatchedLayer]

    def __init__(self, num_layers: int, num_slots: int, capacity: int) -> None:
        """Make an empty cache; memory is taken at the first pass.

        Args:
            num_layers: decoder layers.
            num_slots: sequences held at once.
            capacity: rows a slot has room for.
        """
        lengths = torch.zeros(num_slots, dtype=torch.int64)
        self._now = _Pass(num_slots, capacity, None, lengths, 0)
        super().__init__(layers=[BatchedLayer(self._now) for _ in range(num_layers)])

    def join(self, slots: torch.Tensor) -> None:
        """The next pass reads prompts ``[P, L]`` into ``slots`` ``[P]``, each from its start."""
        self._now.joining = slots

    def step(self, lengths: torch.Tensor, width: int) -> None:
        """The next pass adds one row ``[slots, 1]`` to every slot.

        Args:
            lengths: ``[slots]``, rows each holds before the pass.
            width: keys the pass reads, more than any length.
        """
        self._now.joining = None
        self._now.lengths, self._now.width = lengths, width

    def keep_slots(self, slots: torch.Tensor) -> None:
        """Keep only these slots, in this order; the others' memory is given back."""
        self._now.num_slots = len(slots)
        for layer in self.layers:
            layer.keep_slots(slots)
