"""Multi-draft self-selection: chains sampled from one draft pass, the target takes its pick.

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

MOST_CHAINS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``self_selection``."""

    chains: int = 4
    """Sampled in each round; equal ones are checked once."""
    temperature: float = 1.5
    """By which the draft is flattened before it is sampled."""

    def __post_init__(self) -> None:
        if not 1 <= self.chains <= MOST_CHAINS:
            raise ValueError(f"chains must be from 1 to {MOST_CHAINS}, not {self.chains}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, not {self.temperature}")


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
    made = SelfSelection(require_marginals(inner, options, policy), target.device, settings)
    return recorded(made, policy, asdict(settings))


class SelfSelection(Policy):
    """See `drafters.base.Drafter`; proposes chains as one tree, shared beginnings once.

    All chains are sampled, the argmax has no place of its own. The draft's temperature replaces
    the run's, whose top-k and top-p stay. A greedy target follows its argmax through the tree,
    which is the chain that matches it longest. Above temperature 0 the rule is ``select`` as in the
    paper: it chooses one chain and accepts nodes of that, where ``match`` could accept any.
    """

    draft: Literal["argmax", "sample"] = "sample"

    def __init__(
        self, inner: MarginalDrafter, device: torch.device | str, settings: Settings
    ) -> None:
        super().__init__(inner)
        self.max_nodes = settings.chains * inner.max_nodes
        self._settings = settings
        self._device = device

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
        columns = torch.multinomial(
            self._sampling.probs(found.logits),
            self._settings.chains,
            replacement=True,
            generator=self._generator,
        )
        tokens, parents = merged(found.token_ids(columns).T.tolist())
        return Proposal(
            torch.tensor(tokens, dtype=torch.int64, device=self._device), parents, "select"
        )
