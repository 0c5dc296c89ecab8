"""Target features of a corpus: kept on disk for every variant and epoch, or made as needed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock

from harness.errors import UserError

_LOG = logging.getLogger(__name__)

FeatureFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(input_ids [B, L], attention_mask [B, L]) → features [B, L, F]``."""

_CHUNK = 64
"""Sequences computed between two notes of progress."""


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """Features of each sequence, memory-mapped; bfloat16 kept as 16-bit integers."""

    values: np.memmap[tuple[int, int], np.dtype[np.int16]]
    offsets: list[int]

    def get(self, index: int) -> torch.Tensor:
        """Features ``[L, F]`` of one sequence, bfloat16."""
        rows = self.values[self.offsets[index] : self.offsets[index + 1]]
        return torch.from_numpy(np.asarray(rows).copy()).view(torch.bfloat16)

    def packed(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[T, F]`` of the sequences, end to end; bfloat16, on the CPU."""
        return torch.cat([self.get(index) for index in indices])


class LiveFeatures:
    """Features computed anew when others are asked for; for a fast target, or a small disk."""

    def __init__(self, sequences: Sequence[Sequence[int]], compute: FeatureFunction) -> None:
        self._sequences, self._compute = sequences, compute
        self._last: tuple[list[int], torch.Tensor] = ([], torch.empty(0))

    def packed(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[T, F]`` of the sequences, end to end; bfloat16, where the target is."""
        if self._last[0] != list(indices):
            ids, mask = _padded([self._sequences[index] for index in indices])
            features = self._compute(ids, mask).to(torch.bfloat16)[mask.bool()]
            self._last = (list(indices), features)
        return self._last[1]


@dataclass(frozen=True, slots=True)
class Columns:
    """Some of the columns of features."""

    whole: FeatureStore | LiveFeatures
    columns: slice

    def packed(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[T, F']`` of the sequences, end to end."""
        return self.whole.packed(indices)[:, self.columns]


Features = FeatureStore | LiveFeatures | Columns


def feature_scale(features: Features, num_sequences: int) -> torch.Tensor:
    """Typical magnitude of every feature ``[F]`` over the first sequences, float32, on the CPU.

    Median of the absolute value, as the deviation of a normal distribution: a few tokens carry
    activations a thousand times the rest, and a mean square would see nothing else. Rounded to a
    power of two, so that dividing by it loses nothing.
    """
    rows = torch.cat([features.packed([i])[::8].float().cpu() for i in range(num_sequences)])
    deviation = (rows.abs().median(0).values / 0.6745).clamp_min(1e-4)
    return deviation.log2().round().exp2()


def open_features(
    directory: Path,
    sequences: Sequence[Sequence[int]],
    width: int,
    compute: FeatureFunction,
    *,
    keep: Literal["auto", "disk", "none"],
    device: torch.device,
    progress: Callable[[int], object] = lambda done: None,
) -> FeatureStore | LiveFeatures:
    """Features that are kept, or made anew at every step.

    Args:
        directory: where they are kept; named by a digest of target, layers and corpus.
        sequences: token ids.
        width: F.
        compute: the target.
        keep: ``auto`` keeps them where the target is slow (a CPU) and the disk has room.
        device: the target's.
        progress: called with the number of finished sequences.

    Raises:
        UserError: they are to be kept, and the disk is too small.
    """
    if keep == "auto":
        keep = "disk" if device.type == "cpu" and _has_room(directory, sequences, width) else "none"
    if keep == "none":
        return LiveFeatures(sequences, compute)
    return build_store(directory, sequences, width, compute, progress=progress)


def _has_room(directory: Path, sequences: Sequence[Sequence[int]], width: int) -> bool:
    if (directory / "features.bin").exists():
        return True
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(map(len, sequences)) * width * 2
    free = shutil.disk_usage(directory).free
    if needed > 0.9 * free:
        _LOG.warning(
            "target features need %.1f GB and %s has %.1f GB left, so they are computed at every "
            "step, which is slow on a CPU; set HARNESS_CACHE_DIR to a larger disk.",
            needed / 1e9,
            directory,
            free / 1e9,
        )
        return False
    return True


def build_store(
    directory: Path,
    sequences: Sequence[Sequence[int]],
    width: int,
    compute: FeatureFunction,
    *,
    batch_tokens: int = 2048,
    progress: Callable[[int], object] = lambda done: None,
) -> FeatureStore:
    """Open the store in ``directory``, computing what is missing; safe to stop at any time.

    Args:
        directory: named by a digest of target, layers and corpus: what is there is right.
        sequences: token ids; features of a shorter list that was a prefix are not reused.
        width: F.
        compute: the target.
        batch_tokens: padded tokens of one forward pass.
        progress: called with the number of finished sequences.

    Raises:
        UserError: the disk is too small.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Of several trainings that want the same features one computes them; the others wait.
    with FileLock(directory / "lock"):
        return _complete(directory, sequences, width, compute, batch_tokens, progress)


def _complete(
    directory: Path,
    sequences: Sequence[Sequence[int]],
    width: int,
    compute: FeatureFunction,
    batch_tokens: int,
    progress: Callable[[int], object],
) -> FeatureStore:
    offsets = np.cumsum([0, *(len(ids) for ids in sequences)]).tolist()
    file, note = directory / "features.bin", directory / "progress.json"
    size = offsets[-1] * width * 2
    try:
        if not file.exists() or file.stat().st_size != size:
            note.unlink(missing_ok=True)
            with file.open("wb") as handle:
                os.posix_fallocate(handle.fileno(), 0, size)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise UserError(
            f"target features need {size / 1e9:.1f} GB in {directory} ({error}); free some space, "
            "set HARNESS_CACHE_DIR to a larger disk, or write --features none."
        ) from error
    values = np.memmap(file, dtype=np.int16, mode="r+", shape=(offsets[-1], width))
    # Long sequences first: what does not fit shows at once. Chunks keep padding small.
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    done = json.loads(note.read_text())["done"] if note.exists() else 0
    progress(done)
    while done < len(order):
        chunk = order[done : done + _CHUNK]
        _compute_chunk(values, offsets, sequences, chunk, compute, batch_tokens)
        values.flush()
        done += len(chunk)
        fresh = note.with_suffix(".new")
        fresh.write_text(json.dumps({"done": done}))
        fresh.replace(note)
        progress(done)
    return FeatureStore(np.memmap(file, dtype=np.int16, mode="r", shape=values.shape), offsets)


def _compute_chunk(
    values: np.memmap[tuple[int, int], np.dtype[np.int16]],
    offsets: list[int],
    sequences: Sequence[Sequence[int]],
    chunk: list[int],
    compute: FeatureFunction,
    batch_tokens: int,
) -> None:
    width = len(sequences[chunk[0]])
    rows = max(1, batch_tokens // width)
    for start in range(0, len(chunk), rows):
        part = chunk[start : start + rows]
        features = compute(*_padded([sequences[i] for i in part])).to("cpu", torch.bfloat16)
        for row, index in enumerate(part):
            length = offsets[index + 1] - offsets[index]
            bits = features[row, :length].contiguous().view(torch.int16)
            values[offsets[index] : offsets[index + 1]] = bits.numpy()


def _padded(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask ``[B, L_max]``, padded on the right."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    ones = [torch.ones_like(row) for row in ids]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True), pad(ones, batch_first=True)
