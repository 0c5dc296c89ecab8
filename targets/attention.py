"""Attention masks of a verify pass, and the attention function ``exact``.

With ``exact``, a row's result does not depend on how many rows are computed with it (bfloat16 on
CPU, chains): the cache rounds its views up to `EXACT_MULTIPLE` rows, every pass after the prefill
gets an explicit mask of that width, and a lone query row is doubled, so that one kernel serves
one row and many. K/V heads are shared in the kernel instead of copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

EXACT = "exact"
EXACT_MULTIPLE = 16


def ancestor_visibility(
    parents: Sequence[int], past: int, width: int, device: torch.device
) -> torch.Tensor:
    """What each row of a verify pass may see: ``[1 + n, width]`` bool.

    Row 0 is the pending token; row ``i + 1`` is node ``i`` and sees the ``past`` committed rows,
    the pending token, its ancestors and itself.
    """
    rows = len(parents) + 1
    tree = torch.zeros(rows, rows, dtype=torch.bool)
    tree[0, 0] = True
    for node, parent in enumerate(parents):
        tree[node + 1] = tree[parent + 1]
        tree[node + 1, node + 1] = True
    visible = torch.zeros(rows, width, dtype=torch.bool, device=device)
    visible[:, :past] = True
    visible[:, past : past + rows] = tree.to(device)
    return visible


def within_window(
    visible: torch.Tensor, positions: torch.Tensor, past: int, window: int
) -> torch.Tensor:
    """``visible`` without the keys that a sliding window no longer reaches.

    Args:
        visible: ``[rows, width]`` bool.
        positions: ``[rows]``, positions of the pass's rows; committed keys stand at their column.
        past: committed rows.
        window: keys a query sees, itself included.
    """
    keys = torch.arange(visible.shape[1], device=visible.device)
    keys[past : past + positions.shape[0]] = positions
    return visible & (keys > positions[:, None] - window)


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``[1, 1, rows, width]`` float mask, right for eager attention and sdpa alike."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, torch.finfo(dtype).min)[None, None]


def exact_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' interface: ``[B, heads, q, D]`` in, ``[B, q, heads, D]`` out."""
    rows = query.shape[2]
    if rows == 1 and attention_mask is not None:
        # One row goes to another kernel than two; `expand` would be seen through.
        query = query.repeat(1, 1, 2, 1)
        attention_mask = attention_mask.expand(-1, -1, 2, -1)
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=attention_mask is None and rows > 1,
        enable_gqa=True,
    )
    return output[:, :, :rows].transpose(1, 2).contiguous(), None


def exact_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    *,
    allow_is_causal_skip: bool = True,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The library's causal mask; left out for a prefill of several tokens only."""
    prefill = q_length > 1 and q_offset == 0
    mask = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        allow_is_causal_skip=allow_is_causal_skip and prefill,
        **kwargs,
    )
    if mask is None:
        return None
    # Once here instead of once a layer in the kernel.
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


AttentionInterface.register(EXACT, exact_attention)
AttentionMaskInterface.register(EXACT, exact_mask)
