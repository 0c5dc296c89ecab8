"""Prompt lookup: repeats what followed the most recent occurrence of the last n-gram.

Source: Saxena, "Prompt Lookup Decoding" (2023); the idea only.
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
LONGEST_NGRAM = 3


def check(options: DrafterOptions, target_name: str) -> None:
    """See `drafters.build.check_drafter`."""
    if options.argument is not None:
        raise UserError(
            f"ngram takes no argument; write ngram instead of ngram={options.argument}."
        )


def build(target: Target, options: DrafterOptions) -> NgramDrafter:
    """Prompt lookup with blocks of ``options.block_size`` tokens.

    Raises:
        UserError: an argument, a sampled draft, or a block without room for a draft token.
    """
    check(options, target.name)
    if options.draft == "sample":
        raise UserError(
            "ngram looks its draft up and cannot sample it; leave draft at None or argmax."
        )
    block_size = DEFAULT_BLOCK_SIZE if options.block_size is None else options.block_size
    if block_size < 2:
        raise UserError(f"ngram needs a block size of at least 2, not {block_size}.")
    return NgramDrafter(target.device, block_size)


class NgramDrafter:
    """Looks up the longest suffix of 3, 2, then 1 tokens; a round costs its own tokens only."""

    feature_layers: tuple[int, ...] = ()
    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(self, device: torch.device | str, block_size: int = DEFAULT_BLOCK_SIZE) -> None:
        self.block_size: int | None = block_size
        self.max_nodes: int = block_size - 1
        self._device = device
        self.reset()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Index the prompt."""
        self.reset()
        self._read(prompt_ids.tolist())

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """What followed the last n-gram when it was last seen; nothing when it is new."""
        self._read([*prefix_ids[len(self._ids) :], pending])
        begin = self._continuation()
        end = min(begin + self.max_nodes, begin + budget)
        tokens = torch.tensor(self._ids[begin:end], dtype=torch.int64, device=self._device)
        return Proposal.chain(tokens)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """The committed tokens arrive with the next prefix."""

    def reset(self) -> None:
        """Forget the prompt."""
        self._ids: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}

    def _read(self, ids: Sequence[int]) -> None:
        """Append tokens; an n-gram is indexed once its follower is known, the latest wins."""
        for token in ids:
            here = len(self._ids)
            for size in range(1, min(LONGEST_NGRAM, here) + 1):
                self._followers[tuple(self._ids[here - size :])] = here
            self._ids.append(token)

    def _continuation(self) -> int:
        """Where the continuation begins; the end of the text when there is none."""
        for size in range(min(LONGEST_NGRAM, len(self._ids)), 0, -1):
            place = self._followers.get(tuple(self._ids[-size:]))
            if place is not None:
                return place
        return len(self._ids)
