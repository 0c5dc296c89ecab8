"""Target features of a corpus, computed once, kept on disk, shared by every variant and epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from harness.errors import UserError

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

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[B, L_max, F]``, zero behind each sequence's end."""
        parts = [self.get(index) for index in indices]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def scale(self, num_sequences: int = 256) -> torch.Tensor:
        """Typical magnitude of every feature ``[F]`` over the first sequences, float32.

        Median of the absolute value, as the deviation of a normal distribution: a few tokens carry
        activations a thousand times the rest, and a mean square would see nothing else.
        """
        count = min(num_sequences, len(self.offsets) - 1)
        rows = torch.cat([self.get(i)[::8].float() for i in range(count)])
        return (rows.abs().median(0).values / 0.6745).clamp_min(1e-4)


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
    offsets = np.cumsum([0, *(len(ids) for ids in sequences)]).tolist()
    directory.mkdir(parents=True, exist_ok=True)
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
            "set HARNESS_CACHE_DIR to a larger disk, or lower --max-prompts."
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
        ids = [torch.tensor(sequences[i]) for i in part]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(x) for x in ids], batch_first=True)
        features = compute(padded, mask).to("cpu", torch.bfloat16)
        for row, index in enumerate(part):
            length = offsets[index + 1] - offsets[index]
            bits = features[row, :length].contiguous().view(torch.int16)
            values[offsets[index] : offsets[index + 1]] = bits.numpy()
