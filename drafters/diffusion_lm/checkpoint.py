"""Diffusion LMs on disk: the target's weights with an addition, or a whole model from the hub.

What is trained here is a directory with ``config.json``, ``model.safetensors`` (the low-rank
factors, bfloat16), ``training.json`` and ``ngram.safetensors`` (the 3-gram model for the policy
``cps``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from drafters.block_diffusion.checkpoint import (
    check_target,
    public_location,
    warn_of_other_weights,
)
from drafters.block_diffusion.checkpoint_files import (
    locate,
    misfits,
    read_object,
    read_training,
    read_weights,
)
from drafters.diffusion_lm.config import (
    ARCHITECTURE,
    DiffusionConfig,
    config_from_json,
    config_to_json,
)
from drafters.diffusion_lm.denoiser import AdaptedTarget, Denoiser, private_decoder
from drafters.diffusion_lm.families import BLOCK_SIZE, Family, family_of, load_pretrained
from drafters.diffusion_lm.low_rank import factor_shapes, merge
from drafters.ngram_model import NgramModel
from harness.errors import UserError
from harness.whole_file import whole_directory, write_json
from targets.digest import weights_digest
from targets.pretrained import weight_files
from targets.transformers_lm import TransformersTarget

NAME = "dlm"
"""Drafter and directory name of a diffusion LM trained here."""

_WEIGHTS = "model.safetensors"
_FETCHED = ("*.json", "*.safetensors", "*.py", "*.txt", "*.model")


@dataclass(frozen=True, slots=True)
class DiffusionCheckpoint:
    """A diffusion LM ready to draft.

    Attributes:
        denoiser: shared by all drafters of one checkpoint.
        mask_token_id: what stands where a token is to be found.
        block_size: the pending token and the masks behind it, as trained.
        training: content of ``training.json``; None for a foreign model.
        location: path or hub id, as it was asked for.
        revision: resolved hub commit, None for a directory.
        weights_sha256: digest of the weight files.
    """

    denoiser: Denoiser
    mask_token_id: int
    block_size: int
    training: dict[str, Any] | None
    location: str
    revision: str | None
    weights_sha256: str

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the record of a run."""
        return {
            "path": public_location(self.location),
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "num_parameters": self.denoiser.num_parameters,
            "objective": None,
            "training": self.training,
        }


def load(location: str, target: TransformersTarget) -> DiffusionCheckpoint:
    """Read a diffusion LM from a directory or the hub, and check that it fits ``target``.

    Raises:
        UserError: it is not there, damaged, or for other weights or another tokenizer.
    """
    source = locate(location, _FETCHED)
    directory, revision = source.directory, source.revision
    body = read_object(directory / "config.json")
    own = body.get("architectures") == [ARCHITECTURE]
    files = [directory / _WEIGHTS] if own else weight_files(directory)
    if not files or not all(file.is_file() for file in files):
        raise UserError(f"{directory} holds no weights; fetch or train the checkpoint again.")
    digest = weights_digest(files)
    if not own:
        family = family_of(body, str(directory))
        model = _pretrained(target, directory, family, digest)
        return DiffusionCheckpoint(
            model, family.mask_token_id, BLOCK_SIZE, None, location, revision, digest
        )
    config = config_from_json(body, str(directory))
    check_target(config, target, location)
    training = read_training(directory / "training.json")
    warn_of_other_weights(training, target, location)
    denoiser = _adapted(target, directory, config, digest)
    return DiffusionCheckpoint(
        denoiser, config.mask_token_id, config.block_size, training, location, revision, digest
    )


def shape_of(body: dict[str, Any], where: str) -> DiffusionConfig | None:
    """The config of an adapted target; None for a diffusion LM of others, which has its own shape.

    Raises:
        UserError: it is damaged, or of no diffusion LM that is known here.
    """
    if body.get("architectures") == [ARCHITECTURE]:
        return config_from_json(body, where)
    family_of(body, where)
    return None


# A run compares the same model alone and under policies: its weights are there once.
@functools.lru_cache(maxsize=1)
def _adapted(
    target: TransformersTarget, directory: Path, config: DiffusionConfig, digest: str
) -> Denoiser:
    """A copy of the target's layers with the addition merged.

    Merged, a pass is an ordinary one on packed weights; apart from them, the addition would take
    two more products in each of some two hundred layers. It costs a second copy of the layers.
    """
    factors = read_weights([directory / _WEIGHTS], directory)
    decoder = private_decoder(target)
    if wrong := misfits(factor_shapes(decoder, config.rank), factors):
        raise UserError(
            f"diffusion LM weights in {directory} do not fit {target.name} (first: {wrong[0]}); "
            "choose the one that was trained for this target, or train it again."
        )
    merge(decoder, factors)
    return AdaptedTarget(decoder, target, shifted=config.shifted)


@functools.lru_cache(maxsize=1)
def _pretrained(
    target: TransformersTarget, directory: Path, family: Family, digest: str
) -> Denoiser:
    return load_pretrained(directory, family, target)


def save(
    directory: Path,
    config: DiffusionConfig,
    factors: Mapping[str, torch.Tensor],
    training: dict[str, Any],
    ngrams: NgramModel,
) -> None:
    """Write a checkpoint beside ``directory`` and move it there whole."""
    state = {key: value.detach().cpu().bfloat16() for key, value in factors.items()}
    with whole_directory(directory) as scratch:
        save_file(state, scratch / _WEIGHTS, metadata={"format": "pt"})
        ngrams.save(scratch)
        write_json(scratch / "config.json", config_to_json(config))
        write_json(scratch / "training.json", training)
