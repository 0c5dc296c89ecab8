"""What the model is shown in training: responses with masks in them, in two forms.

- A *block*: prompt and the beginning of the response, then masks, then nothing, as drafting always
  asks. There are as many masks as a draft has tokens, between two thirds of the longest and all of
  it. Where the response ends within them, its stop token goes on to the end of the block: that is
  how a draft shows where it thinks the end is.
- *At random* (LLaDA, arXiv 2502.09992, Eq. 3; MDLM, arXiv 2406.07524): t ~ U(0, 1), every token of
  the response masked with probability t, the loss of each over t. This is what teaches a model that
  read from left to right to use what stands behind a mask.

A quarter of the views is of the second form. Each view weighs one: its losses are summed by
`View.weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from drafters.block_diffusion.data import Ints, TrainingSequence, draw_anchors

Floats = npt.NDArray[np.float64]

RANDOM_SHARE = 0.25
"""Of the views that are masked at random."""


@dataclass(frozen=True, slots=True)
class View:
    """A sequence as the model sees it once.

    Attributes:
        ids: ``[L]``, masks included.
        places: ``[M]``, positions to be found, ascending; never the first.
        labels: ``[M]``, what stands there.
        weights: ``[M]``, of the losses.
    """

    ids: Ints
    places: Ints
    labels: Ints
    weights: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How views of a sequence are made."""

    mask_token_id: int
    longest: int
    """Most masks of a block."""
    stop_ids: frozenset[int]
    max_context: int

    def draw(self, sequence: TrainingSequence, rng: np.random.Generator) -> View:
        """One view, of either form."""
        if rng.random() < RANDOM_SHARE:
            return self.at_random(sequence, rng)
        (anchor,) = draw_anchors(sequence, 1, rng)
        shortest = -(-2 * self.longest // 3)
        return self.block(sequence, int(anchor), int(rng.integers(shortest, self.longest + 1)))

    def block(self, sequence: TrainingSequence, anchor: int, count: int) -> View:
        """``count`` masks behind the token at ``anchor``, nothing behind them."""
        count = min(count, self.max_context - anchor - 1)
        ids = np.asarray(sequence.ids, np.int64)
        labels = ids[anchor + 1 : anchor + 1 + count]
        if sequence.ids[-1] in self.stop_ids:
            labels = np.pad(labels, (0, count - len(labels)), constant_values=ids[-1])
        masks = np.full(count, self.mask_token_id)
        return View(
            np.concatenate((ids[: anchor + 1], masks)),
            anchor + 1 + np.arange(len(labels)),
            labels,
            np.full(len(labels), 1 / len(labels)),
        )

    def at_random(self, sequence: TrainingSequence, rng: np.random.Generator) -> View:
        """Tokens of the response, each masked with one probability; perhaps none."""
        ids = np.array(sequence.ids, np.int64)
        begin = max(sequence.start, 1)
        length = len(ids) - begin
        # Below 1 / length no token is expected to be masked, and one that is would weigh too much.
        t = max(rng.random(), 1 / length)
        places = begin + np.flatnonzero(rng.random(length) < t)
        labels = ids[places]
        ids[places] = self.mask_token_id
        return View(ids, places, labels, np.full(len(places), 1 / (t * length)))


@dataclass(frozen=True, slots=True)
class PackedViews:
    """Some views end to end, on the device.

    Attributes:
        ids: ``[T]`` int64.
        lengths: tokens of each view.
        rows: ``[M]`` int64, rows of the pass that speak of the places.
        labels: ``[M]`` int64.
        weights: ``[M]`` float32.
    """

    ids: torch.Tensor
    lengths: tuple[int, ...]
    rows: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


def pack(views: Sequence[View], device: torch.device, *, shifted: bool) -> PackedViews:
    """Put views end to end; ``shifted`` as in `config.DiffusionConfig`."""
    lengths = tuple(len(view.ids) for view in views)
    begins = np.cumsum([0, *lengths[:-1]])
    rows = [begin + view.places - shifted for begin, view in zip(begins, views, strict=True)]

    def joined(parts: Sequence[Ints | Floats]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts)).to(device)

    return PackedViews(
        joined([view.ids for view in views]),
        lengths,
        joined(rows),
        joined([view.labels for view in views]),
        joined([view.weights for view in views]).float(),
    )
