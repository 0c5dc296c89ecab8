"""Recorded greedy answers that a study replays: of held-back training prompts, and of runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import target_features
from drafters.block_diffusion.data import TrainingSequence, corpus_digest
from drafters.block_diffusion.features import Features
from drafters.block_diffusion.model import BlockDiffusionModel, build_target_layer_ids
from drafters.block_diffusion.replay import replay
from drafters.block_diffusion.workbench import Workbench
from harness.conversations import prompt_sha256, turns
from harness.errors import UserError
from harness.plan import prompts_of_run
from harness.records import key_of
from harness.study import Measure
from harness.study_records import HELD_BACK, Replayed
from harness.waste import slots_of
from reports.run import Run


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one task, cut to one limit.

    Attributes:
        task: `HELD_BACK`, or the task.
        names: prompt id and turn of each.
        sequences: prompt and answer.
        features: the target's, of the whole answers.
        rows: index in ``features`` of each.
        max_new_tokens: the limit they are replayed with.
    """

    task: str
    names: tuple[tuple[str, int], ...]
    sequences: tuple[TrainingSequence, ...]
    features: Features
    rows: tuple[int, ...]
    max_new_tokens: int

    def first(self, count: int) -> Answers:
        """The first ``count`` of them."""
        return replace(
            self,
            names=self.names[:count],
            sequences=self.sequences[:count],
            rows=self.rows[:count],
        )

    def packed(self, indices: Sequence[int]) -> torch.Tensor:
        """Features ``[T, F]`` of those answers, end to end, as far as they are replayed."""
        return torch.cat(
            [self.features.packed([self.rows[i]])[: len(self.sequences[i].ids)] for i in indices]
        )
