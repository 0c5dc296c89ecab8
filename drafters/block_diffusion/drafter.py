"""A trained block-diffusion drafter in the decoding loop: one pass a block, context cached.

Source: DFlash, arXiv 2602.06036.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from drafters.base import Marginals, Proposal
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.context import Context
from drafters.block_diffusion.draft_head import DraftHead, scaled
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target
from targets.packed import can_pack, pack_linear_layers
from targets.transformers_lm import TransformersTarget


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    checkpoint.check(options.name, options.argument, target_name)


def build(target: Target, options: DrafterOptions) -> BlockDiffusionDrafter:
    """The drafter of a checkpoint: the path or hub id given, or the one trained for ``target``.

    Raises:
        MissingCheckpoint: none was trained.
        UserError: the checkpoint is broken, or made for another target.
    """
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {target.name} shares no embedding and LM head with a drafter.")
    found = checkpoint.load(checkpoint.find(options.name, options.argument, target.name), target)
    recommended = (found.training or {}).get("recommended_block_size", {})
    block_size = (
        options.block_size
        or recommended.get(target.device.type, {}).get("block_size")
        or found.model.config.block_size
    )
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
        self._context = Context(self.model)
        self.reset()

    def reset(self) -> None:
        """Forget the prompt; the buffers stay."""
        self._context.clear()
        self._sampling = Sampling()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Read the prompt's features into the context."""
        self.reset()
        self._sampling = sampling
        self._generator = sampling.generator("draft", self._noise.device)
        self._context.extend(features)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Add the pending token and the accepted ones to the context."""
        self._context.extend(features)

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
        self._require(prefix_ids)
        return self._block(pending)[1 : min(self.block_size, budget + 1)]

    def _read(self, hidden: torch.Tensor) -> Marginals:
        return Marginals(self._logits(hidden), self.head.vocabulary)

    @torch.inference_mode()
    def continuations(
        self, prefix_ids: Sequence[int], pending: int, chain: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        """Chains that begin as ``chain`` does and go on with the best tokens: one pass for all.

        Args:
            prefix_ids: as in `propose`.
            pending: as in `propose`.
            chain: ``[n]`` tokens behind ``pending``, n below the block size.
            kept: ``[B]`` int64, how many of them each chain keeps and shows the drafter; below n.

        Returns:
            ``[B, n]``.
        """
        self._require(prefix_ids)
        n = chain.shape[0]
        masked = torch.arange(n, device=chain.device) >= kept[:, None]
        noise = self._noise.repeat(kept.shape[0], 1, 1)
        noise[:, 0] = self._embedding[pending] * self.model.config.input_embedding_scale
        shown = self._embedding[chain] * self.model.config.input_embedding_scale
        noise[:, 1 : n + 1] = torch.where(masked[..., None], noise[:, 1 : n + 1], shown)
        # Rows that nobody reads would cost the head more than a GPU's waiting here.
        hidden = self._context.outputs(noise)[:, 1 : n + 1][masked]
        tokens = self.head.token_ids(best_tokens(self._logits(hidden)))
        return chain.expand(kept.shape[0], -1).masked_scatter(masked, tokens)

    def _block(self, pending: int) -> torch.Tensor:
        """Outputs ``[K, D]`` of the block that begins with ``pending``."""
        x = self._noise.clone()
        x[0] = self._embedding[pending] * self.model.config.input_embedding_scale
        return self._context.outputs(x[None])[0]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return scaled(self.head.logits(hidden), self.model.config)

    def _require(self, prefix_ids: Sequence[int]) -> None:
        have = self._context.length
        if len(prefix_ids) != have:
            raise ValueError(f"context has {have} rows for {len(prefix_ids)} tokens")
