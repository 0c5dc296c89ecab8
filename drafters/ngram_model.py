"""A 3-gram model over token ids: interpolated Kneser-Ney, one discount an order.

Which token follows two others is told by their trigrams; what the discount takes from them is told
by the pair's kinds of predecessors, then the token's, then all tokens alike, so that nothing has
probability 0 and the probabilities of all tokens sum to 1. Kneser-Ney rather than stupid backoff,
whose scores do not: they are mixed with a network's log-probabilities here.

Source: Kneser and Ney, 1995, in the interpolated form of Chen and Goodman, 1998, Sec. 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from drafters.block_diffusion.data import TrainingSequence
from harness.errors import UserError
from harness.reading import require_regular

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FILE = "ngram.safetensors"
MOST_BYTES = 4_900_000
"""Of the file; the rarest trigrams of a larger corpus are forgotten."""

_LEAST_DISCOUNT, _MOST_DISCOUNT = 0.1, 0.95
"""The estimate is nothing on small counts of counts, and 0 would leave nothing to lower orders."""


class NgramModel:
    """Probabilities from distinct trigrams and how often each was seen."""

    def __init__(self, trigrams: Ints, counts: Ints, vocab_size: int) -> None:
        """Take ``[n, 3]`` distinct trigrams in ascending order and ``[n]`` counts of at least 1."""
        self.trigrams, self.counts, self.vocab_size = trigrams, counts, vocab_size
        first, second, third = trigrams.T
        self._after_two = _Order(first * vocab_size + second, third, counts, vocab_size)
        pairs, kinds = np.unique(second * vocab_size + third, return_counts=True)
        self._after_one = _Order(pairs // vocab_size, pairs % vocab_size, kinds, vocab_size)
        tokens, kinds = np.unique(pairs % vocab_size, return_counts=True)
        alone = _Order(np.zeros_like(tokens), tokens, kinds, vocab_size)
        every = np.arange(vocab_size)
        self._alone = alone.probs(np.zeros_like(every), every, np.full(vocab_size, 1 / vocab_size))

    @classmethod
    def fit(
        cls, sequences: Iterable[TrainingSequence], vocab_size: int, most_bytes: int = MOST_BYTES
    ) -> NgramModel:
        """Count the trigrams that end in a response.

        Raises:
            ValueError: there is none.
        """
        found: list[Ints] = []
        for sequence in sequences:
            ids = np.asarray(sequence.ids, np.int64)
            begin = max(sequence.start, 2)
            found.append(np.stack([ids[begin - 2 : -2], ids[begin - 1 : -1], ids[begin:]], axis=1))
        every = np.concatenate(found) if found else np.empty((0, 3), np.int64)
        if not len(every):
            raise ValueError("there is no trigram to count")
        scale = np.array([vocab_size**2, vocab_size, 1])
        keys, counts = np.unique(every @ scale, return_counts=True)
        kind = _kind(vocab_size)
        counts = np.minimum(counts, np.iinfo(kind).max)
        rows = most_bytes // (4 * kind.itemsize)
        if len(keys) > rows:
            kept = np.sort(np.argsort(-counts, kind="stable")[:rows])
            keys, counts = keys[kept], counts[kept]
        return cls(keys[:, None] // scale % vocab_size, counts, vocab_size)

    def log_probs(self, before: Ints, tokens: Ints) -> Floats:
        """Natural logarithms of what may follow.

        Args:
            before: ``[b, 2]``, the last two tokens.
            tokens: ``[b, c]``, candidates behind each.

        Returns:
            ``[b, c]``.
        """
        first, second = before[:, :1], before[:, 1:]
        p = self._after_one.probs(second, tokens, self._alone[tokens])
        return np.log(self._after_two.probs(first * self.vocab_size + second, tokens, p))

    def digest(self) -> str:
        """SHA-256 of trigrams and counts."""
        body = np.column_stack((self.trigrams, self.counts))
        return hashlib.sha256(body.astype("<i8").tobytes()).hexdigest()

    def save(self, directory: Path) -> None:
        """Write `FILE`."""
        kind = _kind(self.vocab_size)
        save_file(
            {"trigrams": self.trigrams.astype(kind), "counts": self.counts.astype(kind)},
            directory / FILE,
        )

    @classmethod
    def load(cls, path: Path, vocab_size: int) -> NgramModel:
        """Read a model from its file, or from the directory that holds it.

        Raises:
            UserError: it is not there, broken, or of another vocabulary.
        """
        path = path / FILE if path.is_dir() else path
        try:
            require_regular(path)
            body = load_file(path)
            trigrams, counts = (body[name].astype(np.int64) for name in ("trigrams", "counts"))
            _check(trigrams, counts, vocab_size)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UserError(
                f"3-gram model {path} cannot be used ({error}); `python -m harness train --drafter "
                "dlm` makes one."
            ) from error
        return cls(trigrams, counts, vocab_size)


class _Order:
    """What was seen behind each context, less the discount, which is left to the order below."""

    def __init__(self, contexts: Ints, tokens: Ints, counts: Ints, vocab_size: int) -> None:
        """All ``[n]``, distinct, ascending by context, then token."""
        discount = _discount(counts)
        self._vocab_size = vocab_size
        self._contexts, begins, kinds = np.unique(contexts, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, begins)
        self._left = discount * kinds / totals
        self._keys = contexts * vocab_size + tokens
        self._seen = (counts - discount) / np.repeat(totals, kinds)

    def probs(self, contexts: Ints, tokens: Ints, lower: Floats) -> Floats:
        """Of ``tokens`` behind ``contexts``, where the order below says ``lower``."""
        left = _at(self._contexts, self._left, contexts, 1.0)
        return _at(self._keys, self._seen, contexts * self._vocab_size + tokens, 0.0) + left * lower


def _at(keys: Ints, values: Floats, asked: Ints, otherwise: float) -> Floats:
    """Values at ``asked`` of ascending ``keys``."""
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, values[places], otherwise)


def _discount(counts: Ints) -> float:
    """``n1 / (n1 + 2 n2)`` of how many counts are 1 and 2."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    estimate = once / (once + 2 * twice) if once else 0.0
    return min(max(estimate, _LEAST_DISCOUNT), _MOST_DISCOUNT)


def _kind(vocab_size: int) -> np.dtype[Any]:
    """The smallest type on disk that holds every token."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def _check(trigrams: Ints, counts: Ints, vocab_size: int) -> None:
    if trigrams.ndim != 2 or trigrams.shape[1] != 3 or counts.shape != trigrams.shape[:1]:
        raise ValueError("its arrays have other shapes")
    if not len(counts) or counts.min() < 1:
        raise ValueError("its counts are none")
    if trigrams.min() < 0 or trigrams.max() >= vocab_size:
        raise ValueError("its tokens are those of another tokenizer")
    keys = trigrams @ np.array([vocab_size**2, vocab_size, 1])
    if not (np.diff(keys) > 0).all():
        raise ValueError("its trigrams are not in order")
