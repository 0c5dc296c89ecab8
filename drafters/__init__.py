"""Drafters and policies: everything that can propose tokens, one file a method."""

from harness.registry import BLOCK_DIFFUSION, Entry

DIFFUSION_LM = "drafters.diffusion_lm.trainer:train"

DRAFTERS: dict[str, Entry] = {
    "uniform": Entry(BLOCK_DIFFUSION, "block diffusion, position-uniform cross-entropy (Eq. 7)"),
    "positional": Entry(BLOCK_DIFFUSION, "block diffusion, positional weights, γ = 10 (Eq. 9)"),
    "focal": Entry(BLOCK_DIFFUSION, "block diffusion, first-error focal, α = 0.3 (Eq. 11)"),
    "chain": Entry(BLOCK_DIFFUSION, "block diffusion, chain reward, α = 40 (Eq. 12)"),
    "combined": Entry(BLOCK_DIFFUSION, "block diffusion, all three interventions (Eq. 13)"),
    "dflash": Entry(
        BLOCK_DIFFUSION, "any published DFlash or DFlash 2 checkpoint: dflash=PATH_OR_HUB_ID"
    ),
    "dlm": Entry(
        "drafters.diffusion_lm.drafter:build",
        "a diffusion language model: the target's own, adapted, or dlm=PATH_OR_HUB_ID",
        trainer=DIFFUSION_LM,
    ),
    "diffuspec": Entry(
        "drafters.diffuspec:build", "DiffuSpec: dlm+adl+cps in one name", trainer=DIFFUSION_LM
    ),
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

POLICIES: dict[str, Entry] = {
    "d2sd": Entry("drafters.d2sd:build", "branches where the draft is likeliest to be refused"),
    "cps": Entry("drafters.cps:build", "the likeliest path by marginals and a 3-gram model"),
    "adl": Entry("drafters.adl:build", "drafts as long as drafts were and were accepted"),
    "ddtree": Entry("drafters.ddtree:build", "one tree of a draft's likeliest prefixes"),
    "self_selection": Entry(
        "drafters.self_selection:build", "several chains sampled from one draft"
    ),
}
