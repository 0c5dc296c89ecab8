"""Training of a diffusion LM on the target's weights: low-rank additions, two-way attention.

The embedding, the norms and the LM head stay the target's. Every sequence of a step gives one view
(see `masking`); all that a step holds goes end to end through one pass, or a few.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from drafters.block_diffusion.checkpoint import user_directory
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import draw_anchors
from drafters.block_diffusion.head import is_argmax
from drafters.block_diffusion.optimizer import cosine_with_warmup
from drafters.block_diffusion.snapshot import Training, settings_digest
from drafters.block_diffusion.steps import run_steps
from drafters.block_diffusion.training_record import training_record
from drafters.diffusion_lm import checkpoint
from drafters.diffusion_lm.bench import Bench, open_bench
from drafters.diffusion_lm.masking import View
from drafters.ngram_model import NgramModel
from harness.errors import UserError
from harness.user_cache import user_cache

LOGGED = ("loss",)

_EVAL_SEQUENCES = 48
_EVAL_ANCHORS = 2
"""Each costs a pass of its own."""
_EVALS = 8
"""Measurements on held-back prompts over a training."""
_EVAL_VIEWS = 4
"""Of one pass."""

_WITHOUT_MEANING = (
    *("num_anchors", "num_layers", "mlp_width", "num_features", "train_vocab_size", "features"),
)


def train(config: TrainConfig) -> list[Path]:
    """Train the diffusion LM of a target; returns its directory.

    Stopping (Ctrl-C, kill) loses at most ``save_every`` steps; the same call goes on. Under a
    launcher every process takes its share of each step; the first one saves.

    Raises:
        UserError: a flag without meaning here, unusable data, or a target that cannot be loaded.
    """
    require_meaning(config)
    bench = open_bench(config)
    digest = settings_digest(bench.settings(config))
    snapshot = user_cache() / "training" / f"{checkpoint.NAME}-{digest[:24]}.pt"
    training = Training(bench.factors.values(), config.learning_rate, snapshot, LOGGED)
    training.resume()
    order = itertools.islice(bench.order(config), training.step, None)
    every = max(1, config.steps // _EVALS)

    def take(step: int) -> None:
        take_step(training, bench, next(order), config)
        if (step + 1) % every == 0 or step + 1 == config.steps:
            training.record(train_time_tau=measure(bench))

    def summary() -> str:
        return f"τ {training.history[-1]['train_time_tau']:.2f}" if training.history else ""

    run_steps([training], config.steps, config.save_every, bench.replicas, take, summary)
    return [_export(training, config, bench)] if bench.replicas.place.is_first else []


def require_meaning(config: TrainConfig) -> None:
    """Refuse flags that another trainer takes and this one would ignore.

    Raises:
        UserError: one is not at its default.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for name in _WITHOUT_MEANING:
        if getattr(config, name) != defaults[name]:
            raise UserError(
                f"--{name.replace('_', '-')} has no meaning for {checkpoint.NAME}; leave it out."
            )


def take_step(
    training: Training, bench: Bench, indices: Sequence[int], config: TrainConfig
) -> None:
    """One optimiser step on one view a sequence; the draws depend on seed, step and sequence."""
    started = time.perf_counter()
    replicas, optimizer = bench.replicas, training.optimizer
    views = [
        bench.masking.draw(
            bench.data.sequences[i], np.random.default_rng([config.seed, training.step, i])
        )
        for i in replicas.share(indices)
    ]
    total = torch.zeros(1, dtype=torch.float64, device=bench.target.device)
    for part in _portions(views, config.micro_batch or len(indices)):
        loss = bench.loss(part) / len(indices)
        if loss.requires_grad:  # else nothing was masked
            loss.backward()
        total += loss.detach()
        optimizer.take_gradients()
    replicas.sum_gradients(optimizer.take_gradients())
    scale = cosine_with_warmup(training.step, config.steps, config.warmup_fraction)
    optimizer.step(scale, config.max_grad_norm)
    training.step += 1
    training.note(replicas.sum(total))
    training.train_s += time.perf_counter() - started


def _portions(views: Sequence[View], size: int) -> Iterator[Sequence[View]]:
    for start in range(0, len(views), size):
        yield views[start : start + size]


@torch.no_grad()
def measure(bench: Bench) -> float:
    """Training-time accepted length on held-back prompts.

    Fixed anchors; leading argmax matches of a longest draft, up to the response's end, plus the
    bonus token.
    """
    chosen = bench.replicas.share(bench.data.held_back[:_EVAL_SEQUENCES])
    views: list[View] = []
    for index in chosen:
        sequence = bench.data.sequences[index]
        for anchor in draw_anchors(sequence, _EVAL_ANCHORS, np.random.default_rng(0)):
            view = bench.masking.block(sequence, int(anchor), bench.masking.longest)
            real = slice(len(sequence.ids) - int(anchor) - 1)
            views.append(View(view.ids, view.places[real], view.labels[real], view.weights[real]))
    totals = torch.zeros(2, dtype=torch.float64, device=bench.target.device)
    for part in _portions(views, _EVAL_VIEWS):
        hidden, labels, _ = bench.outputs(part)
        hits = is_argmax(hidden, bench.lm_head, labels).long()
        for own in hits.split([len(view.labels) for view in part]):
            totals[0] += own.cumprod(0).sum()
        totals[1] += len(part)
    accepted, count = bench.replicas.sum(totals).tolist()
    return 1 + float(accepted) / count


def _export(training: Training, config: TrainConfig, bench: Bench) -> Path:
    """Write the checkpoint, with the record of its training and the 3-gram model."""
    name, root = checkpoint.NAME, config.output_dir
    directory = user_directory(config.target, name) if root is None else root / name
    record = training_record(
        name, bench.settings(config), bench.data.prompts, training, bench.replicas.place.size
    )
    factors = dict(zip(bench.factors, training.optimizer.masters, strict=True))
    sequences = (bench.data.sequences[i] for i in bench.data.train)
    ngrams = NgramModel.fit(sequences, bench.target.vocab_size)
    checkpoint.save(directory, bench.config, factors, record, ngrams)
    return directory
