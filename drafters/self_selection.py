"""Multi-draft self-selection: chains sampled from one draft pass, checked in one target pass.

Source: SpecDiff-2, arXiv 2511.00606.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from drafters.base import Drafter, MarginalDrafter, Proposal
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import Policy, merged, recorded, require_marginals
from harness.errors import UserError
from harness.sampling import Sampling
from targets.base import Target

MOST_CHAINS = 256
"""No method's limit: more would be a slip, and a cache too large for any block size."""
CHAIN_RULES: tuple[Literal["multi_round", "select"], ...] = ("multi_round", "select")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``self_selection``."""

    chains: int = 4
    """Sampled in each round; equal ones are checked once."""
    temperature: float = 1.5
    """By which the draft is flattened before it is sampled."""
    rule: str = "multi_round"
    """How a sampling target accepts; one of `CHAIN_RULES`."""

    def __post_init__(self) -> None:
        if not 1 <= self.chains <= MOST_CHAINS:
            raise ValueError(f"chains must be from 1 to {MOST_CHAINS}, not {self.chains}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, not {self.temperature}")
        if self.rule not in CHAIN_RULES:
            raise ValueError(f"rule must be {' or '.join(CHAIN_RULES)}, not {self.rule!r}")


def build(
    inner: Drafter, target: Target, options: DrafterOptions, policy: PolicyOptions
) -> SelfSelection:
    """Chains sampled from what ``inner`` believes.

    Raises:
        UserError: a setting it cannot have, an argmax draft, or a drafter without marginals.
    """
    settings = policy.read(Settings)
    if options.draft == "argmax":
        raise UserError("self_selection samples its chains; leave draft at None or sample.")
    made = SelfSelection(
        require_marginals(inner, options, policy), target.device, target.vocab_size, settings
    )
    return recorded(made, policy, asdict(settings))


class SelfSelection(Policy):
    """See `drafters.base.Drafter`; proposes chains as one tree, shared beginnings once.

    All chains are sampled, the argmax has no place of its own. The draft's temperature replaces
    the run's, whose top-k and top-p stay. A greedy target follows its argmax through the tree,
    which is the chain that matches it longest. Above temperature 0 the rule ``multi_round`` tries
    every chain by p and the q it was drawn from, as the authors' code does by default; ``select``
    is the paper's text: one chain chosen by p, then accepted by p alone, whatever q was.
    """

    draft: Literal["argmax", "sample"] = "sample"

    def __init__(
        self,
        inner: MarginalDrafter,
        device: torch.device | str,
        vocab_size: int,
        settings: Settings,
    ) -> None:
        super().__init__(inner)
        self.max_nodes = settings.chains * inner.max_nodes
        self._settings = settings
        self._device = device
        self._vocab_size = vocab_size

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Hand the prompt on, and seed the chains."""
        super().start(prompt_ids, features, sampling)
        self._sampling = dataclasses.replace(sampling, temperature=self._settings.temperature)
        self._generator = sampling.generator("draft", self._device)

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """The chains, each position of each drawn by itself."""
        found = self.inner.marginals(prefix_ids, pending, budget)
        q = self._sampling.probs(found.logits)
        columns = torch.multinomial(
            q, self._settings.chains, replacement=True, generator=self._generator
        )
        tree = merged(found.token_ids(columns).T.tolist())
        tokens = torch.tensor(tree.tokens, dtype=torch.int64, device=self._device)
        if self._settings.rule == "select":
            return Proposal(tokens, tree.parents, "select")
        q = found.widened(q, self._vocab_size)
        return Proposal(tokens, tree.parents, "multi_round", q, tree.chains)
