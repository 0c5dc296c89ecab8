"""A trained block-diffusion drafter in the decoding loop: one pass a block, context cached.

Source: DFlash, arXiv 2602.06036; positions and cache as in its public implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from drafters.base import Marginals, Proposal
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.draft_head import DraftHead, scaled
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target
from targets.packed import can_pack, pack_linear_layers
from targets.transformers_lm import TransformersTarget

_GROWTH = 512
"""Rows by which the context cache grows."""


def build(target: Target, options: DrafterOptions) -> BlockDiffusionDrafter:
    """The drafter of a checkpoint: the path or hub id given, or the one trained for ``target``.

    Raises:
        MissingCheckpoint: none was trained.
        UserError: the checkpoint is broken, or made for another target.
    """
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {target.name} shares no embedding and LM head with a drafter.")
    found = checkpoint.load(checkpoint.find(options.name, options.argument, target.name), target)
    block_size = options.block_size or found.model.config.block_size
    if block_size < 2:
        raise UserError(f"--block-size {block_size} leaves nothing to draft; give at least 2.")
    draft = options.draft or ("argmax" if options.greedy else "sample")
    return BlockDiffusionDrafter(
        found.model,
        target,
        block_size,
        draft,
        vocabulary=found.vocabulary if options.draft_vocab == "trained" else None,
        checkpoint=found.describe(),
    )


class ContextCache:
    """Keys and values of one layer: committed tokens, then the block in flight."""

    def __init__(self) -> None:
        self.keys = self.values = torch.empty(0)

    def reserve(self, rows: int, like: torch.Tensor) -> None:
        """Make room for ``rows`` rows, keeping what is there; ``like`` is ``[1, G, L, E]``."""
        have = self.keys.shape[2] if self.keys.ndim == 4 else 0
        if rows <= have:
            return
        _, groups, _, head = like.shape
        size = -(-rows // _GROWTH) * _GROWTH
        for name in ("keys", "values"):
            fresh = like.new_zeros((1, groups, size, head))
            if have:
                fresh[:, :, :have] = getattr(self, name)
            setattr(self, name, fresh)

    def write(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put rows ``[1, G, L, E]`` at ``start``."""
        end = start + keys.shape[2]
        self.reserve(end, keys)
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values


class BlockDiffusionDrafter:
    """See `drafters.base.Drafter`; proposes a chain of ``block_size − 1`` tokens."""

    def __init__(
        self,
        model: BlockDiffusionModel,
        target: TransformersTarget,
        block_size: int,
        draft: Literal["argmax", "sample"] = "argmax",
        *,
        vocabulary: torch.Tensor | None = None,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        config = model.config
        self.model = model.to(device=target.device, dtype=target.dtype).eval()
        self.block_size = block_size
        self.max_nodes = block_size - 1
        self.feature_layers = config.target_layer_ids
        self.checkpoint = checkpoint
        self.draft = draft
        if can_pack(self.model):
            pack_linear_layers(self.model)
        self.draft_vocab_size = None if vocabulary is None else len(vocabulary)
        self.head = DraftHead(target, vocabulary)
        self._embedding = target.embed_tokens.weight.detach()
        ids = torch.full((block_size,), config.mask_token_id, device=target.device)
        self._noise = self._embedding[ids] * config.input_embedding_scale
        self._caches = [ContextCache() for _ in model.layers]
        self._spans = {layer.span for layer in model.stack()}
        self._tables: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))
        self.reset()

    def reset(self) -> None:
        """Forget the prompt; the buffers stay."""
        self._length = 0
        self._sampling = Sampling()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Read the prompt's features into the context."""
        self.reset()
        self._sampling = sampling
        self._generator = sampling.generator("draft", self._noise.device)
        self._extend(features)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Add the pending token and the accepted ones to the context."""
        self._extend(features)

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """A token at each position by itself; DFlash 2 chooses each behind the one before it."""
        hidden = self._drafts(prefix_ids, pending, budget)
        found = self._read(hidden)
        selector = self.model.candidate_selector
        if selector is not None and self.draft == "argmax":
            return Proposal.chain(selector.best_chain(hidden, found, pending))
        if selector is not None:
            temperature = self._sampling.temperature
            return Proposal.chain(
                *selector.sampled_chain(hidden, found, pending, temperature, self._generator)
            )
        if self.draft == "argmax":
            return Proposal.chain(found.token_ids(best_tokens(found.logits)))
        q = self._sampling.probs(found.logits)
        columns = torch.multinomial(q, 1, generator=self._generator)[:, 0]
        return Proposal.chain(found.token_ids(columns), self.head.widen(q))

    @torch.inference_mode()
    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        """One pass over ``[pending, mask, …]``; offsets past ``budget`` are not decoded.

        Of DFlash 2 these are the base logits: its choice among them depends on the token before,
        so it has no marginals of its own, and a policy put over it makes that choice instead.
        """
        return self._read(self._drafts(prefix_ids, pending, budget))

    def _drafts(self, prefix_ids: Sequence[int], pending: int, budget: int) -> torch.Tensor:
        """Outputs ``[n, D]`` at the draft positions within ``budget``."""
        if len(prefix_ids) != self._length:
            raise ValueError(f"context has {self._length} rows for {len(prefix_ids)} tokens")
        return self._block(pending)[1 : min(self.block_size, budget + 1)]

    def _read(self, hidden: torch.Tensor) -> Marginals:
        logits = scaled(self.head.logits(hidden), self.model.config)
        return Marginals(logits, self.head.vocabulary)

    @torch.inference_mode()
    def _extend(self, features: torch.Tensor | None) -> None:
        """Keys and values of newly committed tokens ``[L, F]``, once, in every layer."""
        assert features is not None
        end = self._length + features.shape[0]
        cos, sin = self._positions(self._length, end)
        context = self.model.context(features[None])
        for layer, cache in zip(self.model.stack(), self._caches, strict=True):
            cache.write(self._length, *layer.self_attn.keys_values(context, cos, sin))
        self._length = end

    def _block(self, pending: int) -> torch.Tensor:
        """Outputs ``[K, D]``; the block's keys and values stand behind the context for one pass."""
        end = self._length + self.block_size
        cos, sin = self._positions(self._length, end)
        views = {s: s.view(self._length, self.block_size, cos.device) for s in self._spans}
        x = self._noise.clone()
        x[0] = self._embedding[pending] * self.model.config.input_embedding_scale
        x = x[None]
        for layer, cache in zip(self.model.stack(), self._caches, strict=True):
            h, correction = layer.enter(x)
            attention = layer.self_attn
            cache.write(self._length, *attention.keys_values(h, cos, sin))
            queries = attention.queries(h, cos, sin)
            first, seen = views[layer.span]
            keys, values = cache.keys[:, :, first:end], cache.values[:, :, first:end]
            attended = attention.attend_cached(queries, keys, values, seen)
            x = layer.finish(x, attended, correction)
        return self.model.norm(x)[0]

    def _positions(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``start … end − 1`` of the rotary tables, which grow as needed."""
        if self._tables[0].ndim < 4 or self._tables[0].shape[2] < end:
            rows = torch.arange(-(-end // _GROWTH) * _GROWTH, device=self._noise.device)
            self._tables = self.model.rope(rows[None], self._noise)
        cos, sin = self._tables
        return cos[:, :, start:end], sin[:, :, start:end]
