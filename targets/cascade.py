"""Attention of several blocks of rows behind one prefix, which is read once and never copied.

What a row sees is cut in two: the prefix, of which nothing is hidden, and the rows of its own
block. Each part is attended to by itself, and the two are merged by the log-sum-exp of their
scores, which is exact. So no mask over the prefix is built, and blocks share its keys.

Source: cascade attention as D²SD has it, arXiv 2606.04446.

Shapes: B blocks, R rows of each, L rows of the prefix, H query heads, G key/value heads, E head
size.
"""

from __future__ import annotations

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values."""


def cascade_attention(
    q: torch.Tensor,
    prefix: Pair,
    local: Pair,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of every row to the whole prefix and to what its block shows it.

    Args:
        q: ``[B, H, R, E]``.
        prefix: ``[1, G, L, E]`` each, L at least 1.
        local: ``[B, G, R, E]`` each.
        mask: ``[1, 1, R, R]`` additive, within a block; None hides nothing.
        scale: of the scores; E^-½ by default.

    Returns:
        ``[B, H, R, E]``.
    """
    num_blocks, heads, rows, head = q.shape
    groups = local[0].shape[1]
    share = heads // groups
    scale = head**-0.5 if scale is None else scale
    # Heads that share keys are rows of one, and so are blocks before the prefix.
    stacked = q.reshape(num_blocks, groups, share * rows, head)
    together = stacked.transpose(0, 1).reshape(1, groups, -1, head)
    far, far_lse = attend(together, *prefix, scale)
    if mask is not None:
        mask = torch.cat([mask] * share, dim=2)
    near, near_lse = attend(stacked, *local, scale, mask)
    far = far[0].unflatten(1, (num_blocks, -1)).transpose(0, 1)
    far_lse = far_lse[0].unflatten(1, (num_blocks, -1)).transpose(0, 1)
    # e^far / (e^far + e^near), which neither overflows nor underflows to nothing.
    weight = torch.sigmoid(far_lse - near_lse)[..., None]
    merged = torch.lerp(near.to(weight.dtype), far.to(weight.dtype), weight)
    return merged.to(q.dtype).reshape(q.shape)


def attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
) -> Pair:
    """Attention ``[B, G, R, E]``, and the log-sum-exp ``[B, G, R]`` of each row's scores.

    Args:
        q: ``[B, G, R, E]``.
        keys: ``[B, G, L, E]``.
        values: as the keys.
        scale: of the scores.
        mask: ``[1, 1, R, L]`` additive.
    """
    if q.device.type == "cpu":
        # What sdpa runs here; its public form keeps the sums to itself.
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, keys, values, attn_mask=mask, scale=scale
        )
        return out, lse
    return attend_plainly(q, keys, values, scale, mask)


def attend_plainly(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    mask: torch.Tensor | None = None,
) -> Pair:
    """`attend` for any device, written out; forms every score."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = scale * (q.to(wide) @ keys.to(wide).transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().to(values.dtype)
    return weights @ values, lse
