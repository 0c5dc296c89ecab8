"""Adaptive draft length: as long as drafts were lately, and longer where all of them was accepted.

After each round two running means are taken: of the tokens that the draft itself came to before a
stop token, and of those that were accepted. The next draft is as long as the first mean, and
``delta`` longer where the second has caught up with it.

It looks at the raw draft, before any other policy chose from it: over ``cps`` it has nothing to
look at, so write ``dlm+adl+cps``.

Source: DiffuSpec, arXiv 2510.02358, Eq. 9-11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from drafters.base import Drafter, MarginalDrafter, Marginals, Proposal
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import Policy, recorded, require_marginals
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``adl``.

    A length of 0 follows from the drafter's longest draft in the proportions of the paper, whose
    k_min, k_max and δ are 20, 30 and 10: two thirds of it, all of it, one third.
    """

    k_min: int = 0
    """Shortest draft."""
    k_max: int = 0
    """Longest draft, and the first one."""
    delta: int = 0
    """Tokens by which a draft grows (δ)."""
    rho: float = 0.5
    """Share of the last round in the running means (ρ)."""

    def __post_init__(self) -> None:
        for name in ("k_min", "k_max", "delta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.rho <= 1:
            raise ValueError(f"rho must be above 0 and at most 1, not {self.rho:g}")

    def lengths(self, longest: int) -> tuple[int, int, int]:
        """k_min, k_max and δ in front of a drafter of at most ``longest`` tokens.

        Raises:
            ValueError: they do not fit it, or each other.
        """
        k_max = self.k_max or longest
        k_min = self.k_min or max(1, round(k_max * 2 / 3))
        if k_max > longest:
            raise ValueError(
                f"k_max is {k_max} and the drafter drafts {longest} tokens at most; lower it or "
                f"write --block-size {k_max + 1}"
            )
        if k_min > k_max:
            raise ValueError(f"k_min is {k_min} and above k_max, {k_max}")
        return k_min, k_max, self.delta or max(1, round(k_max / 3))


def build(
    inner: Drafter, target: Target, options: DrafterOptions, policy: PolicyOptions
) -> AdaptiveLength:
    """A length chosen round by round in front of ``inner``.

    Raises:
        UserError: a setting it cannot have, or a drafter without marginals.
    """
    settings = policy.read(Settings)
    drafter = require_marginals(inner, options, policy)
    try:
        lengths = settings.lengths(drafter.max_nodes)
    except ValueError as error:
        raise UserError(f"policy {policy}: {error}.") from error
    made = AdaptiveLength(drafter, lengths, settings.rho, target.stop_ids)
    resolved = dict(zip(("k_min", "k_max", "delta"), lengths, strict=True))
    return recorded(made, policy, {**resolved, "rho": settings.rho})


class AdaptiveLength(Policy):
    """See `drafters.base.MarginalDrafter`: the drafter's own draft, cut to the length of the round.

    A drafter that fills as many masks as tokens are wanted has less to do; any other only proposes
    less.
    """

    def __init__(
        self,
        inner: MarginalDrafter,
        lengths: tuple[int, int, int],
        rho: float,
        stop_ids: frozenset[int],
    ) -> None:
        """``lengths`` are k_min, k_max and δ."""
        super().__init__(inner)
        self.draft = inner.draft
        self._k_min, self._k_max, self._delta = lengths
        self.max_nodes = self._k_max
        self._rho = rho
        self._stop_ids = stop_ids
        self._forget()

    def _forget(self) -> None:
        self._length = self._k_max
        self._mean_generated = self._mean_accepted = 0.0
        self._draft = torch.empty(0, dtype=torch.int64)

    @property
    def length(self) -> int:
        """Most tokens of the next draft."""
        return self._length

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Begin with the longest draft."""
        self._forget()
        super().start(prompt_ids, features, sampling)

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """The drafter's chain, no longer than this round's length."""
        proposal = self.inner.propose(prefix_ids, pending, min(budget, self._length))
        self._draft = proposal.tokens
        return proposal

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        """The drafter's, no more than this round's length."""
        found = self.inner.marginals(prefix_ids, pending, min(budget, self._length))
        self._draft = found.token_ids(best_tokens(found.logits))
        return found

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Set the length of the next round."""
        # Read here: the round has been waited for anyhow.
        draft = self._draft.tolist()
        stops = (place for place, token in enumerate(draft) if token in self._stop_ids)
        generated = next(stops, len(draft))
        rho = self._rho
        self._mean_generated = (1 - rho) * self._mean_generated + rho * generated
        self._mean_accepted = (1 - rho) * self._mean_accepted + rho * verdict.accepted
        grown = self._delta if self._mean_accepted >= self._mean_generated else 0
        wanted = math.floor(self._mean_generated) + grown
        self._length = min(max(wanted, self._k_min), self._k_max)
        super().observe(verdict, features)

    def reset(self) -> None:
        """Forget the prompt."""
        self._forget()
        super().reset()
