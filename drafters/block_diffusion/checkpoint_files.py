"""The files of a drafter checkpoint, read one by one; what is broken in one is a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness.errors import UserError
from harness.run_facts import TrainingFacts
from harness.typed_json import parse_json, typed


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none.
    """
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); this is no drafter checkpoint."
        ) from error
    if not isinstance(body, dict):
        raise UserError(f"{path} does not hold a JSON object; this is no drafter checkpoint.")
    return body


def read_weights(files: Sequence[Path], directory: Path) -> dict[str, torch.Tensor]:
    """Tensors by key, of all ``files`` in ``directory`` together.

    Raises:
        UserError: one is truncated or broken.
    """
    state: dict[str, torch.Tensor] = {}
    try:
        for file in files:
            state.update(load_file(file))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"drafter weights in {directory} cannot be read ({error}); the file is truncated or "
            "broken, fetch or train it again."
        ) from error
    return state


def read_training(path: Path) -> dict[str, Any] | None:
    """What ``training.json`` says; None where there is none, as in foreign checkpoints.

    Raises:
        UserError: it is not one of this harness.
    """
    if not path.is_file():
        return None
    try:
        return dict(typed(TrainingFacts, read_object(path)))
    except ValueError as error:
        raise UserError(
            f"{path} is not a training record of this harness ({error}); restore or remove it."
        ) from error


def read_vocabulary(path: Path, vocab_size: int) -> torch.Tensor | None:
    """``[V']`` int64, ascending ids below ``vocab_size``; None where there is no file.

    Raises:
        UserError: it holds something else.
    """
    if not path.is_file():
        return None
    ids = read_object(path).get("token_ids")
    if (
        not isinstance(ids, list)
        or not ids
        or not all(type(item) is int and 0 <= item < vocab_size for item in ids)
        or ids != sorted(set(ids))
    ):
        raise UserError(
            f"{path} does not hold distinct ascending token ids below {vocab_size}; "
            "fetch or train the checkpoint again."
        )
    return torch.tensor(ids)
