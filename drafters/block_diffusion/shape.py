"""The shape of a new drafter for a target, and the token that serves it as the mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.model import DrafterConfig, build_target_layer_ids
from harness.errors import UserError
from targets.scales import Scales
from targets.transformers_lm import TransformersTarget

_HEAD_DIM = 64
_MLP_WIDTHS = 4
"""Width of the MLP in widths of the target, where the target names none."""
_RMS_NORM_EPS = 1e-6
_ROPE_THETA = 10000.0
_LONGEST = 2**17
"""Positions of a drafter whose target names no limit."""
_STEADY = ("default", "linear", "yarn", "llama3")
"""Rotary embeddings that are the same however long the context has become."""


def drafter_config(
    target: TransformersTarget, config: TrainConfig, scales: Scales
) -> DrafterConfig:
    """A drafter of the target's own widths, as far as it names them.

    The target's multiplier of logits is the drafter's too; its cap is not (see
    `shared_head.head_rows`).

    Raises:
        UserError: the target leaves a drafter nothing to read or to mask with.
    """
    if target.num_layers < 2:
        raise UserError(
            f"{target.name} has one layer, and a block-diffusion drafter reads those below the "
            "last; train a student, or choose a deeper target."
        )
    body = target.text_config
    heads = _size(body, "num_attention_heads") or max(1, target.hidden_size // _HEAD_DIM)
    groups = _size(body, "num_key_value_heads") or heads
    head_dim = _size(body, "head_dim") or max(1, target.hidden_size // heads)
    if config.block_size > target.max_context:
        raise UserError(
            f"{target.name} reads {target.max_context} tokens at most; give a --block-size up to "
            "that."
        )
    return DrafterConfig(
        hidden_size=target.hidden_size,
        intermediate_size=config.mlp_width
        or _size(body, "intermediate_size")
        or _MLP_WIDTHS * target.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=groups if heads % groups == 0 else heads,
        head_dim=head_dim + head_dim % 2,  # rotated in pairs
        rms_norm_eps=float(getattr(body, "rms_norm_eps", None) or _RMS_NORM_EPS),
        vocab_size=target.vocab_size,
        max_position_embeddings=min(target.max_context, _LONGEST),
        rope_parameters=_rope_parameters(body),
        block_size=config.block_size,
        mask_token_id=choose_mask_token(target),
        target_layer_ids=build_target_layer_ids(target.num_layers, config.num_features),
        num_target_layers=target.num_layers,
        input_embedding_scale=scales.input_embedding_scale,
        output_multiplier=scales.output_multiplier,
    )


def require_shared_widths(target: TransformersTarget) -> None:
    """Refuse a target whose embedding and LM head a drafter of its layers' width cannot share.

    Raises:
        UserError: one of them has a width of its own.
    """
    for part, width in (
        ("embedding", target.embed_tokens.weight.shape[1]),
        ("LM head", target.lm_head.weight.shape[1]),
    ):
        if width != target.hidden_size:
            raise UserError(
                f"the {part} of {target.name} is {width} wide and its layers "
                f"{target.hidden_size}, so a drafter cannot share it; choose another target."
            )


def _size(body: Any, name: str) -> int | None:
    """A size of the target's config; None where it has none, or one a layer."""
    value = getattr(body, name, None)
    return value if isinstance(value, int) and value > 0 else None


def _rope_parameters(body: Any) -> dict[str, Any]:
    """Those of the target's full-attention layers, for heads rotated whole.

    Some targets have none (learned positions, ALiBi), some one a kind of layer (Gemma 3). Kinds
    that change with the length of the context would leave cached keys rotated by other angles.
    """
    stated = getattr(body, "rope_parameters", None) or {}
    if isinstance(stated.get("full_attention"), Mapping):
        stated = stated["full_attention"]
    theta = float(stated.get("rope_theta") or _ROPE_THETA)
    if stated.get("rope_type") not in _STEADY:
        return {"rope_type": "default", "rope_theta": theta}
    kept = {name: value for name, value in stated.items() if name != "partial_rotary_factor"}
    return {**kept, "rope_theta": theta}


def choose_mask_token(target: TransformersTarget, *, reads_prompts: bool = False) -> int:
    """An id of the target's own vocabulary that the drafter never sees as a token.

    The first unused row of a padded vocabulary, else the last special token that neither the
    template nor generation uses, else padding or the unknown token. A block-diffusion drafter is
    shown no token of a prompt and none that ends a response, so that it may take those last.

    Args:
        target: whose embedding has the row.
        reads_prompts: the drafter is shown whole prompts.

    Raises:
        UserError: the vocabulary has none.
    """
    tokenizer = target.tokenizer
    taken = set(tokenizer.get_vocab().values())
    rows = min(target.vocab_size, target.embed_tokens.num_embeddings)
    if len(taken) < rows:
        return next(index for index in range(rows) if index not in taken)
    template = str(tokenizer.chat_template or "")
    special = {
        index: token.content
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    last = {tokenizer.pad_token_id, tokenizer.unk_token_id}
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, *target.stop_ids}
    in_prompts = used | {index for index, text in special.items() if text in template}
    turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
    in_prompts |= set(target.encode_chat(turns))  # a template may put names together
    choices = [set(special) - in_prompts - last, (last & set(special)) - in_prompts]
    if not reads_prompts:
        choices += [set(special) - target.stop_ids, set(special)]
    for free in choices:
        if free:
            return max(free)
    raise UserError(
        f"the vocabulary of {target.name} has no unused token to serve as the mask; "
        "add a special token to its tokenizer."
    )
