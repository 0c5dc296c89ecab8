"""Drafters and policies: everything that can propose tokens, one file a method."""

from harness.registry import BLOCK_DIFFUSION, Entry

DRAFTERS: dict[str, Entry] = {
    "uniform": Entry(BLOCK_DIFFUSION, "block diffusion, position-uniform cross-entropy (Eq. 7)"),
    "positional": Entry(BLOCK_DIFFUSION, "block diffusion, positional weights, γ = 10 (Eq. 9)"),
    "focal": Entry(BLOCK_DIFFUSION, "block diffusion, first-error focal, α = 0.3 (Eq. 11)"),
    "chain": Entry(BLOCK_DIFFUSION, "block diffusion, chain reward, α = 40 (Eq. 12)"),
    "combined": Entry(BLOCK_DIFFUSION, "block diffusion, all three interventions (Eq. 13)"),
    "dflash": Entry(BLOCK_DIFFUSION, "any published DFlash checkpoint: dflash=PATH_OR_HUB_ID"),
    "draft_model": Entry(
        "drafters.draft_model:build",
        "a small causal LM, token by token: draft_model=PATH_OR_HUB_ID",
    ),
    "student": Entry(
        "drafters.student.drafter:build",
        "the target's first layers, distilled from it, token by token",
        trainer="drafters.student.trainer:train",
    ),
    "ngram": Entry("drafters.ngram:build", "prompt lookup: repeats what followed the last n-gram"),
    "synthetic": Entry("drafters.synthetic:build", "acceptance you choose: synthetic=RATE"),
}

POLICIES: dict[str, Entry] = {}
