"""Attention of many blocks at once, each over its own context and itself; for training.

One dense mask over all context and all noise rows would cost N·K·(T + N·K) scores. On a CPU the
blocks are gathered by sequence and position, and scores that the mask would hide are hardly
formed; on a GPU the same mask is given to flex attention, which skips its empty tiles.

Shapes: N blocks, K block size, T context rows of all sequences of a batch, H query heads, G
key/value heads, E head size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from drafters.block_diffusion.data import Blocks

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""

_GROUP = 16
"""Neighbouring blocks that read one stretch of context; the last one's decides its length."""


class BlockLayout:
    """Which block sees what, worked out once for all layers of a pass."""

    def __init__(self, blocks: Blocks, block_size: int, device: torch.device) -> None:
        """``blocks`` on ``device``."""
        self.block_size = block_size
        self.blocks = blocks
        self.num_rows = sum(blocks.lengths)
        starts = [torch.arange(length, device=device) for length in blocks.lengths]
        self.context_positions = torch.cat(starts)
        """``[T]``, each in its own sequence."""
        offsets = torch.arange(block_size, device=device)
        self.block_positions = (blocks.anchors[:, None] + offsets).flatten()
        """``[N·K]``."""
        self.uses_flex = device.type == "cuda"

    def attend(self, q: torch.Tensor, context: Pair, block: Pair) -> torch.Tensor:
        """Attention of all blocks.

        Args:
            q: ``[H, N·K, E]``.
            context: ``[1, G, T, E]`` each.
            block: ``[1, G, N·K, E]`` each.

        Returns:
            ``[H, N·K, E]``.
        """
        return (self.flex if self.uses_flex else self.gathered)(q, context, block)

    def gathered(self, q: torch.Tensor, context: Pair, block: Pair) -> torch.Tensor:
        """The form for CPUs; arguments as in `attend`."""
        size = self.block_size
        parts = []
        for first, last, start, end, hidden in self._groups:
            rows = slice(first * size, last * size)
            parts.append(
                _attend_group(
                    q[:, rows],
                    (context[0][0, :, start:end], context[1][0, :, start:end]),
                    (block[0][0, :, rows], block[1][0, :, rows]),
                    hidden,
                )
            )
        return torch.cat(parts, dim=1)

    @functools.cached_property
    def _groups(self) -> list[tuple[int, int, int, int, torch.Tensor]]:
        """Neighbours: blocks ``[first, last)``, context rows ``[start, end)``, what is hidden."""
        anchors, owner = self.blocks.anchors.tolist(), self.blocks.owner.tolist()
        groups = []
        first = start = 0
        for sequence, length in enumerate(self.blocks.lengths):
            stop = first + owner.count(sequence)
            while first < stop:
                last = min(first + _GROUP, stop)
                span = max(anchors[last - 1], 1)
                rows = torch.arange(span, device=self.blocks.anchors.device)
                hidden = rows >= self.blocks.anchors[first:last, None]
                groups.append((first, last, start, start + span, hidden))
                first = last
            start += length
        return groups

    def flex(self, q: torch.Tensor, context: Pair, block: Pair) -> torch.Tensor:
        """The form for GPUs; arguments as in `attend`."""
        keys, values = (torch.cat(pair, dim=2) for pair in zip(context, block, strict=True))
        out: torch.Tensor = _flex_attention(q.is_cuda)(
            q[None], keys, values, block_mask=self._mask, enable_gqa=True
        )
        return out[0]

    @functools.cached_property
    def _mask(self) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        device, size, num_rows = self.context_positions.device, self.block_size, self.num_rows
        lengths = torch.tensor(self.blocks.lengths, device=device)
        sequence = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
        num_queries = len(self.block_positions)
        # Context rows before, noise rows behind: what does not apply is never looked at.
        owner_of_key = torch.cat((sequence, sequence.new_full((num_queries,), -1)))
        place_of_key = torch.cat((self.context_positions, self.block_positions))
        owner, anchors = self.blocks.owner, self.blocks.anchors

        def allowed(
            batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            own = query // size
            before = (owner_of_key[key] == owner[own]) & (place_of_key[key] < anchors[own])
            return before | ((key - num_rows) // size == own) & (key >= num_rows)

        return create_block_mask(
            allowed, None, None, num_queries, num_rows + num_queries, device=device
        )


def _attend_group(
    q: torch.Tensor, context: Pair, block: Pair, hidden: torch.Tensor
) -> torch.Tensor:
    """Neighbouring blocks of one sequence.

    Args:
        q: ``[H, n·K, E]``.
        context: ``[G, S, E]`` each.
        block: ``[G, n·K, E]`` each.
        hidden: ``[n, S]`` bool, True where a block must not see a context row.

    Returns:
        ``[H, n·K, E]``.
    """
    heads, rows, head = q.shape
    groups, num_blocks = context[0].shape[0], hidden.shape[0]
    size, share = rows // num_blocks, heads // groups
    q = (q * head**-0.5).view(groups, share, num_blocks, size, head)
    far = (q.flatten(1, 3) @ context[0].transpose(-1, -2)).view(*q.shape[:-1], -1)
    far = far.masked_fill(hidden[None, None, :, None, :], float("-inf"))
    near_k, near_v = (x.unflatten(1, (num_blocks, size)) for x in block)
    # Rows of one block over all heads of a group: [G, n, share·K, E].
    by_block = q.transpose(1, 2).flatten(2, 3)
    near = (by_block @ near_k.transpose(-1, -2)).unflatten(2, (share, size)).transpose(1, 2)
    weights = torch.cat((far, near), dim=-1).softmax(-1)
    far, near = weights.split((far.shape[-1], size), dim=-1)
    out = (far.flatten(1, 3) @ context[1]).view(q.shape)
    local = (near.transpose(1, 2).flatten(2, 3) @ near_v).unflatten(2, (share, size))
    return (out + local.transpose(1, 2)).reshape(heads, rows, head)


@functools.cache
def _flex_attention(compiled: bool) -> Callable[..., Any]:
    """Flex attention; without its compiler it forms every score, which serves tests."""
    from torch.nn.attention.flex_attention import flex_attention

    chosen: Callable[..., Any] = flex_attention
    return torch.compile(chosen, dynamic=True) if compiled else chosen
