"""The DFlash ``config.json`` of a drafter, both ways; DFlash 2 is its second architecture.

Source: the PyPI package ``dflash`` 0.1.0: the fields, where it looks for them, what absence means.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from drafters.block_diffusion.model import DrafterConfig
from drafters.block_diffusion.span import Span
from harness.errors import UserError
from harness.typed_json import typed

_PLAIN, _SECOND = "DFlashDraftModel", "DFlash2DraftModel"

LayerType = Literal["full_attention", "sliding_attention"]

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
_SCALES = ("input_embedding_scale", "output_multiplier", "final_logit_softcapping")
_MERGED = ("block_size", "mask_token_id", "target_layer_ids", *_SCALES)
"""Engines read these from ``dflash_config`` too, and there first."""
_PARTS = {"conv": ("kernel_size", "group_size"), "selector": ("rank", "top_k")}
"""What DFlash 2 adds: ``conv_kernel_size`` and so on, read as those above."""


def config_to_json(config: DrafterConfig, dtype: str) -> dict[str, Any]:
    """The DFlash ``config.json`` of a drafter."""
    fields = dataclasses.asdict(config)
    rope = dict(config.rope_parameters)
    architecture = _PLAIN if config.conv is None else _SECOND
    return {
        "architectures": [architecture],
        "model_type": "qwen3",
        "dtype": dtype,
        **{name: fields[name] for name in _COPIED},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        **_attention_to_json(config),
        "tie_word_embeddings": False,
        "rope_parameters": rope,
        "rope_theta": rope.get("rope_theta"),
        "block_size": config.block_size,
        "dflash_config": {
            "mask_token_id": config.mask_token_id,
            "target_layer_ids": list(config.target_layer_ids),
            **_optional_to_json(config),
        },
    }


def _attention_to_json(config: DrafterConfig) -> dict[str, Any]:
    spans = config.spans or (Span(),) * config.num_hidden_layers
    types = ["full_attention" if span.window is None else "sliding_attention" for span in spans]
    body: dict[str, Any] = {"layer_types": types}
    for span in spans:
        if span.window is not None:
            body |= {"use_sliding_window": True, "sliding_window": span.window}
        if span.causal != (span.window is not None):
            body["is_causal"] = span.causal
    return body


def _optional_to_json(config: DrafterConfig) -> dict[str, Any]:
    """Fields of ``dflash_config`` that say something."""
    fields = {item.name: item.default for item in dataclasses.fields(config)}
    body = {name: getattr(config, name) for name in _SCALES}
    body = {name: value for name, value in body.items() if value != fields[name]}
    for part, names in _PARTS.items():
        shape = getattr(config, part)
        if shape is not None:
            body |= {f"{part}_{name}": getattr(shape, name) for name in names}
    return body


def config_from_json(body: dict[str, Any], where: str) -> DrafterConfig:
    """The drafter described by a DFlash ``config.json``.

    Raises:
        UserError: a field is missing, or asks for what neither DFlash nor DFlash 2 has.
    """
    try:
        own = typed(dict[str, Any], body.get("dflash_config") or {}, "dflash_config")
        # A config without a name is of the time when there was one architecture.
        names = typed(list[str], body.get("architectures") or [_PLAIN], "architectures")
        _refuse_foreign(body, names[0], where)
        merged = {**body, **own}
        facts = {name: body[name] for name in _COPIED if name in body}
        facts |= {name: merged[name] for name in _MERGED if name in merged}
        if names[0] == _SECOND:
            facts |= {part: _part(part, merged) for part in _PARTS}
        facts |= {"rope_parameters": _rope(body), "spans": _spans(body, own)}
        return typed(DrafterConfig, facts, "config")
    except ValueError as error:
        raise UserError(
            f"{where}/config.json is not a DFlash config ({error}); fetch or train it again."
        ) from error


def _refuse_foreign(body: dict[str, Any], architecture: str, where: str) -> None:
    if architecture not in (_PLAIN, _SECOND):
        raise UserError(
            f"drafter {where} is a {architecture!r}, and this version runs {_PLAIN} and {_SECOND} "
            "alone; choose such a checkpoint."
        )
    for name, present in (
        ("attention_bias", bool(body.get("attention_bias"))),
        (f"hidden_act {body.get('hidden_act')}", body.get("hidden_act", "silu") != "silu"),
    ):
        if present:
            raise UserError(f"drafter {where} uses {name}, which this version cannot run.")


def _rope(body: dict[str, Any]) -> Any:
    scaling = typed(dict[str, Any], body.get("rope_scaling") or {}, "rope_scaling")
    plain = {"rope_type": "default", **scaling, "rope_theta": body.get("rope_theta")}
    return body.get("rope_parameters") or plain


def _spans(body: dict[str, Any], own: dict[str, Any]) -> list[dict[str, Any]]:
    """What `Span` takes, of each layer: a sliding layer is causal unless ``is_causal`` denies it.

    Raises:
        ValueError: of another type, or a window that is missing.
    """
    types = typed(list[LayerType], body.get("layer_types") or [], "layer_types")
    slides = typed(bool, body.get("use_sliding_window") or False, "use_sliding_window")
    # The package reads the first alone; vLLM reads the second where the first is silent.
    stated = own.get("causal") if body.get("is_causal") is None else body["is_causal"]
    causal = None if stated is None else typed(bool, stated, "is_causal")
    if (slides or causal) and not types:
        raise ValueError("use_sliding_window and is_causal need layer_types")
    window = body.get("sliding_window") if slides else None
    if "sliding_attention" in types and window is None:
        raise ValueError("sliding_attention layers need use_sliding_window and sliding_window")
    spans = []
    for name in types:
        far = name == "full_attention"
        spans.append(
            {
                "causal": not far if causal is None else causal,
                "window": None if far else typed(int, window, "sliding_window"),
            }
        )
    return [] if all(span == {"causal": False, "window": None} for span in spans) else spans


def _part(part: str, merged: dict[str, Any]) -> dict[str, Any]:
    return {name: merged[f"{part}_{name}"] for name in _PARTS[part] if f"{part}_{name}" in merged}
