"""The block-diffusion drafter network (DFlash, arXiv 2602.06036, App. A.3).

Features of the target's verified prefix become context keys and values in every layer; one pass
fills a block that starts with a clean token and goes on in masks. Embedding and LM head are the
target's own and are not part of this module.

Shapes: N blocks, K block size, T context rows of all sequences of a batch, L rows, D hidden,
F features, H query heads, G key/value heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from drafters.block_diffusion.block_attention import BlockLayout
from drafters.block_diffusion.candidate_selector import CandidateSelector, SelectorShape
from drafters.block_diffusion.data import Blocks
from drafters.block_diffusion.dynamic_conv import ConvShape, DynamicConv
from drafters.block_diffusion.rope import Rope, rotate
from drafters.block_diffusion.span import Span
from targets.cascade import Pair, cascade_attention

_POSITIVE = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterConfig:
    """Shape of a drafter, in the words of the DFlash ``config.json``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    vocab_size: int
    max_position_embeddings: int
    rope_parameters: dict[str, Any]
    """As in transformers 5: ``rope_type``, ``rope_theta`` and what the type needs."""
    block_size: int
    mask_token_id: int
    target_layer_ids: tuple[int, ...]
    """0-based layers of the target whose outputs are read."""
    num_target_layers: int
    input_embedding_scale: float = 1.0
    output_multiplier: float = 1.0
    final_logit_softcapping: float | None = None
    spans: tuple[Span, ...] = ()
    """Of each layer, by its type, window and causality; empty where all see everything."""
    conv: ConvShape | None = None
    """Around every sublayer in DFlash 2, None in DFlash."""
    selector: SelectorShape | None = None
    """Chooses the draft in DFlash 2, None in DFlash."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.head_dim % 2 or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("head_dim must be even, and K/V heads divide the heads")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(f"mask_token_id {self.mask_token_id} is not in the vocabulary")
        if not 2 <= self.block_size <= self.max_position_embeddings:
            raise ValueError(
                f"block_size must be from 2 to {self.max_position_embeddings}, not "
                f"{self.block_size}"
            )
        layers = self.target_layer_ids
        if not layers or list(layers) != sorted(set(layers)):
            raise ValueError(f"target_layer_ids must be distinct and ascending, not {layers}")
        if not 0 <= layers[0] <= layers[-1] < self.num_target_layers - 1:
            # The library's last hidden state is taken after the final norm.
            raise ValueError(f"target_layer_ids {layers} must lie below the target's last layer")
        if len(self.spans) not in (0, self.num_hidden_layers):
            raise ValueError(f"layer_types must name {self.num_hidden_layers} layers")
        if (self.conv is None) != (self.selector is None):
            raise ValueError("DFlash 2 has both convolutions and a selector, DFlash neither")
        if self.conv is not None and self.hidden_size % self.conv.group_size:
            raise ValueError(f"conv_group_size {self.conv.group_size} does not divide hidden_size")
        if self.selector is not None and self.selector.top_k > self.vocab_size:
            raise ValueError(f"selector_top_k {self.selector.top_k} is more than the vocabulary")


def build_target_layer_ids(num_target_layers: int, num_features: int) -> tuple[int, ...]:
    """DFlash's choice of layers: evenly spaced from the second to the third-to-last.

    Fewer than asked for, where the target has fewer there; a target of less than four layers gives
    one, below its last layer.
    """
    span = num_target_layers - 4
    num_features = min(num_features, max(1, span + 1))
    if num_features == 1:
        return (max(0, min(num_target_layers // 2, num_target_layers - 2)),)
    return tuple(round(1 + i * span / (num_features - 1)) for i in range(num_features))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 at least."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``[..., size]``."""
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class Attention(nn.Module):
    """Queries from the block; keys and values from context and block, by the same projections."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.head_dim = head
        self.q_proj = nn.Linear(width, config.num_attention_heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * head, width, bias=False)
        self.q_norm = RMSNorm(head, config.rms_norm_eps)
        self.k_norm = RMSNorm(head, config.rms_norm_eps)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (-1, self.head_dim))

    def queries(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """``[B, L, D]`` to ``[B, H, L, E]``."""
        q = self.q_norm(self._heads(self.q_proj(x))).transpose(1, 2)
        return rotate(q, cos, sin)

    def keys_values(
        self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``[B, L, D]`` of context or block to keys and values ``[B, G, L, E]``."""
        k = self.k_norm(self._heads(self.k_proj(x))).transpose(1, 2)
        return rotate(k, cos, sin), self._heads(self.v_proj(x)).transpose(1, 2)

    def attend_cached(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One block: ``[B, H, K, E]`` over ``[B, G, L, E]`` to ``[B, K, D]``.

        Args:
            q: of the block.
            keys: of all that a row of the block sees.
            values: as keys.
            seen: ``[K, L]`` bool, which row sees which; None where each sees all.
        """
        # Heads are masked alike, so those that share keys can be rows of one: keys are read once.
        stacked = q.reshape(q.shape[0], keys.shape[1], -1, q.shape[-1])
        if seen is not None:
            seen = seen.repeat(stacked.shape[2] // len(seen), 1)
        out = F.scaled_dot_product_attention(stacked, keys, values, seen).view(q.shape)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def attend_branches(self, q: torch.Tensor, context: Pair, own: Pair) -> torch.Tensor:
        """Several blocks see one context, and each itself: to ``[B, K, D]``.

        Args:
            q: ``[B, H, K, E]``.
            context: ``[1, G, L, E]`` each.
            own: ``[B, G, K, E]`` each.
        """
        out = cascade_attention(q, context, own)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[..., D]`` to itself."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """One drafter layer; DFlash 2 has a convolution around both its sublayers."""

    def __init__(self, config: DrafterConfig, index: int) -> None:
        super().__init__()
        self.span = config.spans[index] if config.spans else Span()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)
        self.attention_conv: DynamicConv | None = None
        self.mlp_conv: DynamicConv | None = None
        if config.conv is not None:
            self.attention_conv = DynamicConv(config.hidden_size, config.conv)
            self.mlp_conv = DynamicConv(config.hidden_size, config.conv)

    def enter(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What attention reads of the residual stream ``[N, K, D]``, and what `finish` takes."""
        h = self.input_layernorm(x)
        return (h, None) if self.attention_conv is None else self.attention_conv.before(h)

    def finish(
        self, x: torch.Tensor, attended: torch.Tensor, correction: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Add the attention's output and the MLP to the residual stream.

        Args:
            x: as it entered the layer.
            attended: what attention made of it.
            correction: from `enter`.
        """
        if self.attention_conv is not None and correction is not None:
            attended = self.attention_conv.after(attended, correction)
        x = x + attended
        h = self.post_attention_layernorm(x)
        if self.mlp_conv is None:
            return x + self.mlp(h)
        h, correction = self.mlp_conv.before(h)
        return x + self.mlp_conv.after(self.mlp(h), correction)


class BlockDiffusionModel(nn.Module):
    """Draft network; parameter names are those of the DFlash checkpoints."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.fc = nn.Linear(len(config.target_layer_ids) * width, width, bias=False)
        self.hidden_norm = RMSNorm(width, config.rms_norm_eps)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(width, config.rms_norm_eps)
        self.rope = Rope(config)
        self.candidate_selector: CandidateSelector | None = None
        if config.selector is not None:
            self.candidate_selector = CandidateSelector(width, config.vocab_size, config.selector)

    def stack(self) -> list[Layer]:
        """The layers, in order."""
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    def context(self, features: torch.Tensor) -> torch.Tensor:
        """Context rows ``[B, S, D]`` of target features ``[B, S, F]``."""
        return self.hidden_norm(self.fc(features))

    def drafts(
        self,
        blocks: Blocks,
        features: torch.Tensor,
        embedding: torch.Tensor,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs ``[N, K − 1, D]`` behind each block's anchor.

        Args:
            blocks: their K may differ from the model's.
            features: as in `forward`.
            embedding: ``[V, D]``, the target's.
            visible: ``[N]``, labels of each block that stand in it; masks are behind them. None
                shows none.
        """
        num_blocks, depth = blocks.labels.shape
        ids = blocks.tokens.new_full((num_blocks, depth + 1), self.config.mask_token_id)
        ids[:, 0] = blocks.tokens
        if visible is not None:
            shown = torch.arange(depth, device=ids.device) < visible[:, None]
            ids[:, 1:] = torch.where(shown, blocks.labels, ids[:, 1:])
        noise = embedding[ids] * self.config.input_embedding_scale
        outputs: torch.Tensor = self(noise, features, blocks)
        return outputs[:, 1:]

    def forward(self, noise: torch.Tensor, features: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        """Outputs ``[N, K, D]`` of many blocks of many sequences in one pass, for training.

        Args:
            noise: ``[N, K, D]`` embeddings: the anchor's token, then masks.
            features: ``[T, F]``, the target's features of all sequences, end to end.
            blocks: where they stand. A block sees the context rows of its own sequence strictly
                before its anchor, and itself in both directions.

        Raises:
            ValueError: a layer sees less than that; such drafters decode only.
        """
        if any(layer.span != Span() for layer in self.stack()):
            raise ValueError("sliding and causal layers are for decoding only, not for training")
        layout = BlockLayout(blocks, noise.shape[1], noise.device)
        c = self.context(features[None])
        far_cos, far_sin = self.rope(layout.context_positions[None], noise)
        cos, sin = self.rope(layout.block_positions[None], noise)
        x = noise
        for layer in self.stack():
            h, correction = layer.enter(x)
            h = h.flatten(0, 1)[None]
            attention = layer.self_attn
            attended = layout.attend(
                attention.queries(h, cos, sin)[0],
                attention.keys_values(c, far_cos, far_sin),
                attention.keys_values(h, cos, sin),
            )
            out = attention.o_proj(attended.transpose(0, 1).flatten(1)).view_as(x)
            x = layer.finish(x, out, correction)
        return self.norm(x)
