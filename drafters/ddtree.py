"""Draft trees: of everything a draft pass says, the likeliest prefixes go to the target at once.

Source: DDTree, arXiv 2604.12989.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Literal, NamedTuple

import torch

from drafters.base import Drafter, MarginalDrafter, Proposal
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import Policy, recorded, require_marginals
from harness.errors import UserError
from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``ddtree``."""

    budget: int = 16
    """Nodes of a tree, the pending token not counted.

    The least of the paper's: on a CPU a row costs time. Its best on a large GPU are 256 and 512.
    """

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget must be at least 1, not {self.budget}")


def build(
    inner: Drafter, target: Target, options: DrafterOptions, policy: PolicyOptions
) -> DraftTree:
    """Trees from what ``inner`` believes.

    Raises:
        UserError: a setting it cannot have, a sampled draft, or a drafter without marginals.
    """
    settings = policy.read(Settings)
    if options.draft == "sample":
        raise UserError(
            "ddtree takes the likeliest tokens and samples none; leave draft at None or argmax."
        )
    made = DraftTree(require_marginals(inner, options, policy), settings.budget)
    return recorded(made, policy, asdict(settings))


class Prefix(NamedTuple):
    """A node of the tree, or one that may become it; sorts by likelihood, then by ranks."""

    cost: float
    """Minus its log-probability: the sum over its tokens, each drawn by itself."""
    ranks: tuple[int, ...]
    """Of its tokens among the best of their depths, 0 for the best."""
    parent: int
    """Place of its parent among the nodes, -1 at depth 1."""
    cost_above: float
    """Of its parent."""


class DraftTree(Policy):
    """See `drafters.base.Drafter`; proposes the ``budget`` likeliest prefixes of a draft.

    They are the tree of that many nodes with the longest accepted path, as the drafter expects it
    (Proposition 2). Likelihood is the softmax of the drafter's logits as they are: the run's
    temperature, top-k and top-p are the target's, which draws its own token at every node.
    """

    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(self, inner: MarginalDrafter, budget: int) -> None:
        super().__init__(inner)
        self.max_nodes = budget

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """A tree as deep as the draft at most, in the order of likelihood."""
        found = self.inner.marginals(prefix_ids, pending, budget)
        logits = found.logits.float()
        # A prefix with a token of rank r is beaten by the r that have a better one in its place.
        best = logits.topk(min(self.max_nodes, logits.shape[1]), dim=-1)
        log_probs = best.values - logits.logsumexp(-1, keepdim=True)
        # One transfer: a double holds a token id as well as a float32 without loss.
        both = torch.stack((log_probs.double(), found.token_ids(best.indices).double()))
        host, ids = both.tolist()
        nodes = likeliest_prefixes(host, self.max_nodes)
        tokens = [int(ids[len(node.ranks) - 1][node.ranks[-1]]) for node in nodes]
        return Proposal(
            torch.tensor(tokens, dtype=torch.int64, device=logits.device),
            tuple(node.parent for node in nodes),
        )


def likeliest_prefixes(log_probs: Sequence[Sequence[float]], count: int) -> list[Prefix]:
    """The ``count`` likeliest prefixes, or all there are, likeliest first; a tree in that order.

    Args:
        log_probs: at each depth the log-probabilities of its best tokens, descending; ``count``
            of them are enough.
        count: nodes of the tree.

    Source: arXiv 2604.12989, Algorithm 1.
    """
    found: list[Prefix] = []
    heap = [Prefix(-log_probs[0][0], (0,), -1, 0.0)] if log_probs else []
    while heap and len(found) < count:
        node = heappop(heap)
        depth, rank = len(node.ranks), node.ranks[-1] + 1
        if rank < len(log_probs[depth - 1]):
            cost = node.cost_above - log_probs[depth - 1][rank]
            heappush(heap, Prefix(cost, (*node.ranks[:-1], rank), node.parent, node.cost_above))
        if depth < len(log_probs):
            cost = node.cost - log_probs[depth][0]
            heappush(heap, Prefix(cost, (*node.ranks, 0), len(found), node.cost))
        found.append(node)
    return found
