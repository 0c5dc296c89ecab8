"""Tiny random models of many architectures, in memory, all with one word tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from targets.transformers_lm import TransformersTarget
from tests.tiny_model import word_tokenizer

VOCAB = 50
"""Four rows more than the tokenizer has words."""


def _sizes(layers: int = 3, **changed: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.4,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": None,
        **changed,
    }


def _gemma(kind: Any, layers: int, **changed: Any) -> Any:
    return kind(
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=8,
        **_sizes(layers, **changed),
    )


def _longrope() -> Any:
    factors = {"short_factor": [1.0] * 2, "long_factor": [2.0, 5.0]}
    config = transformers.LlamaConfig(**_sizes())
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 5000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 64,
        **factors,
    }
    return config


SMALLEST = {
    **{"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8},
    **{"num_hidden_layers": 1, "num_attention_heads": 2},
}
_KINDS = ["sliding_attention", "full_attention"]

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama, 2 layers": lambda: transformers.LlamaConfig(**_sizes(2)),
    "llama, longrope": _longrope,
    "qwen2": lambda: transformers.Qwen2Config(**_sizes(6)),
    "qwen3": lambda: transformers.Qwen3Config(head_dim=8, tie_word_embeddings=True, **_sizes(7)),
    "mistral": lambda: transformers.MistralConfig(sliding_window=8, **_sizes()),
    "granite": lambda: transformers.GraniteConfig(
        logits_scaling=4.0, embedding_multiplier=6.0, residual_multiplier=0.3, **_sizes(5)
    ),
    "cohere": lambda: transformers.CohereConfig(logit_scale=0.25, **_sizes()),
    "gemma 2": lambda: _gemma(
        transformers.Gemma2Config,
        2,
        final_logit_softcapping=10.0,
        attn_logit_softcapping=20.0,
    ),
    "gemma 3": lambda: _gemma(transformers.Gemma3TextConfig, 8, layer_types=_KINDS * 4),
    "gemma 3, multimodal": lambda: transformers.Gemma3Config(
        text_config=_gemma(transformers.Gemma3TextConfig, 4, layer_types=_KINDS * 2).to_dict(),
        vision_config={
            **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        },
        mm_tokens_per_image=4,
    ),
    "phi": lambda: transformers.PhiConfig(
        partial_rotary_factor=0.5, **_sizes(num_key_value_heads=4)
    ),
    "olmo 2": lambda: transformers.Olmo2Config(**_sizes()),
    "starcoder 2": lambda: transformers.Starcoder2Config(**_sizes(8)),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**_sizes(num_key_value_heads=4)),
    "gpt-oss": lambda: transformers.GptOssConfig(
        head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=8, **_sizes(2)
    ),
    "gpt-2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=96,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.4,
    ),
    "opt": lambda: transformers.OPTConfig(
        ffn_dim=24, word_embed_proj_dim=16, init_std=0.4, **_sizes(2)
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=4, eos_token_id=2, initializer_range=0.4
    ),
}
_WITHOUT_SDPA = ("gemma 2", "gpt-oss", "bloom")


def write(name: str, directory: Path, **changed: Any) -> Path:
    """Files of a row's model, float32 and random; its config with fields ``changed``."""
    model = target(name, **changed).model
    model.save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    return directory


def target(name: str, config: Any = None, **changed: Any) -> TransformersTarget:
    """The model of a row, or of ``config``; every weight is random, biases and norms too."""
    torch.manual_seed(0)
    config = CONFIGS[name]() if config is None else config
    for field, value in changed.items():
        setattr(config, field, value)
    attn = "eager" if name in _WITHOUT_SDPA else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return TransformersTarget(
        model.requires_grad_(False),
        word_tokenizer(),
        name=name,
        facts={"weights_sha256": name.replace(" ", "-")},
    )
