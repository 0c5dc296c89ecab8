"""Checkpoints of students: config.json, model.safetensors, training.json."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.checkpoint_files import locate, misfits, read_object, read_weights
from drafters.student.network import Student
from harness.errors import UserError
from harness.typed_json import typed
from targets.transformers_lm import TransformersTarget

_ARCHITECTURE = "StudentDraftModel"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentConfig:
    """Which target a student belongs to; all other shapes are the target's."""

    hidden_size: int
    vocab_size: int
    num_target_layers: int
    target_layer_ids: tuple[int, ...]
    """0-based layers of the target that it started from, ascending."""

    def __post_init__(self) -> None:
        layers = self.target_layer_ids
        if not layers or list(layers) != sorted(set(layers)):
            raise ValueError(f"target_layer_ids must be distinct and ascending, not {list(layers)}")
        if not 0 <= layers[0] <= layers[-1] < self.num_target_layers:
            raise ValueError(
                f"target_layer_ids must be from 0 to {self.num_target_layers - 1}, not "
                f"{list(layers)}"
            )

    @classmethod
    def of(cls, student: Student, target: TransformersTarget) -> StudentConfig:
        """The config of a student of ``target``."""
        return cls(
            hidden_size=target.hidden_size,
            vocab_size=target.vocab_size,
            num_target_layers=target.num_layers,
            target_layer_ids=student.layer_ids,
        )


def save(
    directory: Path,
    student: Student,
    target: TransformersTarget,
    training: dict[str, Any],
    vocabulary: torch.Tensor | None = None,
) -> None:
    """Write a checkpoint beside ``directory`` and move it there whole."""
    config = {
        "architectures": [_ARCHITECTURE],
        "dtype": str(target.dtype).removeprefix("torch."),
        **dataclasses.asdict(StudentConfig.of(student, target)),
    }
    checkpoint.write(directory, student.decoder.state_dict(), config, training, vocabulary)


def load(location: str, target: TransformersTarget) -> checkpoint.Checkpoint[Student]:
    """Read a student from a directory or the hub, in the target's dtype and on its device.

    Raises:
        UserError: it is not there, truncated, no student, or a student of another target.
    """
    source = locate(location)
    directory = source.directory
    config = config_from_json(read_object(directory / "config.json"), str(directory))
    checkpoint.check_target(config, target, location)
    state = read_weights(source.weight_files, directory)
    student = Student(target, config.target_layer_ids)
    if wrong := misfits(_shapes(student), state):
        raise UserError(
            f"student weights in {directory} do not match its config.json and target "
            f"{target.name} (first: {wrong[0]}); fetch or train it again."
        )
    student.decoder.load_state_dict(state)
    return checkpoint.with_records(student, source, target)


def _shapes(student: Student) -> dict[str, tuple[int, ...]]:
    return {key: value.shape for key, value in student.decoder.state_dict().items()}


def config_from_json(body: dict[str, Any], where: str) -> StudentConfig:
    """The student described by a ``config.json``.

    Raises:
        UserError: a field is missing or impossible, or it is no student's.
    """
    path = f"{where}/config.json"
    if body.get("architectures") != [_ARCHITECTURE]:
        raise UserError(f"{path} is not that of a student; use the drafter it was made for.")
    names = {field.name for field in dataclasses.fields(StudentConfig)}
    try:
        return typed(StudentConfig, {key: body[key] for key in names if key in body}, "config")
    except ValueError as error:
        raise UserError(
            f"{path} is not that of a student ({error}); fetch or train it again."
        ) from error
