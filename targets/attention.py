"""Attention masks of a verify pass or a batch, and an attention function for CPUs.

With ``grouped``, query heads that share a key head become rows of one matrix: keys and values are
read once and never copied, which is what most of a verify pass's extra time went to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from drafters.base import Proposal
from harness.errors import UserError
from targets.architecture import text_config
from targets.cascade import cascade_attention

GROUPED = "grouped"
_OTHER_ARITHMETIC = ("softcap", "s_aux", "position_bias")
"""Arguments by which some architectures ask for more than plain attention."""

_NOISE = 0.03
"""Relative difference of logits that bfloat16 explains; another arithmetic is far above it."""


def ancestor_visibility(
    parents: Sequence[int], past: int, width: int, device: torch.device
) -> torch.Tensor:
    """What each row of a verify pass may see: ``[1 + n, width]`` bool.

    Row 0 is the pending token; row ``i + 1`` is node ``i`` and sees the ``past`` committed rows,
    the pending token, its ancestors and itself.
    """
    above = torch.tensor([0, *(parent + 1 for parent in parents)])  # the pending token's is itself
    rows = above.shape[0]
    tree = torch.eye(rows, dtype=torch.bool)
    ancestors = above
    while bool(ancestors.any()):
        tree[torch.arange(rows), ancestors] = True
        ancestors = above[ancestors]
    tree[:, 0] = True
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


def tree_inputs(
    config: Any,
    proposal: Proposal,
    past: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """Positions by depth, and an ancestor mask for each kind of layer the model has.

    Where `grouped_attention` cascades, on a CPU, a mask covers the pass's own rows only; layers
    with a sliding window, whose rows differ in what they see of the prefix, keep a whole one.

    Args:
        config: the model's.
        proposal: below the pending token, which stands at ``past``.
        past: committed rows.
        width: keys of the pass.
        device: of mask and positions.
        dtype: of the mask.
    """
    positions = past + torch.tensor([0, *proposal.depths()], device=device)
    parents = proposal.parents
    cascades = config._attn_implementation == GROUPED and device.type == "cpu"
    seen, keys = (0, len(parents) + 1) if cascades else (past, width)

    def sliding(window: int) -> torch.Tensor:
        visible = ancestor_visibility(parents, past, width, device)
        return additive(within_window(visible, positions, past, window), dtype)

    full = additive(ancestor_visibility(parents, seen, keys, device), dtype)
    mask = _by_layer(config, full, sliding)
    return {"attention_mask": mask, "position_ids": positions[None]}


def step_inputs(
    config: Any, lengths: torch.Tensor, width: int, dtype: torch.dtype
) -> dict[str, Any]:
    """Positions and masks of a pass that adds one row to each of several sequences.

    Args:
        config: the model's.
        lengths: ``[B]``, rows of each sequence before the pass; the new one stands behind them.
        width: keys of the pass; those behind a sequence's new row are another's or nobody's.
        dtype: of the mask.
    """
    last = lengths[:, None]
    keys = torch.arange(width, device=lengths.device)
    visible = keys <= last
    mask = _by_layer(
        config,
        _a_row_each(visible, dtype),
        lambda window: _a_row_each(visible & (keys > last - window), dtype),
    )
    return {"attention_mask": mask, "position_ids": last}


def two_way_inputs(
    config: Any,
    lengths: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    past: int = 0,
) -> dict[str, Any]:
    """Positions and masks of sequences end to end, whose rows see all rows of their own sequence.

    Args:
        config: the model's.
        lengths: rows of each sequence.
        device: of mask and positions.
        dtype: of the mask.
        past: rows of the first sequence that are in a cache and no part of the pass.
    """
    counts = torch.tensor(lengths, device=device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)
    keys = torch.arange(owner.shape[0], device=device)
    rows = keys[past:]
    visible = owner[rows, None] == owner
    distance = (rows[:, None] - keys).abs()
    mask = _by_layer(
        config,
        additive(visible, dtype),
        lambda window: additive(visible & (distance < window), dtype),
    )
    return {
        "attention_mask": mask,
        "position_ids": (rows - (counts.cumsum(0) - counts)[owner[rows]])[None],
    }


def _by_layer(
    config: Any, full: torch.Tensor, sliding: Callable[[int], torch.Tensor]
) -> torch.Tensor | dict[str, torch.Tensor]:
    """One mask, or one for each kind of layer the model has; ``sliding`` is given the window."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return full
    if kinds is None:
        return sliding(window)
    return {"full_attention": full, "sliding_attention": sliding(window)}


def _a_row_each(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`additive` of ``[B, width]`` for a batch of one-row passes: ``[B, 1, 1, width]``."""
    return additive(visible, dtype).permute(2, 0, 1, 3)


def _require_plain(arguments: dict[str, Any]) -> None:
    """Refuse what would be silently wrong if it were ignored."""
    for argument in _OTHER_ARITHMETIC:
        if arguments.get(argument) is not None:
            raise UserError(
                f"this target's attention needs {argument}, which --attn {GROUPED} does not "
                "compute; write --attn eager."
            )


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' interface: ``[B, heads, q, D]`` in, ``[B, q, heads, D]`` out.

    A mask narrower than the keys is about the last of them; those before are hidden from no row.
    """
    _require_plain(kwargs)
    rows, share = query.shape[2], query.shape[1] // key.shape[1]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    if attention_mask is None and rows > 1:
        output = sdpa(query, key, value, None, dropout, True, scale=scaling, enable_gqa=share > 1)
    elif attention_mask is not None and attention_mask.shape[-1] < key.shape[2]:
        past = key.shape[2] - attention_mask.shape[-1]
        prefix = key[:, :, :past], value[:, :, :past]
        local = key[:, :, past:], value[:, :, past:]
        output = cascade_attention(query, prefix, local, attention_mask, scaling)
    else:
        # One row without a mask, too: with enable_gqa it would take five times as long.
        stacked = query.reshape(query.shape[0], key.shape[1], share * rows, -1)
        mask = None if attention_mask is None else torch.cat([attention_mask] * share, dim=2)
        output = sdpa(stacked, key, value, mask, dropout, scale=scaling).view(query.shape)
    return output.transpose(1, 2).contiguous(), None


def grouped_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The library's mask, made additive once instead of once a layer in the kernel."""
    mask = sdpa_mask(batch_size, q_length, kv_length, q_offset, **kwargs)
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


def prefer_grouped(model: Any) -> None:
    """Switch ``model`` to ``grouped`` where a pass behind a past shows the library's logits."""
    ids = torch.arange(1, 7, device=model.device)[None] % text_config(model.config).vocab_size

    @torch.inference_mode()
    def logits() -> torch.Tensor:
        past = model(input_ids=ids[:, :2], use_cache=True).past_key_values
        one, several = (
            model(input_ids=part, past_key_values=past, use_cache=True).logits.float()
            for part in (ids[:, 2:3], ids[:, 3:])
        )
        return torch.cat((one, several), dim=1)

    before = model.config._attn_implementation
    try:
        expected = logits()
        model.set_attn_implementation(GROUPED)
        same = bool((logits() - expected).norm() < _NOISE * expected.norm())
    except (UserError, ValueError, RuntimeError):  # another arithmetic, or shapes unheard of
        same = False
    if not same:
        model.set_attn_implementation(before)


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, grouped_mask)
