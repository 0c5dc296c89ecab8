"""A plug-in with a drafter that policies can be put over; loaded behind `my_counter`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from my_counter import VOCAB, ToyDrafter, follower

from drafters.base import Marginals, Proposal
from harness.registry import Entry

DRAFTERS = {"believer": Entry("my_marginals:Believer", "often right at its second guess")}


class Believer(ToyDrafter):
    """Holds the right token for best at depths 1 and 3, for second best at depth 2."""

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        return Proposal.chain(self.marginals(prefix_ids, pending, budget).logits.argmax(-1))

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        depth = min(self.max_nodes, budget)
        logits = torch.zeros(depth, VOCAB)
        token = pending
        for row in range(depth):
            token = follower(token)
            logits[row, token] = 8.0
            logits[row, (token + 1) % VOCAB] = 7.0 if row % 2 == 0 else 9.0
        return Marginals(logits)
