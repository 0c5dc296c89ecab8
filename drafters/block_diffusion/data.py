"""Training sequences: prompt and response ids, batches of them, random anchors and blocks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """Token ids of one conversation; the response starts at ``start``."""

    ids: tuple[int, ...]
    start: int

    @property
    def num_anchors(self) -> int:
        """Positions that can be an anchor: a response token followed by another."""
        return max(0, len(self.ids) - 1 - self.start)


def corpus_digest(sequences: Sequence[TrainingSequence]) -> str:
    """SHA-256 of all token ids in order."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(np.asarray([sequence.start, *sequence.ids], np.int64).tobytes())
    return digest.hexdigest()


def frequent_tokens(sequences: Sequence[TrainingSequence], size: int) -> tuple[Ints, float]:
    """The ``size`` most frequent response tokens, ascending, and the share of text they cover."""
    counts: Counter[int] = Counter()
    for sequence in sequences:
        counts.update(sequence.ids[sequence.start :])
    # Ties are broken by id: the vocabulary must not depend on reading order.
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:size]
    covered = sum(count for _, count in ranked) / max(1, counts.total())
    return np.array(sorted(token for token, _ in ranked), np.int64), covered


def batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[Ints]:
    """Endless batches of sequence numbers: each epoch a permutation, similar lengths together.

    Lengths are sorted within windows of 32 batches only, so padding stays small and order random.
    """
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(lengths))
        window = 32 * batch_size
        chosen = []
        for start in range(0, len(order), window):
            part = sorted(order[start : start + window], key=lambda i: lengths[i])
            chosen += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        for index in rng.permutation(len(chosen)):
            yield np.array(chosen[index], np.int64)
        epoch += 1


def training_order(
    sequences: Sequence[TrainingSequence], train: Sequence[int], batch_size: int, seed: int
) -> Iterator[list[int]]:
    """Sequences of every step, out of ``train``; the same in all processes, see `batches`."""
    lengths = [len(sequences[i].ids) for i in train]
    for chosen in batches(lengths, batch_size, seed):
        yield [train[i] for i in chosen]


def draw_anchors(sequence: TrainingSequence, count: int, rng: np.random.Generator) -> Ints:
    """At most ``count`` distinct anchors, ascending."""
    available = sequence.num_anchors
    picked = rng.choice(available, size=min(count, available), replace=False)
    anchors: Ints = np.sort(picked) + sequence.start
    return anchors


@dataclass(frozen=True, slots=True)
class Blocks:
    """N blocks of a batch whose sequences lie end to end, T tokens in all; nothing is padded.

    Attributes:
        lengths: tokens of each sequence.
        owner: ``[N]`` int64, ascending; which sequence of the batch a block belongs to.
        anchors: ``[N]`` int64, position in that sequence, ascending within one.
        tokens: ``[N]`` ids at the anchors.
        labels: ``[N, K − 1]`` ids at anchor + k; 0 where not valid.
        valid: ``[N, K − 1]`` bool.
    """

    lengths: tuple[int, ...]
    owner: torch.Tensor
    anchors: torch.Tensor
    tokens: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device) -> Blocks:
        """The same blocks on ``device``."""
        tensors = (self.owner, self.anchors, self.tokens, self.labels, self.valid)
        return Blocks(self.lengths, *(x.to(device) for x in tensors))


def make_blocks(
    sequences: Sequence[TrainingSequence], anchors: Sequence[Ints], block_size: int
) -> Blocks:
    """The blocks that start at ``anchors`` of each sequence, with the labels inside it."""
    tokens, labels, valid = [], [], []
    for sequence, chosen in zip(sequences, anchors, strict=True):
        ids = np.asarray(sequence.ids, np.int64)
        at = chosen[:, None] + np.arange(1, block_size)
        inside = at < len(ids)
        tokens.append(ids[chosen])
        labels.append(np.where(inside, ids[np.minimum(at, len(ids) - 1)], 0))
        valid.append(inside)
    owner = np.repeat(np.arange(len(sequences)), [len(chosen) for chosen in anchors])
    parts = (owner, *(np.concatenate(x) for x in (anchors, tokens, labels, valid)))
    return Blocks(tuple(len(sequence.ids) for sequence in sequences), *map(torch.from_numpy, parts))
