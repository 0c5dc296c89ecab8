"""The DFlash ``config.json`` of a drafter, both ways."""

from __future__ import annotations

import dataclasses
from typing import Any

from drafters.block_diffusion.model import DrafterConfig
from harness.errors import UserError
from harness.typed_json import typed

_COPIED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "vocab_size",
    "max_position_embeddings",
    "num_target_layers",
)
_MERGED = (
    "block_size",
    "mask_token_id",
    "target_layer_ids",
    "input_embedding_scale",
    "output_multiplier",
    "final_logit_softcapping",
)
"""Engines read these from ``dflash_config`` too, and there first."""


def config_to_json(config: DrafterConfig, dtype: str) -> dict[str, Any]:
    """The DFlash ``config.json`` of a drafter."""
    fields = dataclasses.asdict(config)
    rope = dict(config.rope_parameters)
    return {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "model_type": "qwen3",
        "dtype": dtype,
        **{name: fields[name] for name in _COPIED},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * config.num_hidden_layers,
        "tie_word_embeddings": False,
        "rope_parameters": rope,
        "rope_theta": rope.get("rope_theta"),
        "block_size": config.block_size,
        "dflash_config": {
            "mask_token_id": config.mask_token_id,
            "target_layer_ids": list(config.target_layer_ids),
        },
    }


def config_from_json(body: dict[str, Any], where: str) -> DrafterConfig:
    """The drafter described by a DFlash ``config.json``.

    Raises:
        UserError: a field is missing, or asks for what plain DFlash does not have.
    """
    try:
        rope_scaling = typed(dict[str, Any], body.get("rope_scaling") or {}, "rope_scaling")
        merged = {**body, **typed(dict[str, Any], body.get("dflash_config") or {}, "dflash_config")}
        layer_types = typed(list[str], body.get("layer_types") or [], "layer_types")
    except ValueError as error:
        raise _no_config(where, error) from error
    foreign = [
        name
        for name, present in (
            ("DFlash 2 (selector_rank, conv_kernel_size)", "selector_rank" in merged),
            ("attention_bias", bool(body.get("attention_bias"))),
            ("is_causal", bool(merged.get("is_causal"))),
            ("sliding_attention layers", "sliding_attention" in layer_types),
            (f"hidden_act {body.get('hidden_act')}", body.get("hidden_act", "silu") != "silu"),
        )
        if present
    ]
    if foreign:
        raise UserError(f"drafter {where} uses {foreign[0]}, which this version cannot run.")
    rope = body.get("rope_parameters") or {
        "rope_type": "default",
        **rope_scaling,
        "rope_theta": body.get("rope_theta"),
    }
    try:
        facts = {name: body[name] for name in _COPIED if name in body}
        facts |= {name: merged[name] for name in _MERGED if name in merged}
        return typed(DrafterConfig, {**facts, "rope_parameters": rope}, "config")
    except ValueError as error:
        raise _no_config(where, error) from error


def _no_config(where: str, error: ValueError) -> UserError:
    return UserError(
        f"{where}/config.json is not a DFlash config ({error}); fetch or train it again."
    )
