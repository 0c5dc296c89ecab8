"""Training of a student: distilled from its target, on every token of the target's responses.

A student is a variant beside the objectives' own: same corpus, order, optimiser and snapshots. Its
features are the embedded tokens, and its blocks have one label each.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drafters.block_diffusion import checkpoint, trainer
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.snapshot import settings_digest
from drafters.block_diffusion.variant import Variant
from drafters.block_diffusion.workbench import Pass, Workbench, open_workbench
from drafters.student.checkpoint import save
from drafters.student.network import Student, choose_layers
from harness.user_cache import user_cache

NAME = "student"
OBJECTIVE = Objective(distill=1, description="the target's distribution of every next token")
"""Cross-entropy against the target's distribution: KL(target, student) but for a constant."""
_NOT_USED = ("num_anchors", "mlp_width", "num_features")
"""Settings of block-diffusion drafters that change nothing here."""


class StudentWorkbench(Workbench):
    """A workbench whose sequences are read token by token."""

    def features(self, indices: Sequence[int]) -> torch.Tensor:
        """Embedded tokens ``[T, D]`` of the sequences, end to end."""
        ids = [token for index in indices for token in self.corpus.sequences[index].ids]
        with torch.no_grad():
            embedded: torch.Tensor = self.target.embed_tokens(torch.tensor(ids, device=self.device))
        return embedded

    def passes(self, indices: Sequence[int], step: int, config: TrainConfig) -> list[Pass | None]:
        """See `Workbench.passes`; an anchor at every token of a response, one label behind it."""
        every_token = dataclasses.replace(config, num_anchors=sys.maxsize, block_size=2)
        return super().passes(indices, step, every_token)


def train(config: TrainConfig) -> list[Path]:
    """Train a student of ``config.target``; returns its checkpoint directory.

    Stopping loses at most ``save_every`` steps, and several processes share each step, as in
    `drafters.block_diffusion.trainer.train`. ``block_size`` is that of the measurements.

    Raises:
        UserError: unusable data, or a target that cannot be loaded or has fewer layers.
    """
    found = open_workbench(config, [OBJECTIVE], layers=())
    bench = StudentWorkbench(found.target, found.corpus, found.head, found.replicas)
    student = Student(bench.target, choose_layers(bench.target.num_layers, config.num_layers))
    settings = {key: value for key, value in bench.settings(config).items() if key not in _NOT_USED}
    variant = _variant(student, settings, config.learning_rate, bench)
    trainer.run([variant], config, bench)
    if not bench.replicas.place.is_first:
        return []
    root = config.output_dir
    directory = checkpoint.user_directory(config.target, NAME) if root is None else root / NAME
    record = trainer.record_of(variant, settings, bench)
    save(directory, student, bench.target, record, trainer.trained_vocabulary(bench))
    return [directory]


def _variant(
    student: Student, settings: Mapping[str, Any], learning_rate: float, bench: Workbench
) -> Variant:
    student.start_from_target(bench.target)
    row = repr(dataclasses.asdict(OBJECTIVE))
    digest = settings_digest({**settings, "objective": row, "layers": student.layer_ids})
    start = f"target's layers {', '.join(map(str, student.layer_ids))}"
    snapshot = user_cache() / "training" / f"{NAME}-{digest[:24]}.pt"
    variant = Variant(NAME, OBJECTIVE, student, start, learning_rate, snapshot)
    variant.resume()
    return variant
