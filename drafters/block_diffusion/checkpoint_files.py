"""The files of a drafter checkpoint, found and read one by one; what is broken is a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness import hub
from harness.errors import UserError
from harness.reading import read_text, require_regular_files
from harness.run_facts import TrainingFacts
from harness.typed_json import parse_json, typed


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint was found.

    Attributes:
        location: path or hub id, as it was asked for.
        directory: its files.
        revision: resolved hub commit, None for a directory.
    """

    location: str
    directory: Path
    revision: str | None

    @property
    def weight_files(self) -> list[Path]:
        """At least one.

        Raises:
            UserError: there is none.
        """
        files = sorted(self.directory.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"{self.directory} holds no .safetensors file; fetch the checkpoint again."
            )
        return files


def locate(location: str, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Source:
    """The directory ``location``, or that of the hub's files which match ``patterns``.

    Raises:
        UserError: it is neither, or the directory holds pipes or devices.
    """
    directory = Path(location)
    if directory.is_dir():
        try:
            require_regular_files(directory)
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read ({error.strerror}); fetch the checkpoint again."
            ) from error
        return Source(location, directory, None)
    return Source(location, *_download(location, patterns))


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is none.
    """
    try:
        body = parse_json(read_text(path))
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


def misfits(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Keys of weights that are missing, strange, of another shape, or no floating-point numbers."""
    wrong = sorted(set(shapes) ^ set(state))
    wrong += [key for key in shapes if key in state and state[key].shape != shapes[key]]
    wrong += [key for key in shapes if key in state and not state[key].is_floating_point()]
    return wrong


def require_hub_id(location: str) -> None:
    """Tell a mistyped directory from a hub id, ``owner/name``.

    Raises:
        UserError: it cannot be one.
    """
    if location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise UserError(f"there is no drafter directory {location}; give a directory or a hub id.")


def _download(location: str, patterns: Sequence[str]) -> tuple[Path, str]:
    """Files of a hub repository: their directory and the commit."""
    require_hub_id(location)
    from huggingface_hub import snapshot_download

    cached = not hub.is_reachable()
    try:
        path = snapshot_download(location, allow_patterns=list(patterns), local_files_only=cached)
    except Exception as error:
        raise UserError(
            f"drafter {location} is neither a directory nor to be had from the hub "
            f"({'which cannot be reached' if cached else type(error).__name__}); check the name "
            "and the network, or give a directory."
        ) from error
    return Path(path), Path(path).name
