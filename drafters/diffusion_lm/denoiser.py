"""What fills masks: a token sequence with masks at its end in, logits of the masks out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from drafters.block_diffusion.draft_head import DraftHead, scaled
from harness.errors import UserError
from harness.kv_cache import KVCache
from targets.attention import GROUPED, two_way_inputs
from targets.layer_outputs import decoder_layers
from targets.packed import can_pack, pack_linear_layers
from targets.scales import measured_scales
from targets.transformers_lm import TransformersTarget

_MASKED_ATTENTION = ("sdpa", "eager", GROUPED)
"""Attention implementations that take a mask of our own."""


_ROOM = 512
"""Rows by which a cache grows."""
_SAME = 0.02
"""Relative difference of outputs that bfloat16 explains."""


class Denoiser(Protocol):
    """A diffusion LM ready to draft."""

    num_parameters: int
    """Of a pass, without the LM head where that is the target's."""

    def new_cache(self) -> KVCache | None:
        """An empty cache for `logits`; None where the model reads everything at every pass."""

    def logits(self, ids: torch.Tensor, count: int, cache: KVCache | None = None) -> torch.Tensor:
        """One pass over ``ids [L]``; logits ``[count, V']`` of the last ``count`` positions.

        Args:
            ids: all tokens, also those that the cache holds.
            count: masks at the end, behind the pending token.
            cache: rows of the first tokens, from an earlier pass; only the rest is read. It holds
                all tokens before the pending one afterwards.
        """


def answer_rows(length: int, count: int, *, shifted: bool) -> slice:
    """Rows of a pass over ``length`` tokens that speak of the last ``count`` positions."""
    end = length - shifted
    return slice(end - count, end)


def private_decoder(target: TransformersTarget) -> Any:
    """A copy of the target's decoder, to be changed; only the embedding is shared.

    Raises:
        UserError: the target's weights were laid out for decoding already.
    """
    if not hasattr(target.lm_head, "weight"):
        raise UserError(
            f"target {target.name} has decoded already, and its weights cannot be copied any "
            "more; build the drafter dlm before the first answer."
        )
    embedding = target.embed_tokens
    decoder = copy.deepcopy(target.model.get_decoder(), {id(embedding): embedding})
    for layer in decoder_layers(decoder, target.num_layers):
        layer._forward_hooks.clear()  # they keep outputs for the target's drafters
    if decoder.config._attn_implementation not in _MASKED_ATTENTION:
        decoder.set_attn_implementation("sdpa")
    return decoder


@torch.no_grad()
def require_two_way(decoder: Any, target: TransformersTarget) -> None:
    """Try masks by which rows of a sequence, and of none other, see each other both ways.

    Raises:
        UserError: the architecture takes no such mask, or takes it for another.
    """
    ids = torch.arange(1, 6, device=target.device) % target.embed_tokens.num_embeddings
    try:
        alone = two_way_outputs(decoder, ids[:3], [3])
        both = two_way_outputs(decoder, ids, [3, 2])[:3]
        others = two_way_outputs(decoder, ids[[0, 1, 4]], [3])
    except (ValueError, TypeError, RuntimeError):
        alone = both = others = torch.zeros(3, 1)
    scale = _SAME * float(alone[0].norm())
    if float((both - alone)[0].norm()) > scale or float((others - alone)[0].norm()) <= scale:
        raise UserError(
            f"the layers of target {target.name} take no mask that lets a token see those behind "
            "it, so no dlm can be made of them; choose another drafter."
        )


def two_way_outputs(
    decoder: Any, ids: torch.Tensor, lengths: Sequence[int], cache: KVCache | None = None
) -> torch.Tensor:
    """What the LM head reads, every row having seen all rows of its sequence.

    Args:
        decoder: of a transformers causal LM.
        ids: ``[T]``, sequences end to end.
        lengths: tokens of each.
        cache: rows of the first sequence's first tokens, which are not read again; the others'
            are added to it.

    Returns:
        ``[T, D]``, or fewer by the rows that were in the cache.
    """
    dtype = decoder.get_input_embeddings().weight.dtype
    past = 0 if cache is None else cache.length
    inputs = two_way_inputs(decoder.config, lengths, ids.device, dtype, past)
    output = decoder(
        input_ids=ids[None, past:], past_key_values=cache, use_cache=cache is not None, **inputs
    )
    return output.last_hidden_state[0]


class AdaptedTarget:
    """The target's own layers, changed, seeing both ways; under the target's LM head."""

    def __init__(self, decoder: Any, target: TransformersTarget, *, shifted: bool) -> None:
        self.num_parameters = sum(item.numel() for item in decoder.parameters())
        self._decoder = decoder.eval()
        self._head, self._scales = DraftHead(target, None), measured_scales(target)
        self._shifted = shifted
        if can_pack(decoder):
            pack_linear_layers(decoder)

    def new_cache(self) -> KVCache:
        """See `Denoiser`."""
        return KVCache(self._decoder.config.num_hidden_layers, 0)

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, count: int, cache: KVCache | None = None) -> torch.Tensor:
        """See `Denoiser`."""
        length = ids.shape[0]
        if cache is not None:
            cache.reserve(-(-length // _ROOM) * _ROOM)
        hidden = two_way_outputs(self._decoder, ids, [length], cache)
        if cache is not None:
            cache.rewind(length - count - 1)
        rows = hidden[answer_rows(len(hidden), count, shifted=self._shifted)]
        return scaled(self._head.logits(rows), self._scales)


class PretrainedModel:
    """A model that comes with code of its own, which sees both ways by itself."""

    def __init__(self, model: Any, *, shifted: bool, vocab_size: int) -> None:
        """``vocab_size`` is the target's: columns behind it are no tokens of the target's."""
        self.num_parameters = sum(item.numel() for item in model.parameters())
        self._model = model
        self._shifted = shifted
        self._vocab_size = vocab_size

    def new_cache(self) -> None:
        """See `Denoiser`."""

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor, count: int, cache: KVCache | None = None) -> torch.Tensor:
        """See `Denoiser`."""
        logits = self._model(input_ids=ids[None]).logits[0]
        rows = answer_rows(ids.shape[0], count, shifted=self._shifted)
        return logits[rows, : self._vocab_size]
