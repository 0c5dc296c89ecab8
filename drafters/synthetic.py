"""An acceptance rate you choose: tests the harness without weights, and bounds what drafting buys.

It is NOT a drafter anybody could use: it is shown the answer before it drafts. Tables must mark it
as an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from drafters.base import Proposal
from drafters.options import DrafterOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import Target

DEFAULT_BLOCK_SIZE = 8


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    _rate(options)


def _rate(options: DrafterOptions) -> float:
    try:
        rate = float(options.argument or "")
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1:
        raise UserError("synthetic needs a rate between 0 and 1; write for example synthetic=0.8.")
    return rate


def build(target: Target, options: DrafterOptions) -> SyntheticDrafter:
    """``synthetic=RATE``: the probability that a draft token is the answer's own.

    Raises:
        UserError: no rate in [0, 1], a sampled draft, or a block without room for a draft token.
    """
    rate = _rate(options)
    if options.draft == "sample":
        raise UserError(
            "synthetic has no distribution to sample from; leave draft at None or argmax."
        )
    block_size = DEFAULT_BLOCK_SIZE if options.block_size is None else options.block_size
    if block_size < 2:
        raise UserError(f"synthetic needs a block size of at least 2, not {block_size}.")
    return SyntheticDrafter(target.device, target.vocab_size, rate, block_size)


class SyntheticDrafter:
    """Proposes the answer's tokens, each right with the chosen probability, else another token.

    It is a `drafters.base.Oracle`: the runner calls `prepare` before each answer, outside the
    clock, with what ``ar_loop`` wrote on the same prompt. Drafting then costs next to nothing, so
    its speed is an upper bound for any drafter of that acceptance and block size. The recorded
    answer is followed by position; past its end nothing is proposed.
    """

    oracle: Literal[True] = True
    feature_layers: tuple[int, ...] = ()
    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(
        self, device: torch.device | str, vocab_size: int, rate: float, block_size: int
    ) -> None:
        self.block_size: int | None = block_size
        self.max_nodes: int = block_size - 1
        self._device = device
        self._vocab_size = vocab_size
        self._rate = rate
        self._known: tuple[list[int], list[int]] | None = None
        self._drafts: list[int] = []
        self._prompt_length = 0

    def prepare(self, prompt_ids: Sequence[int], continuation: Sequence[int]) -> None:
        """Learn what ``ar_loop`` answered to the prompt that `start` will bring."""
        self._known = (list(prompt_ids), list(continuation))

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Draw once, for the whole answer, which positions will be wrong.

        Raises:
            ValueError: `prepare` was not called for this prompt.
        """
        prompt = prompt_ids.tolist()
        if self._known is None or self._known[0] != prompt:
            raise ValueError("synthetic must be prepared with ar_loop's answer to this prompt")
        answer = torch.tensor(self._known[1], dtype=torch.int64)
        generator = sampling.generator("draft")
        right = torch.rand(len(answer), generator=generator, dtype=torch.float64) < self._rate
        shift = torch.randint(1, self._vocab_size, (len(answer),), generator=generator)
        drafts = torch.where(right, answer, (answer + shift) % self._vocab_size)
        self._drafts = drafts.tolist()
        self._prompt_length = len(prompt)

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """The drafts for the positions after ``pending``."""
        begin = len(prefix_ids) + 1 - self._prompt_length
        tokens = self._drafts[begin : begin + min(budget, self.max_nodes)]
        return Proposal.chain(torch.tensor(tokens, dtype=torch.int64, device=self._device))

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Nothing to learn."""

    def reset(self) -> None:
        """Forget the prompt and its answer."""
        self._known = None
        self._drafts = []
