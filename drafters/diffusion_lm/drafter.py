"""A masked-diffusion LM drafts: prefix, pending token and masks in, a token at every mask out.

It reads no features of the target and keeps nothing between rounds: every draft is one pass over
the whole prefix, which no cache can shorten, as a token's keys change with what stands behind it.
A round of k drafts behind L tokens costs about 2 · parameters · (L + 1 + k) operations, where a
block-diffusion drafter's costs as many for 1 + k.

Source: DiffuSpec, arXiv 2510.02358; SpecDiff, arXiv 2408.05636, with one denoising step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from drafters.base import Marginals, Proposal
from drafters.block_diffusion.checkpoint import find
from drafters.diffusion_lm import checkpoint
from drafters.diffusion_lm.denoiser import Denoiser
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target
from targets.transformers_lm import TransformersTarget


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
        self.reset()

    def reset(self) -> None:
        """Forget the prompt."""
        self._sampling = Sampling()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Take the rules; the prompt comes with every prefix."""
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
        """One pass over ``[…prefix, pending, mask, …]``, a mask for each token that is wanted."""
        count = min(self.max_nodes, budget)
        ids = [*prefix_ids, pending, *[self._mask_token_id] * count]
        logits = self._denoiser.logits(torch.tensor(ids, device=self._device), count)
        # A model with fewer rows than the target has the target's first tokens.
        known = logits.shape[1]
        whole = known == self._vocab_size
        return Marginals(logits, None if whole else torch.arange(known, device=self._device))
