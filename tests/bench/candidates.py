"""Objectives on trial: rows for a study, not shipped until one wins.

    python -m harness train --drafter log_combined --plugin tests/bench/candidates.py

The log rewards: time goes by rounds, and a stretch of text takes as many as its blocks are short,
so a token more saves most where blocks are shortest. −log(1 + Σ ρ_k) divides the chain gradient of
each block by its expected length.
"""

from __future__ import annotations

from drafters.block_diffusion.objectives import Objective

OBJECTIVES = {
    "spec_auf": Objective(
        ce_until_error=True, description="cross-entropy up to the first error (arXiv 2607.01893)"
    ),
    "log_streak": Objective(
        alpha_ce=0, alpha_chain=15, reward="log", description="log of the expected length alone"
    ),
    "distilled": Objective(
        gamma=10,
        alpha_focal=0.3,
        alpha_chain=40,
        distill=0.5,
        description="combined, half of its cross-entropy against the target's distribution",
    ),
    # 20 · ∂log(1 + Σ ρ) is near combined's 40 · ∂R for blocks of 6 at an expected length of 2.5.
    "log_combined": Objective(
        gamma=10,
        alpha_focal=0.3,
        alpha_chain=20,
        reward="log",
        description="combined, with the log of the expected length for the chain reward",
    ),
}
