"""The target's embedding, LM head and final norm, as drafters in training share them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from targets.scales import Scales, measured_scales
from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, slots=True)
class SharedHead:
    """Frozen parts of a target.

    Attributes:
        embedding: ``[V, D]``.
        lm_head: ``[V', W]`` of `head_rows`, those of the softmax in training.
        label_of: ``[V]`` int64, row in ``lm_head`` of each token, -1 for none.
        final_norm: ``[D]``, start value of the drafter's own last norm; None where the target's
            is not a plain weight.
        scales: of the target.
    """

    embedding: torch.Tensor
    lm_head: torch.Tensor
    label_of: torch.Tensor
    final_norm: torch.Tensor | None
    scales: Scales = field(default_factory=Scales)

    @classmethod
    def of(cls, target: TransformersTarget, vocabulary: torch.Tensor) -> SharedHead:
        """Shared parts of ``target``; copied, so that they may take part in a backward pass.

        All are on the target's own device, whichever GPU of several they come from.
        """
        device = target.device
        label_of = torch.full((target.vocab_size,), -1, device=device)
        label_of[vocabulary.to(device)] = torch.arange(len(vocabulary), device=device)
        scales = measured_scales(target)
        norm = final_norm(target.model.get_decoder(), target.hidden_size)
        return cls(
            target.embed_tokens.weight.detach().to(device, copy=True),
            head_rows(target, vocabulary, scales),
            label_of,
            None if norm is None else norm_weight(norm).to(device, copy=True),
            scales,
        )


def head_rows(target: TransformersTarget, vocabulary: torch.Tensor, scales: Scales) -> torch.Tensor:
    """``[V', W]``, copied: rows whose products with `as_read` are the target's logits, uncapped.

    W is D, and one more where the head has a bias. The target's multiplier is in them. Its cap is
    not: it changes no order of logits, so drafters draft without it.
    """
    head, device = target.lm_head, target.device
    rows = head.weight.detach()[vocabulary.to(head.weight.device)].to(device)
    bias = getattr(head, "bias", None)
    if bias is not None:
        own = bias.detach()[vocabulary.to(bias.device)].to(device)
        rows = torch.cat((rows, own[:, None]), dim=1)
    return rows * scales.output_multiplier if scales.output_multiplier != 1 else rows


def as_read(hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``[…, D]`` as ``rows [V', W]`` of `head_rows` read it: a bias is multiplied by 1."""
    return F.pad(hidden, (0, rows.shape[1] - hidden.shape[-1]), value=1.0)


def final_norm(decoder: nn.Module, width: int) -> nn.Module | None:
    """The norm behind the layers: the last part of the decoder with one weight a dimension."""
    norms = [
        part for part in decoder.children() if getattr(part, "weight", None) is not None
        and part.weight.shape == (width,)
    ]  # fmt: skip
    return norms[-1] if norms else None


@torch.no_grad()
def norm_weight(norm: nn.Module) -> torch.Tensor:
    """``[D]`` by which a norm multiplies what it brought to a mean square of 1.

    Gemma's stores that less 1; of a LayerNorm, which also centres, it is the stored weight.
    """
    stored = norm.weight
    assert isinstance(stored, torch.Tensor)
    probe = torch.linspace(-1, 2, len(stored)).to(stored)
    probe = probe / probe.float().square().mean().sqrt().to(stored)
    made = norm(probe).to(stored.device).float()
    for weight in (stored, stored + 1):
        if bool(torch.allclose(weight.float() * probe.float(), made, rtol=0.02, atol=1e-3)):
            return weight.detach()
    return stored.detach()
