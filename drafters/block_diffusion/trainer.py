"""Training of block-diffusion drafters: all variants in step, on the same blocks."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import draw_anchors
from drafters.block_diffusion.head import is_argmax
from drafters.block_diffusion.objectives import FIVE, Objective, objective_loss
from drafters.block_diffusion.optimizer import cosine_with_warmup
from drafters.block_diffusion.shape import drafter_config
from drafters.block_diffusion.snapshot import settings_digest
from drafters.block_diffusion.steps import run_steps
from drafters.block_diffusion.training_record import training_record
from drafters.block_diffusion.variant import (
    LOGGED,
    Variant,
    block_loss,
    initial_model,
    label_rows,
    start_from_target,
)
from drafters.block_diffusion.warm_start import find_start, start_facts, started_model
from drafters.block_diffusion.workbench import Pass, Workbench, open_workbench
from harness import registry
from harness.user_cache import user_cache

_EVAL_SEQUENCES = 48
_EVAL_ANCHORS = 16
_EVALS = 8
"""Measurements on held-back prompts over a training."""


def train(config: TrainConfig) -> list[Path]:
    """Train the variants that ``config`` names; returns one checkpoint directory each.

    Stopping (Ctrl-C, kill) loses at most ``save_every`` steps; the same call goes on. Under a
    launcher every process takes its share of each step; the first one saves.

    Raises:
        UserError: unknown names, unusable data, or a target that cannot be loaded.
    """
    objectives = _objectives(config.drafter)
    bench = open_workbench(config, objectives.values())
    variants = train_variants(bench, config, objectives)
    if not bench.replicas.place.is_first:
        return []
    root = config.output_dir
    return [
        export(
            variant,
            config,
            bench,
            checkpoint.user_directory(config.target, variant.name)
            if root is None
            else root / variant.name,
        )
        for variant in variants
    ]


def train_variants(
    bench: Workbench,
    config: TrainConfig,
    objectives: Mapping[str, Objective],
    snapshots: Path | None = None,
    num_measurements: int = _EVALS,
    watch: Callable[[Sequence[Variant]], object] = lambda variants: None,
) -> list[Variant]:
    """Train one variant an objective, in step on the same batches; goes on from snapshots.

    Args:
        bench: opened with the same target, data, features and vocabulary as ``config`` names.
        config: of these variants; seed, steps and shape may differ from call to call.
        objectives: by name.
        snapshots: where they are kept; by default the user cache.
        num_measurements: on held-back prompts, over the training.
        watch: called with the variants that were just measured, before they are saved; after a
            kill it may see a step again.
    """
    root = user_cache() / "training" if snapshots is None else snapshots
    variants = [
        _variant(name, objective, config, bench, root) for name, objective in objectives.items()
    ]
    run(variants, config, bench, num_measurements, watch)
    return variants


def _objectives(names: str) -> dict[str, Objective]:
    if names == "all":
        return dict(FIVE)
    wanted = dict.fromkeys(name.strip() for name in names.split(","))
    return {name: registry.load("objectives", name) for name in wanted}


def _variant(
    name: str, objective: Objective, config: TrainConfig, bench: Workbench, snapshots: Path
) -> Variant:
    settings = {**bench.settings(config), "objective": repr(dataclasses.asdict(objective))}
    dtype, scale = getattr(torch, config.dtype), bench.corpus.scale
    found = find_start(name, config, bench.target)
    if found is not None:
        model, start = started_model(found, config, scale, dtype, bench.head), "a checkpoint"
        settings["start_from"] = found.weights_sha256
    else:
        shape = drafter_config(bench.target, config, bench.head.scales)
        model = initial_model(shape, bench.head, config.seed, dtype)
        copied = start_from_target(model, bench.target, scale)
        start = "target's last layers" if copied else "random"
    snapshot = snapshots / f"{name}-{settings_digest(settings)[:24]}.pt"
    variant = Variant(name, objective, model, start, config.learning_rate, snapshot)
    variant.start_from = None if found is None else start_facts(found)
    variant.resume()
    return variant


def run(
    variants: Sequence[Variant],
    config: TrainConfig,
    bench: Workbench,
    num_measurements: int = _EVALS,
    watch: Callable[[Sequence[Variant]], object] = lambda variants: None,
) -> None:
    """Take every variant, resumed, to the last step, all on the same batches.

    Arguments and errors as of `train_variants` and `steps.run_steps`.
    """
    every = max(1, config.steps // num_measurements)
    first = min((variant.step for variant in variants), default=config.steps)
    order = itertools.islice(bench.order(config), first, None)

    def take(step: int) -> None:
        passes = bench.passes(next(order), step, config)
        shares = _shares(passes, bench)
        for variant in variants:
            if variant.step == step:
                _step(variant, config, passes, shares, bench)
        if (step + 1) % every == 0 or step + 1 == config.steps:
            measured = [v for v in variants if v.step == step + 1]
            measure(measured, bench, config)
            watch(measured)

    replicas, save_every = bench.replicas, config.save_every
    run_steps(variants, config.steps, save_every, replicas, take, lambda: _summary(variants))


def _shares(passes: Sequence[Pass | None], bench: Workbench) -> torch.Tensor:
    """``[passes]``: share of the step's blocks, over all processes, that each pass holds."""
    own = torch.tensor([float(part.blocks.valid[:, 0].sum()) if part else 0.0 for part in passes])
    blocks = bench.replicas.sum(own)
    return blocks / blocks.sum()


def _step(
    variant: Variant,
    config: TrainConfig,
    passes: Sequence[Pass | None],
    shares: torch.Tensor,
    bench: Workbench,
) -> None:
    """One optimiser step.

    The terms of a pass are averaged over all processes' blocks in it, and passes weigh by
    ``shares``.
    """
    started = time.perf_counter()
    replicas, depth = bench.replicas, config.block_size - 1
    values = torch.zeros(len(LOGGED), dtype=torch.float64, device=bench.device)
    for share, part in zip(shares, passes, strict=True):
        if part is None:
            nothing = torch.zeros(0, depth, device=bench.device)
            objective_loss(nothing, nothing.bool(), nothing.bool(), variant.objective, replicas.sum)
        else:
            loss = block_loss(
                variant.model,
                part.blocks,
                part.features,
                bench.head,
                variant.objective,
                replicas.sum,
                part.expected,
                part.visible(variant.objective),
            )
            if loss.total.requires_grad:  # else no block has a label behind what it shows
                (loss.total * share).backward()
            parts = (loss.total, loss.cross_entropy, loss.first_error, loss.chain_reward)
            values += share * torch.stack(parts).detach()
        gradients = variant.optimizer.take_gradients()
    replicas.sum_gradients(gradients)
    scale = cosine_with_warmup(variant.step, config.steps, config.warmup_fraction)
    variant.optimizer.step(scale, config.max_grad_norm)
    variant.step += 1
    variant.note(replicas.sum(values))
    variant.train_s += time.perf_counter() - started


@torch.no_grad()
def measure(variants: Iterable[Variant], bench: Workbench, config: TrainConfig) -> None:
    """Training-time accepted length on held-back prompts, over the training vocabulary.

    Fixed anchors, nothing behind them visible; leading argmax matches a block plus the bonus token;
    a token outside the vocabulary is a miss. Appended to the history.
    """
    chosen = bench.replicas.share(bench.corpus.held_back[:_EVAL_SEQUENCES])
    variants = list(variants)
    totals = torch.zeros(len(variants), 2, dtype=torch.float64, device=bench.device)
    for start in range(0, len(chosen), 8):
        indices = chosen[start : start + 8]
        anchors = [
            draw_anchors(bench.corpus.sequences[i], _EVAL_ANCHORS, np.random.default_rng(0))
            for i in indices
        ]
        blocks = bench.blocks(indices, anchors, config.block_size)
        features = bench.features(indices)
        for row, variant in enumerate(variants):
            hidden, labels, valid = label_rows(variant.model, blocks, features, bench.head)
            hits = torch.zeros_like(valid).masked_scatter(
                valid, is_argmax(hidden, bench.head.lm_head, labels)
            )
            totals[row, 0] += hits.cumprod(-1).sum()
            totals[row, 1] += blocks.valid[:, 0].sum()
    totals = bench.replicas.sum(totals).cpu()
    for variant, (accepted, count) in zip(variants, totals.tolist(), strict=True):
        variant.record(train_time_tau=1 + accepted / count)


def _summary(variants: Sequence[Variant]) -> str:
    measured = {v.name: v.history[-1]["train_time_tau"] for v in variants if v.history}
    return ", ".join(f"{name} τ {tau:.2f}" for name, tau in measured.items())


def export(variant: Variant, config: TrainConfig, bench: Workbench, directory: Path) -> Path:
    """Write the variant's checkpoint, with the record of its training, to ``directory``."""
    record = record_of(variant, bench.settings(config), bench)
    checkpoint.save(
        directory, variant.export(bench.corpus.scale), record, trained_vocabulary(bench)
    )
    return directory


def record_of(variant: Variant, settings: Mapping[str, Any], bench: Workbench) -> dict[str, Any]:
    """Content of ``training.json``; ``settings`` as of `Workbench.settings`."""
    row = dataclasses.asdict(variant.objective)
    # JSON has no infinity; null is "no decay".
    row["gamma"] = None if row["gamma"] == float("inf") else row["gamma"]
    del row["description"]
    facts = {"objective": row, **settings, "initial_weights": variant.initial_weights}
    if variant.start_from is not None:
        facts["start_from"] = variant.start_from
    return training_record(
        variant.name,
        facts,
        bench.corpus.prompts,
        variant,
        bench.replicas.place.size,
    )


def trained_vocabulary(bench: Workbench) -> torch.Tensor | None:
    """Tokens of the softmax in training, for the checkpoint; None where it had all."""
    vocabulary = bench.corpus.vocabulary
    return None if len(vocabulary) == bench.target.vocab_size else vocabulary
