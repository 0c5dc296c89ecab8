"""Training objectives: one table of numbers and one pure function (arXiv 2606.11552, Eq. 7–13).

torch is imported inside the functions, so that listing the objectives stays instant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

EPSILON = 1e-6
"""ε of Eq. 10, and of the weighted mean (the paper's training framework uses the same)."""

CeReduction = Literal["weighted_mean", "block_sum"]


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
    description: str = ""

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, not {self.gamma}")
        if self.alpha_focal < 0 or self.alpha_chain < 0:
            raise ValueError("alpha_focal and alpha_chain must be at least 0")
        if self.ce_reduction not in ("weighted_mean", "block_sum"):
            raise ValueError(f"ce_reduction {self.ce_reduction!r} is unknown")

    def weights(self, depth: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """Positional weights ``[depth]`` of offsets k = 1 … depth (Eq. 8), float64."""
        import torch

        offsets = torch.arange(depth, dtype=torch.float64, device=device)
        return torch.exp(-offsets / self.gamma)


OBJECTIVES: dict[str, Objective] = {
    "uniform": Objective(description="position-uniform cross-entropy (Eq. 7)"),
    "positional": Objective(gamma=10, description="positional weights, γ = 10 (Eq. 9)"),
    "focal": Objective(alpha_focal=0.3, description="first-error focal, α = 0.3 (Eq. 11)"),
    "chain": Objective(alpha_chain=40, description="chain reward, α = 40 (Eq. 12)"),
    "combined": Objective(
        gamma=10, alpha_focal=0.3, alpha_chain=40, description="all three interventions (Eq. 13)"
    ),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """The objective's value on one batch, and what it is made of.

    Attributes:
        total: scalar, to be minimised.
        cross_entropy: scalar L_CE of Eq. 9.
        first_error: scalar L_fe of Eq. 10.
        chain_reward: scalar R_chain of Eq. 12, in [0, 1].
        accepted: scalar; leading argmax matches per block, the training-time accepted length
            without the bonus token.
    """

    total: torch.Tensor
    cross_entropy: torch.Tensor
    first_error: torch.Tensor
    chain_reward: torch.Tensor
    accepted: torch.Tensor


def objective_loss(
    log_p: torch.Tensor, correct: torch.Tensor, valid: torch.Tensor, objective: Objective
) -> Loss:
    """Loss of a batch of blocks (arXiv 2606.11552, Eq. 7–13).

    Args:
        log_p: ``[N, K − 1]``, log q of the ground-truth token at offsets 1 … K−1; float32 or
            float64, with gradient.
        correct: ``[N, K − 1]`` bool, whether the drafter's argmax is the ground-truth token.
        valid: ``[N, K − 1]`` bool, whether the offset carries a label. Offsets behind the first
            invalid one count in the cross-entropy only.
        objective: the row of numbers.

    Blocks without a valid first offset do not enter the averages over blocks; blocks without a
    mismatch contribute nothing to the focal term. The chain reward keeps K − 1 in the denominator
    where a block is cut short. A batch with no valid offset has loss zero.
    """
    import torch

    weights = objective.weights(log_p.shape[1], log_p.device).to(log_p.dtype)
    ce = torch.where(valid, -log_p, 0.0)
    mass = torch.where(valid, weights, 0.0)
    num_blocks = valid[:, 0].sum().clamp(min=1)
    if objective.ce_reduction == "weighted_mean":
        cross_entropy = (mass * ce).sum() / (mass.sum() + EPSILON)
    else:
        cross_entropy = (mass * ce).sum() / num_blocks

    running = valid.cumprod(1).bool()
    mismatch = running & ~correct
    first = mismatch & (mismatch.cumsum(1) == 1)
    focal_mass = torch.where(first, weights, 0.0)
    first_error = (focal_mass * ce).sum() / (focal_mass.sum() + EPSILON)

    survival = torch.exp(torch.where(running, log_p, 0.0).cumsum(1))
    chain_reward = torch.where(running, survival, 0.0).sum() / log_p.shape[1] / num_blocks

    accepted = (running & correct).cumprod(1).sum() / num_blocks
    total = (
        cross_entropy + objective.alpha_focal * first_error - objective.alpha_chain * chain_reward
    )
    return Loss(total, cross_entropy, first_error, chain_reward, accepted)
