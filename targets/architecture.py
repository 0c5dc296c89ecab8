"""What a config tells of a model before its weights are read: what it is and computes with.

Composite (multimodal) configs hold the language model's numbers in a part of their own, which
`text_config` finds; for all others it is the config itself.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.progress import say
from targets.layer_outputs import decoder_layers

LAYER_TYPES = {"full_attention", "sliding_attention"}
_SUPPORT = {
    "sdpa": "_supports_sdpa",
    "flash": "_supports_flash_attn",
    "flex": "_supports_flex_attn",
}
"""The library's mark on a model for each kind of attention, by how the kind's names begin."""


def text_config(config: Any) -> Any:
    """The language model's part of ``config``."""
    return config.get_text_config(decoder=True)


def empty_model(name: str, config: Any) -> Any:
    """The model of ``config`` without weights, after all that can be asked of it was asked.

    Raises:
        UserError: it is no causal language model, or one whose layers cannot be used here.
    """
    if type(config) not in AutoModelForCausalLM._model_mapping or config.is_encoder_decoder:
        raise UserError(
            f"{name} is a {config.model_type} model, not a causal language model; a target must "
            "generate text from left to right."
        )
    try:
        strange = set(getattr(text_config(config), "layer_types", None) or ()) - LAYER_TYPES
        if strange:
            raise UserError(
                f"{name} has {', '.join(sorted(strange))} layers, whose state cannot be rolled "
                "back here; choose a target with full or sliding-window attention."
            )
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        facts = text_config(model.config)
        decoder_layers(model.get_decoder(), facts.num_hidden_layers)
        _ = facts.hidden_size, model.get_input_embeddings().num_embeddings
        _ = model.get_output_embeddings().weight
    except UserError:
        raise
    except FAILURES as error:
        raise_ctrl_c(error)
        raise UserError(
            f"{name} is a {config.model_type} model, and the harness finds no decoder layers and "
            f"LM head in it that it could work with ({one_line(error)}); choose another target."
        ) from error
    return model


def attention_for(name: str, asked: str | None, model: Any) -> str:
    """The attention to load with: what is asked for, else sdpa, else what the model has.

    Args:
        name: of the target.
        asked: ``--attn``.
        model: see `empty_model`.

    Raises:
        UserError: what is asked for is not in this model.
    """
    wanted = asked or "sdpa"
    mark = next((mark for kind, mark in _SUPPORT.items() if wanted.startswith(kind)), None)
    if mark is None or getattr(model, mark, True):
        return wanted
    if asked is not None:
        raise UserError(
            f"{name} is a {model.config.model_type} model, which has no {asked} attention; leave "
            "--attn out, or write --attn eager."
        )
    say(f"attn     {name} has no {wanted} ({model.config.model_type}); its eager attention is used")
    return "eager"
