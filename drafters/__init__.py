"""Drafters and policies: everything that can propose tokens, one file a method."""

from harness.registry import BLOCK_DIFFUSION, Entry

DRAFTERS: dict[str, Entry] = {
    "uniform": Entry(BLOCK_DIFFUSION, "block diffusion, position-uniform cross-entropy (Eq. 7)"),
    "positional": Entry(BLOCK_DIFFUSION, "block diffusion, positional weights, γ = 10 (Eq. 9)"),
    "focal": Entry(BLOCK_DIFFUSION, "block diffusion, first-error focal, α = 0.3 (Eq. 11)"),
    "chain": Entry(BLOCK_DIFFUSION, "block diffusion, chain reward, α = 40 (Eq. 12)"),
    "combined": Entry(BLOCK_DIFFUSION, "block diffusion, all three interventions (Eq. 13)"),
    "dflash": Entry(
        BLOCK_DIFFUSION, "any published DFlash or DFlash 2 checkpoint: dflash=PATH_OR_HUB_ID"
    ),
    "ngram": Entry("drafters.ngram:build", "prompt lookup: repeats what followed the last n-gram"),
    "synthetic": Entry("drafters.synthetic:build", "acceptance you choose: synthetic=RATE"),
}

POLICIES: dict[str, Entry] = {
    "d2sd": Entry("drafters.d2sd:build", "branches where the draft is likeliest to be refused"),
}
