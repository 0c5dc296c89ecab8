"""The shape of a new drafter for a target, and the token that serves it as the mask."""

from __future__ import annotations

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.model import DrafterConfig, build_target_layer_ids
from harness.errors import UserError
from targets.transformers_lm import TransformersTarget


def drafter_config(target: TransformersTarget, config: TrainConfig) -> DrafterConfig:
    """A drafter of the target's own widths."""
    body = target.model.config
    heads = body.num_attention_heads
    return DrafterConfig(
        hidden_size=body.hidden_size,
        intermediate_size=body.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(body, "num_key_value_heads", None) or heads,
        head_dim=getattr(body, "head_dim", None) or body.hidden_size // heads,
        rms_norm_eps=body.rms_norm_eps,
        vocab_size=target.vocab_size,
        max_position_embeddings=target.max_context,
        rope_parameters=dict(body.rope_parameters),
        block_size=config.block_size,
        mask_token_id=choose_mask_token(target),
        target_layer_ids=build_target_layer_ids(target.num_layers, config.num_features),
        num_target_layers=target.num_layers,
    )


def choose_mask_token(target: TransformersTarget) -> int:
    """An id of the target's own vocabulary that ordinary text never uses.

    The first unused row of a padded vocabulary, else the last special token that neither the
    template nor generation uses.

    Raises:
        UserError: the vocabulary has neither.
    """
    tokenizer = target.tokenizer
    if len(tokenizer) < target.vocab_size:
        return len(tokenizer)
    template = str(tokenizer.chat_template or "")
    used = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    used |= {tokenizer.pad_token_id, *target.stop_ids}
    free = [
        index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special and index not in used and token.content not in template
    ]
    if not free:
        raise UserError(
            f"the vocabulary of {target.name} has no unused token to serve as the mask; "
            "add a special token to its tokenizer."
        )
    return max(free)
