"""What a target makes of its embedding's rows before its first layer, and of its head's logits.

Drafters share embedding and LM head. Gemma multiplies the rows by √H, Granite by a number of its
own; Cohere and Granite multiply the logits, Gemma 2 caps them. Each architecture keeps such numbers
under other names and in other places, so they are measured: what goes in is compared with what
comes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.errors import NotNumbers
from targets.transformers_lm import TransformersTarget

_TOKENS = 8
"""Of the passes that are compared."""
_TOLERANCE = 0.03
"""Relative rest that bfloat16 explains; a learned position or a norm leaves far more."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Factors at both ends of a target, in the words of a DFlash ``config.json``."""

    input_embedding_scale: float = 1.0
    """Of a row of the embedding's weight, before positions; 1 where something else is done to it:
    learned positions are added (GPT-2, OPT) or a norm follows (BLOOM)."""
    output_multiplier: float = 1.0
    """Of what the LM head returns, before the cap."""
    final_logit_softcapping: float | None = None
    """c, where logits z become c · tanh(z / c)."""


@torch.no_grad()
def measured_scales(target: TransformersTarget) -> Scales:
    """The scales of ``target``, by two passes over a few tokens.

    Raises:
        NotNumbers: its logits are none.
    """
    ids = torch.arange(1, _TOKENS + 1, device=target.device)[None] % target.vocab_size
    read: list[torch.Tensor] = []

    def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read.append(args[0] if args else kwargs["hidden_states"])

    hook = target.decoder_layers[0].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        hidden = target.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()
    embedded = target.embed_tokens.weight[ids]
    logits = target.model(input_ids=ids, use_cache=False).logits.float()
    if not bool(logits.amax(-1).isfinite().all()):
        raise NotNumbers(target.name)
    cap = getattr(target.text_config, "final_logit_softcapping", None)
    if cap:
        logits = cap * torch.atanh((logits / cap).clamp(-0.999, 0.999))
    return Scales(
        _factor(embedded, read[0]),
        _factor(target.lm_head(hidden), logits),
        float(cap) if cap else None,
    )


def _factor(before: torch.Tensor, after: torch.Tensor) -> float:
    """The number that makes ``after`` of ``before``, to four digits; 1 where there is none."""
    if before.shape != after.shape:
        return 1.0
    x, y = before.double(), after.to(before.device).double()
    factor = float((x * y).sum() / x.square().sum())
    rest = float((y - factor * x).norm() / y.norm())
    return float(f"{factor:.4g}") if rest < _TOLERANCE else 1.0
