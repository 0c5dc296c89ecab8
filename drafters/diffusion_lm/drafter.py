"""A masked-diffusion LM drafts: prefix, pending token and masks in, a token at every mask out.

It reads no features of the target. A token's keys change with what stands behind it, so an exact
draft is a pass over the whole prefix. A model on the target's own layers keeps them as they were
when the token was committed instead, with masks behind it: a pass then reads the last round's
tokens, the pending one and the masks, as a block-diffusion drafter's does. A published model brings
its own code, without such a cache, and reads everything at every round: behind L tokens it costs
about 2 · parameters · (L + 1 + k) operations for k drafts.

Source: DiffuSpec, arXiv 2510.02358; SpecDiff, arXiv 2408.05636, with one denoising step; keys of
the prefix kept between passes, Fast-dLLM, arXiv 2505.22618.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from drafters.base import Marginals, Proposal
from drafters.block_diffusion.checkpoint import check as require_checkpoint
from drafters.block_diffusion.checkpoint import find
from drafters.diffusion_lm import checkpoint
from drafters.diffusion_lm.denoiser import Denoiser
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target
from targets.transformers_lm import TransformersTarget


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    require_checkpoint(checkpoint.NAME, options.argument, target_name, checkpoint.shape_of)


def build(target: Target, options: DrafterOptions) -> DiffusionDrafter:
    """The drafter of a checkpoint: the path or hub id given, or the one trained for ``target``.

    Raises:
        MissingCheckpoint: none was trained.
        UserError: the checkpoint is broken, or does not fit the target.
    """
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {target.name} shares no weights or tokenizer with a drafter.")
    found = checkpoint.load(find(checkpoint.NAME, options.argument, target.name), target)
    block_size = options.block_size or found.block_size
    if block_size < 2:
        raise UserError(f"--block-size {block_size} leaves nothing to draft; give at least 2.")
    return DiffusionDrafter(
        found.denoiser,
        target,
        found.mask_token_id,
        block_size,
        options.draft or ("argmax" if options.greedy else "sample"),
        checkpoint=found.describe(),
    )


class DiffusionDrafter:
    """See `drafters.base.Drafter`; proposes a chain of ``block_size − 1`` tokens."""

    feature_layers: tuple[int, ...] = ()

    def __init__(
        self,
        denoiser: Denoiser,
        target: TransformersTarget,
        mask_token_id: int,
        block_size: int,
        draft: Literal["argmax", "sample"] = "argmax",
        *,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        self.block_size: int | None = block_size
        self.max_nodes: int = block_size - 1
        self.draft: Literal["argmax", "sample"] = draft
        self.checkpoint = checkpoint
        self._denoiser = denoiser
        self._device = target.device
        self._vocab_size = target.vocab_size
        self._mask_token_id = mask_token_id
        self._cache = denoiser.new_cache()
        self.reset()

    def reset(self) -> None:
        """Forget the prompt; the buffers stay."""
        if self._cache is not None:
            self._cache.rewind(0)
        self._sampling = Sampling()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Take the rules; the prompt comes with the prefix."""
        self.reset()
        self._sampling = sampling
        self._generator = sampling.generator("draft", self._device)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """The committed tokens arrive with the next prefix."""

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """A token at each position by itself."""
        found = self.marginals(prefix_ids, pending, budget)
        if self.draft == "argmax":
            return Proposal.chain(found.token_ids(best_tokens(found.logits)))
        q = self._sampling.probs(found.logits)
        tokens = torch.multinomial(q, 1, generator=self._generator)[:, 0]
        missing = self._vocab_size - q.shape[1]
        return Proposal.chain(tokens, torch.nn.functional.pad(q, (0, missing)))

    @torch.inference_mode()
    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        """One pass over ``[…prefix, pending, mask, …]``, a mask for each token that is wanted.

        Raises:
            ValueError: the prefix is shorter than that of the round before.
        """
        count = min(self.max_nodes, budget)
        if self._cache is not None and self._cache.length > len(prefix_ids):
            raise ValueError(f"{self._cache.length} rows are kept of {len(prefix_ids)} tokens")
        ids = torch.tensor(
            [*prefix_ids, pending, *[self._mask_token_id] * count], device=self._device
        )
        logits = self._denoiser.logits(ids, count, self._cache)
        # A model with fewer rows than the target has the target's first tokens.
        known = logits.shape[1]
        whole = known == self._vocab_size
        return Marginals(logits, None if whole else torch.arange(known, device=self._device))
