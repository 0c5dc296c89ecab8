"""What a drafter keeps of the committed tokens, and the blocks it reads behind them.

Source: DFlash, arXiv 2602.06036; positions and cache as in its public implementation.

Shapes: B blocks, K block size, L rows, D hidden, F features, G key/value heads, E head size.
"""

from __future__ import annotations

import torch

from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.span import Span

_GROWTH = 512
"""Rows by which the context grows."""


class LayerCache:
    """Keys and values of one layer: committed tokens, then a block in flight."""

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

    def rows(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of rows ``start … end − 1``."""
        return self.keys[:, :, start:end], self.values[:, :, start:end]


class Context:
    """The committed tokens in every layer of a drafter."""

    def __init__(self, model: BlockDiffusionModel) -> None:
        """``model`` where it stays, in the dtype it keeps."""
        self._model = model
        self._caches = [LayerCache() for _ in model.layers]
        self._spans = {layer.span for layer in model.stack()}
        self._tables: tuple[torch.Tensor, torch.Tensor] = (torch.empty(0), torch.empty(0))
        self.length = 0

    def clear(self) -> None:
        """Forget the tokens; the buffers stay."""
        self.length = 0

    @torch.inference_mode()
    def extend(self, features: torch.Tensor | None) -> None:
        """Keys and values of newly committed tokens ``[L, F]``, once, in every layer."""
        assert features is not None
        end = self.length + features.shape[0]
        cos, sin = self._positions(self.length, end)
        context = self._model.context(features[None])
        for layer, cache in zip(self._model.stack(), self._caches, strict=True):
            cache.write(self.length, *layer.self_attn.keys_values(context, cos, sin))
        self.length = end

    @torch.inference_mode()
    def outputs(self, noise: torch.Tensor) -> torch.Tensor:
        """Outputs ``[B, K, D]`` of blocks ``[B, K, D]`` that all stand behind the context.

        A block sees the context and itself. One block's keys and values stand behind the
        context's for the pass; several read it together, and it is not copied for them.

        Raises:
            ValueError: several blocks, and a layer that does not see everything.
        """
        num_blocks, size, _ = noise.shape
        cos, sin = self._positions(self.length, self.length + size)
        views = {span: span.view(self.length, size, cos.device) for span in self._spans}
        x = noise
        for layer, cache in zip(self._model.stack(), self._caches, strict=True):
            h, correction = layer.enter(x)
            attention = layer.self_attn
            own = attention.keys_values(h, cos, sin)
            queries = attention.queries(h, cos, sin)
            first, seen = views[layer.span]
            if num_blocks == 1:
                cache.write(self.length, *own)
                keys, values = cache.rows(first, self.length + size)
                attended = attention.attend_cached(queries, keys, values, seen)
            elif layer.span == Span():
                attended = attention.attend_branches(queries, cache.rows(0, self.length), own)
            else:
                raise ValueError("sliding and causal layers read one block at a time")
            x = layer.finish(x, attended, correction)
        return self._model.norm(x)

    def _positions(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows ``start … end − 1`` of the rotary tables, which grow as needed."""
        if self._tables[0].ndim < 4 or self._tables[0].shape[2] < end:
            like = self._model.norm.weight
            rows = torch.arange(-(-end // _GROWTH) * _GROWTH, device=like.device)
            self._tables = self._model.rope(rows[None], like)
        cos, sin = self._tables
        return cos[:, :, start:end], sin[:, :, start:end]
