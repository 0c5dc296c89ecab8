"""Training objectives: one table of numbers and one pure function (arXiv 2606.11552, Eq. 7–13).

torch is imported inside the functions, so that listing the objectives stays instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

EPSILON = 1e-6
"""ε of Eq. 10, and of the weighted mean (the paper's training framework uses the same)."""

CeReduction = Literal["weighted_mean", "block_sum"]
Reward = Literal["mean", "log"]
Reduce = Callable[["torch.Tensor"], "torch.Tensor"]
"""From the denominators of some blocks to those of the whole batch they are a part of."""


def identity(denominators: torch.Tensor) -> torch.Tensor:
    """These blocks are the whole batch."""
    return denominators


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One row: what a drafter is trained on. The five published names always mean these numbers."""

    gamma: float = math.inf
    """γ of the positional weights w_k = exp(−(k−1)/γ) (Eq. 8); infinity is position-uniform."""
    alpha_focal: float = 0.0
    """Weight of the first-error focal term (Eq. 11)."""
    alpha_chain: float = 0.0
    """Weight of the chain reward (Eq. 13)."""
    ce_reduction: CeReduction = "weighted_mean"
    """``weighted_mean`` divides the cross-entropy by Σ w; ``block_sum`` is Eq. 9 to the letter,
    summed within a block and averaged over blocks. α means nothing without it."""
    alpha_ce: float = 1.0
    """Weight of the cross-entropy."""
    dpace_alpha: float | None = None
    """α of D-PACE's weights, by which the cross-entropy's are multiplied; None leaves them out."""
    ce_until_error: bool = False
    """Cross-entropy up to the first mismatch, that one included, and none behind it."""
    distill: float = 0.0
    """Share of the cross-entropy taken against the target's distribution, not its token's."""
    reward: Reward = "mean"
    """What is taken of a block's survival ρ_k: ``mean`` is Eq. 12, ``log`` is log(1 + Σ ρ_k)."""
    prefix_decay: float | None = None
    """β of a visible prefix: the drafter is shown the first l drafts of a block, Pr(l) ∝ β^l, and k
    counts from there in all terms (arXiv 2606.04446, Eq. 6–7). None shows the anchor alone."""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, not {self.gamma}")
        alphas = (self.alpha_ce, self.alpha_focal, self.alpha_chain)
        if min(alphas) < 0 or not sum(alphas) > 0:
            raise ValueError(
                "alpha_ce, alpha_focal and alpha_chain must be at least 0, and one of them above"
            )
        if self.dpace_alpha is not None and not 0 <= self.dpace_alpha <= 1:
            raise ValueError(f"dpace_alpha must be from 0 to 1, not {self.dpace_alpha}")
        if not 0 <= self.distill <= 1:
            raise ValueError(f"distill must be from 0 to 1, not {self.distill}")
        if self.prefix_decay is not None and not 0 < self.prefix_decay <= 1:
            raise ValueError(f"prefix_decay must be above 0 and at most 1, not {self.prefix_decay}")
        if self.ce_reduction not in ("weighted_mean", "block_sum"):
            raise ValueError(f"ce_reduction {self.ce_reduction!r} is unknown")
        if self.reward not in ("mean", "log"):
            raise ValueError(f"reward {self.reward!r} is unknown")

    def weights(self, depth: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Positional weights ``[depth]`` of offsets k = 1 … depth (Eq. 8), float64."""
        import torch

        offsets = torch.arange(depth, dtype=torch.float64, device=device)
        return torch.exp(-offsets / self.gamma)


FIVE: dict[str, Objective] = {
    "uniform": Objective(description="position-uniform cross-entropy (Eq. 7)"),
    "positional": Objective(gamma=10, description="positional weights, γ = 10 (Eq. 9)"),
    "focal": Objective(alpha_focal=0.3, description="first-error focal, α = 0.3 (Eq. 11)"),
    "chain": Objective(alpha_chain=40, description="chain reward, α = 40 (Eq. 12)"),
    "combined": Objective(
        gamma=10, alpha_focal=0.3, alpha_chain=40, description="all three interventions (Eq. 13)"
    ),
}
"""The rows of arXiv 2606.11552."""

OBJECTIVES: dict[str, Objective] = {
    **FIVE,
    # Its code divides by sequences, not blocks: a constant where each has as many anchors.
    "dpace": Objective(
        dpace_alpha=0.5, ce_reduction="block_sum", description="D-PACE, α = 0.5 (arXiv 2605.18810)"
    ),
    # With 15, Σ ρ_k of a block of 16; Adam hardly sees the factor.
    "streak": Objective(
        alpha_ce=0, alpha_chain=15, description="chain reward alone, as SpecDiff-2 (2511.00606)"
    ),
    "vp": Objective(
        gamma=7,
        prefix_decay=0.9,
        description="second drafter of D²SD, goes on behind a given prefix (arXiv 2606.04446)",
    ),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What an objective is made of on one batch, as sums: over parts of a batch they add up.

    Attributes:
        cross_entropy: scalar, Σ w · CE, with gradient.
        first_error: scalar, Σ w · CE at the first mismatches (Eq. 10), with gradient.
        chain_reward: scalar, Σ over blocks of the reward, with gradient.
        accepted: scalar, Σ over blocks of leading argmax matches.
        denominators: ``[3]``: Σ w of the cross-entropy, Σ w of the first mismatches, and the
            number of blocks; no gradient.
    """

    cross_entropy: torch.Tensor
    first_error: torch.Tensor
    chain_reward: torch.Tensor
    accepted: torch.Tensor
    denominators: torch.Tensor


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective's value on one batch, and what it is made of.

    Attributes:
        total: scalar, to be minimised.
        cross_entropy: scalar L_CE of Eq. 9.
        first_error: scalar L_fe of Eq. 10.
        chain_reward: scalar R_chain of Eq. 12, in [0, 1]; the mean log(1 + Σ ρ_k) where the
            objective's reward is ``log``.
        accepted: scalar; leading argmax matches per block, the training-time accepted length
            without the bonus token.
    """

    total: torch.Tensor
    cross_entropy: torch.Tensor
    first_error: torch.Tensor
    chain_reward: torch.Tensor
    accepted: torch.Tensor


def objective_loss(
    log_p: torch.Tensor,
    correct: torch.Tensor,
    valid: torch.Tensor,
    objective: Objective,
    reduce: Reduce = identity,
    soft_ce: torch.Tensor | None = None,
) -> Loss:
    """Loss of a batch of blocks (arXiv 2606.11552, Eq. 7–13).

    Args:
        log_p: ``[N, K − 1]``, log q of the ground-truth token at offsets 1 … K−1; float32 or
            float64, with gradient.
        correct: ``[N, K − 1]`` bool, whether the drafter's argmax is the ground-truth token.
        valid: ``[N, K − 1]`` bool, whether the offset carries a label. Offsets behind the first
            invalid one count in the plain cross-entropy only.
        objective: the row of numbers.
        reduce: from `Terms.denominators` of these blocks to the whole batch's; the values
            returned then add up to the whole batch's over its parts.
        soft_ce: ``[N, K − 1]`` cross-entropy against the target's distribution, with gradient;
            needed where the objective distils.

    Blocks without a valid first offset do not enter the averages over blocks; blocks without a
    mismatch contribute nothing to the focal term. The chain reward keeps K − 1 in the denominator
    where a block is cut short. A batch with no valid offset has loss zero.
    """
    terms = objective_terms(log_p, correct, valid, objective, soft_ce)
    mass, focal_mass, num_blocks = reduce(terms.denominators).unbind()
    num_blocks = num_blocks.clamp(min=1)
    weighted = objective.ce_reduction == "weighted_mean"
    cross_entropy = terms.cross_entropy / (mass + EPSILON if weighted else num_blocks)
    first_error = terms.first_error / (focal_mass + EPSILON)
    chain_reward = terms.chain_reward / num_blocks
    total = (
        objective.alpha_ce * cross_entropy
        + objective.alpha_focal * first_error
        - objective.alpha_chain * chain_reward
    )
    return Loss(total, cross_entropy, first_error, chain_reward, terms.accepted / num_blocks)


def objective_terms(
    log_p: torch.Tensor,
    correct: torch.Tensor,
    valid: torch.Tensor,
    objective: Objective,
    soft_ce: torch.Tensor | None = None,
) -> Terms:
    """The sums `objective_loss` divides; arguments as there."""
    import torch

    depth = log_p.shape[1]
    weights = objective.weights(depth, log_p.device).to(log_p.dtype)
    ce = torch.where(valid, -log_p, 0.0)
    running = valid.cumprod(1).bool()
    errors = (running & ~correct).cumsum(1)
    first = (running & ~correct) & (errors == 1)

    mass = torch.where(valid, weights, 0.0)
    if objective.ce_until_error:
        mass = torch.where(running & ((errors == 0) | first), weights, 0.0)
    if objective.dpace_alpha is not None:
        mass = mass * dpace_weights(log_p, running, objective.dpace_alpha)
    focal_mass = torch.where(first, weights, 0.0)
    everywhere = ce
    if objective.distill:
        assert soft_ce is not None
        soft = torch.where(valid, soft_ce, 0.0)
        everywhere = torch.lerp(ce, soft, objective.distill)

    survival = torch.exp(torch.where(running, log_p, 0.0).cumsum(1))
    length = torch.where(running, survival, 0.0).sum(1)
    reward = length / depth if objective.reward == "mean" else torch.log1p(length)
    matches = (running & (errors == 0)).sum()
    return Terms(
        (mass * everywhere).sum(),
        (focal_mass * ce).sum(),
        reward.sum(),
        matches,
        torch.stack((mass.sum(), focal_mass.sum(), valid[:, 0].sum().to(mass.dtype))),
    )


def dpace_weights(log_p: torch.Tensor, running: torch.Tensor, alpha: float) -> torch.Tensor:
    """D-PACE's weights ``[N, K − 1]``, detached: Σ over m ≥ j of Π over i ≤ m of (1−α) q_i + α.

    At α = 0 their cross-entropy has the gradient of −Σ ρ_k, at α = 1 they fall by one an offset.

    Args:
        log_p: ``[N, K − 1]``, as in `objective_loss`.
        running: ``[N, K − 1]`` bool, offsets up to the first invalid one.
        alpha: in [0, 1].

    Source: arXiv 2605.18810.
    """
    import torch

    smooth = (1 - alpha) * log_p.detach().exp() + alpha
    reach = torch.where(running, smooth, 0.0).cumprod(1)
    return reach.flip(1).cumsum(1).flip(1)
