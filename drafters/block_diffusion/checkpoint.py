"""Drafter checkpoints in the DFlash layout: config.json, model.safetensors, training.json.

Published DFlash and DFlash 2 drafters load here, and what is written here loads in engines that
serve them. A drafter trained on part of the vocabulary also has draft_vocabulary.json, the ids of
its tokens.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from drafters.block_diffusion.checkpoint_files import (
    Source,
    locate,
    misfits,
    read_object,
    read_training,
    read_vocabulary,
    read_weights,
    require_hub_id,
)
from drafters.block_diffusion.dflash_config import config_from_json, config_to_json
from drafters.block_diffusion.model import BlockDiffusionModel, DrafterConfig
from harness.errors import UserError
from harness.registry import plugin_flags, table
from harness.user_cache import user_cache
from harness.whole_file import whole_directory, write_json
from targets.base import Target
from targets.digest import weights_digest
from targets.shape import Shape, shape_on_disk

_LOG = logging.getLogger(__name__)

OWN = Path(__file__).resolve().parent.parent / "checkpoints"
"""Drafters shipped with the project, ``<target>/<name>``."""

_VOCABULARY = "draft_vocabulary.json"

Network = TypeVar("Network", bound=nn.Module)


class MissingCheckpoint(UserError):
    """No drafter of this name has been trained for the target."""

    def __init__(self, sentence: str, drafter_name: str | None = None) -> None:
        super().__init__(sentence)
        self.drafter_name = drafter_name
        """Which one; a policy may need another than the run names."""


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[Network]):
    """A drafter read from disk.

    Attributes:
        model: in eval mode; a block-diffusion drafter on the CPU, in the dtype of the file.
        vocabulary: ``[V']`` int64, the tokens it was trained on, ascending; None for all.
        training: content of ``training.json``; None for a foreign checkpoint.
        location: path or hub id, as it was asked for.
        revision: resolved hub commit, None for a directory.
        weights_sha256: digest of the weight files.
    """

    model: Network
    vocabulary: torch.Tensor | None
    training: dict[str, Any] | None
    location: str
    revision: str | None
    weights_sha256: str

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for the record of a run."""
        training = self.training or {}
        return {
            "path": public_location(self.location),
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "num_parameters": sum(p.numel() for p in self.model.parameters()),
            "objective": training.get("objective"),
            "training": self.training,
        }


def public_location(location: str) -> str:
    """``location`` without the directories of this machine, where it is one of the usual places."""
    for root, name in ((OWN, "drafters/checkpoints"), (user_cache(), "user cache")):
        if Path(location).is_relative_to(root):
            return f"{name}/{Path(location).relative_to(root).as_posix()}"
    return location


def slug(target_name: str) -> str:
    """A target's name as a directory name; that of today where the name is an old one."""
    row = table("targets").get(target_name)
    if row is not None and row.path == "targets.load:renamed":
        target_name = row.options["name"]
    return target_name.strip("/").replace("/", "--").replace("..", "--") or "--"


def user_directory(target_name: str, drafter_name: str) -> Path:
    """Where ``harness train`` puts a drafter unless told otherwise."""
    return user_cache() / "drafters" / slug(target_name) / drafter_name


def find(drafter_name: str, argument: str | None, target_name: str) -> str:
    """Location of a drafter: the path or hub id given, the user cache, the project's own.

    Raises:
        MissingCheckpoint: none was given and none is found; the message holds the command.
    """
    if argument is not None:
        return argument
    for directory in (
        user_directory(target_name, drafter_name),
        OWN / slug(target_name) / drafter_name,
    ):
        if (directory / "config.json").is_file():
            return str(directory)
    if drafter_name == "dflash":
        raise UserError("dflash needs a checkpoint: --drafter dflash=PATH or dflash=OWNER/NAME.")
    raise MissingCheckpoint(
        f"no {drafter_name} drafter has been trained for target {target_name}; run "
        f"`python -m harness train --drafter {drafter_name} --target {target_name}"
        f"{plugin_flags()}`; run does so itself with --train-if-missing.",
        drafter_name,
    )


def check(
    name: str,
    argument: str | None,
    target_name: str,
    read: Callable[[dict[str, Any], str], MadeFor | None] = config_from_json,
) -> None:
    """As `find`, and a directory must hold the config of a drafter for this target.

    Nothing is downloaded and no weights are read; a target whose config is not here is passed over.

    Args:
        name: of the drafter.
        argument: path or hub id that was given for it.
        target_name: of the target.
        read: its config, from the JSON and the directory; None where that names no shape.

    Raises:
        MissingCheckpoint: as `find`.
        UserError: as `find`, or there is no checkpoint of this target where one was named.
    """
    location = find(name, argument, target_name)
    path = Path(location) / "config.json"
    if not Path(location).is_dir():
        require_hub_id(location)
        return
    if not path.is_file():
        raise UserError(f"{location} holds no config.json; name the directory of a checkpoint.")
    config, shape = read(read_object(path), location), shape_on_disk(target_name)
    if config is not None and shape is not None:
        _require_made_for(config, shape, target_name, location)


def load(location: str, target: Target) -> Checkpoint[BlockDiffusionModel]:
    """Read a drafter from a directory or the hub, and check that it was made for ``target``.

    Raises:
        UserError: it is not there, truncated, of another architecture, or for another target.
    """
    source = locate(location)
    directory = source.directory
    config = config_from_json(read_object(directory / "config.json"), str(directory))
    check_target(config, target, location)
    model = _build(config, read_weights(source.weight_files, directory), directory)
    return with_records(model, source, target)


def with_records(model: Network, source: Source, target: Target) -> Checkpoint[Network]:
    """``model`` with what its checkpoint says beside the weights.

    Raises:
        UserError: one of those files is broken.
    """
    training = read_training(source.directory / "training.json")
    warn_of_other_weights(training, target, source.location)
    return Checkpoint(
        model.eval().requires_grad_(False),
        read_vocabulary(source.directory / _VOCABULARY, target.vocab_size),
        training,
        source.location,
        source.revision,
        weights_digest(source.weight_files),
    )


def _build(
    config: DrafterConfig, state: dict[str, torch.Tensor], directory: Path
) -> BlockDiffusionModel:
    """The model of ``config`` with the weights ``state``; nothing is allocated before they fit."""
    mismatch = (
        f"drafter weights in {directory} do not match its config.json (first: {{}}); "
        "this is not a DFlash checkpoint that this version can load."
    )
    if config.num_hidden_layers > len(state):
        raise UserError(mismatch.format("the number of layers"))
    try:
        with torch.device("meta"):
            expected = BlockDiffusionModel(config).state_dict()
    except Exception as error:  # what is asked for comes from a file, and a library builds it
        raise UserError(
            f"{directory}/config.json asks for a drafter that cannot be built ({error}); fetch or "
            "train it again."
        ) from error
    if wrong := misfits({key: value.shape for key, value in expected.items()}, state):
        raise UserError(mismatch.format(wrong[0]))
    # Rotary tables are buffers outside the checkpoint: build for real, then take the weights.
    model = BlockDiffusionModel(config).to(next(iter(state.values())).dtype)
    model.load_state_dict(state)
    return model


class MadeFor(Protocol):
    """What the config of a drafter tells of its target."""

    @property
    def hidden_size(self) -> int:
        """Width of the target's layers."""

    @property
    def num_target_layers(self) -> int:
        """Layers of the target."""

    @property
    def vocab_size(self) -> int:
        """Rows of the target's LM head."""


def check_target(config: MadeFor, target: Target, location: str) -> None:
    """Refuse a drafter whose shapes show that it belongs to another target.

    Raises:
        UserError: a width, depth or vocabulary differs.
    """
    shape = Shape(
        hidden_size=target.hidden_size, num_layers=target.num_layers, vocab_size=target.vocab_size
    )
    _require_made_for(config, shape, target.name, location)


def _require_made_for(config: MadeFor, shape: Shape, target_name: str, location: str) -> None:
    for name, ours, theirs in (
        ("hidden size", config.hidden_size, shape.hidden_size),
        ("number of target layers", config.num_target_layers, shape.num_layers),
        ("vocabulary size", config.vocab_size, shape.vocab_size),
    ):
        if ours != theirs:
            raise UserError(
                f"drafter {location} was made for another target: its {name} is {ours}, that of "
                f"{target_name} is {theirs}; choose the drafter of this target."
            )


def warn_of_other_weights(training: dict[str, Any] | None, target: Target, location: str) -> None:
    """Shapes cannot tell a model from its fine-tunes; the record of the training can."""
    facts = (training or {}).get("target")
    trained_for = facts.get("weights_sha256") if isinstance(facts, dict) else None
    measured = target.describe()["weights_sha256"]
    if trained_for and measured and trained_for != measured:
        _LOG.warning(
            "drafter %s was trained for other weights (sha256 %.12s) than those of target %s "
            "(sha256 %.12s); it stays lossless, but fewer of its tokens may be accepted.",
            location,
            trained_for,
            target.name,
            measured,
        )


def save(
    directory: Path,
    model: BlockDiffusionModel,
    training: dict[str, Any],
    vocabulary: torch.Tensor | None = None,
) -> None:
    """Write a checkpoint beside ``directory`` and move it there whole."""
    state = model.state_dict()
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    write(directory, state, config_to_json(model.config, dtype), training, vocabulary)


def write(
    directory: Path,
    state: Mapping[str, torch.Tensor],
    config: dict[str, Any],
    training: dict[str, Any],
    vocabulary: torch.Tensor | None = None,
) -> None:
    """`save` for weights and ``config.json`` of any drafter."""
    with whole_directory(directory) as scratch:
        kept = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(kept, scratch / "model.safetensors", metadata={"format": "pt"})
        write_json(scratch / "config.json", config)
        write_json(scratch / "training.json", training)
        if vocabulary is not None:
            # On one line: thousands of ids.
            ids = json.dumps({"token_ids": vocabulary.tolist()})
            (scratch / _VOCABULARY).write_text(ids + "\n", encoding="utf-8")
