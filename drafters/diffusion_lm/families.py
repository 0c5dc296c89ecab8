"""Published diffusion LMs: which token masks, and which row speaks of it.

Their repositories bring the network as code, which sees both ways and returns logits. Loading it
runs that code, so it has to be allowed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModel, AutoTokenizer

from drafters.diffusion_lm.denoiser import PretrainedModel
from harness.errors import UserError
from targets.pretrained import quiet
from targets.transformers_lm import TransformersTarget

ALLOW = "HARNESS_TRUST_REMOTE_CODE"
"""Environment variable that lets code of a model's repository run; 1 allows."""

BLOCK_SIZE = 31
"""Of a published model where none is asked for: 30 drafts, DiffuSpec's longest."""


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one ``model_type`` are asked; see `config.DiffusionConfig`."""

    mask_token_id: int
    shifted: bool


FAMILIES = {
    "Dream": Family(151666, shifted=True),  # DiffuCoder says Dream, too
    "llada": Family(126336, shifted=False),
}


def family_of(body: dict[str, Any], where: str) -> Family:
    """The family of a ``config.json``; what it says of mask and shift itself comes first.

    Raises:
        UserError: it says nothing, and its ``model_type`` is in no row of the table.
    """
    known = FAMILIES.get(str(body.get("model_type")))
    mask, shifted = body.get("mask_token_id"), body.get("shifted")
    if type(mask) not in (int, type(None)) or type(shifted) not in (bool, type(None)):
        raise UserError(
            f"{where}/config.json cannot be used: mask_token_id must be a token id and shifted "
            "true or false."
        )
    if known is not None:
        mask = known.mask_token_id if mask is None else mask
        shifted = known.shifted if shifted is None else shifted
    if mask is None or shifted is None:
        raise UserError(
            f"{where} is a {body.get('model_type')} model, and no diffusion LM that is known here "
            f"({', '.join(FAMILIES)}); put mask_token_id and shifted (true or false) into its "
            "config.json."
        )
    return Family(mask, shifted)


def load_pretrained(directory: Path, family: Family, target: TransformersTarget) -> PretrainedModel:
    """The model in ``directory``, in the target's dtype, on its device.

    Raises:
        UserError: its code may not run, it cannot be loaded, or it speaks other tokens.
    """
    if os.environ.get(ALLOW) != "1":
        raise UserError(
            f"diffusion LM {directory} runs code from its own repository; read it, and allow it "
            f"with {ALLOW}=1."
        )
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
            model = AutoModel.from_pretrained(directory, trust_remote_code=True, dtype=target.dtype)
    except Exception as error:  # whatever foreign code raises
        raise UserError(
            f"diffusion LM {directory} cannot be loaded "
            f"({' '.join(str(error).split())[:200] or type(error).__name__}); its code may need "
            "another version of transformers."
        ) from error
    _require_same_tokens(tokenizer, target, directory)
    model = model.to(target.device).eval().requires_grad_(False)
    return PretrainedModel(model, shifted=family.shifted, vocab_size=target.vocab_size)


def _require_same_tokens(tokenizer: Any, target: TransformersTarget, directory: Path) -> None:
    """Every token of the target must have the same id there; it may know more.

    Raises:
        UserError: it has another id.
    """
    if target.tokenizer is None:
        raise UserError(
            f"target {target.name} has no tokenizer to compare with that of {directory}; choose a "
            "target that has one."
        )
    theirs = tokenizer.get_vocab()
    for token, index in target.tokenizer.get_vocab().items():
        if theirs.get(token) != index:
            found = "missing" if token not in theirs else str(theirs[token])
            raise UserError(
                f"diffusion LM {directory} has another tokenizer than target {target.name} "
                f"({token!r} is {found} there and {index} here); choose one of the target's family."
            )
