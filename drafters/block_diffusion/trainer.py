"""Training of block-diffusion drafters: all variants in step, on the same blocks."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import Corpus, build_corpus
from drafters.block_diffusion.data import Blocks, batches, draw_anchors, make_blocks
from drafters.block_diffusion.head import is_argmax
from drafters.block_diffusion.model import build_target_layer_ids
from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from drafters.block_diffusion.optimizer import cosine_with_warmup
from drafters.block_diffusion.shape import drafter_config
from drafters.block_diffusion.variant import (
    SharedHead,
    Variant,
    block_loss,
    initial_model,
    label_rows,
    settings_digest,
    start_from_target,
)
from harness import provenance, registry
from harness.errors import UserError
from harness.interrupt import interrupt_deferred
from harness.plan import resolve_device
from harness.user_cache import user_cache
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

_EVAL_SEQUENCES = 48
_EVAL_ANCHORS = 16
_EVALS = 8
"""Measurements on held-back prompts over a training."""


def train(config: TrainConfig) -> list[Path]:
    """Train the variants that ``config`` names; returns one checkpoint directory each.

    Stopping (Ctrl-C, kill) loses at most ``save_every`` steps; the same call goes on.

    Raises:
        UserError: unknown names, unusable data, or a target that cannot be loaded.
    """
    objectives = _objectives(config.drafter)
    device = resolve_device(config.device)
    target = load_target(
        TargetOptions(
            name=config.target, dtype=config.dtype, device=device, revision=config.revision
        )
    )
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {config.target} is not a transformers model; training needs one.")
    layers = build_target_layer_ids(target.num_layers, config.num_features)
    corpus = build_corpus(config, target, layers)
    head = SharedHead.of(target, corpus.vocabulary)
    variants = [
        _variant(name, objective, config, target, corpus, head)
        for name, objective in objectives.items()
    ]
    _run(variants, config, corpus, head)
    return [_export(variant, config, corpus, target) for variant in variants]


def _objectives(names: str) -> dict[str, Objective]:
    if names == "all":
        return dict(OBJECTIVES)
    wanted = dict.fromkeys(name.strip() for name in names.split(","))
    return {name: registry.load("objectives", name) for name in wanted}


def _settings(config: TrainConfig, target: TransformersTarget, corpus: Corpus) -> dict[str, Any]:
    """What two variants share when they are comparable; part of ``training.json``."""
    asked = dataclasses.asdict(config)
    for name in ("drafter", "data", "output_dir", "device", "save_every", "target"):
        del asked[name]
    facts = target.describe()
    return {
        **asked,
        "target": {
            "name": config.target,
            "model": facts["model"],
            "revision": facts["revision"],
            "weights_sha256": facts["weights_sha256"],
        },
        "data": {
            "name": corpus.prompts.name,
            "sha256": corpus.digest,
            "num_sequences": len(corpus.train),
            "num_held_back": len(corpus.held_back),
            "vocabulary": len(corpus.vocabulary),
            "vocabulary_coverage": round(corpus.coverage, 6),
        },
    }


def _variant(
    name: str,
    objective: Objective,
    config: TrainConfig,
    target: TransformersTarget,
    corpus: Corpus,
    head: SharedHead,
) -> Variant:
    row = dataclasses.asdict(objective)
    settings = _settings(config, target, corpus)
    shape = drafter_config(target, config)
    digest = settings_digest({**settings, "objective": repr(row)})
    snapshot = user_cache() / "training" / f"{name}-{digest[:24]}.pt"
    model = initial_model(shape, head, config.seed, getattr(torch, config.dtype))
    start = "target's last layers" if start_from_target(model, target, corpus.scale) else "random"
    variant = Variant(name, objective, model, start, config.learning_rate, snapshot)
    variant.resume()
    return variant


def _run(
    variants: list[Variant],
    config: TrainConfig,
    corpus: Corpus,
    head: SharedHead,
) -> None:
    """Take every variant to the last step; those behind catch up first, on the same batches.

    Raises:
        KeyboardInterrupt: asked to stop; the step was finished and saved first.
    """
    first = min(variant.step for variant in variants)
    order = itertools.islice(_batches(config, corpus), first, None)
    every = max(1, config.steps // _EVALS)
    bar = tqdm(total=config.steps, initial=first, desc="training", unit="step", disable=None)
    with bar, interrupt_deferred() as interrupted:
        for step in range(first, config.steps):
            indices = next(order)
            blocks, features = _batch(indices, step, config, corpus, head)
            report = {}
            for variant in variants:
                if variant.step == step:
                    report[variant.name] = _step(variant, config, blocks, features, head)
            if (step + 1) % every == 0 or step + 1 == config.steps:
                measure([v for v in variants if v.step == step + 1], corpus, head, config)
            bar.update()
            bar.set_postfix_str(_summary(report, variants))
            if interrupted() or (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                for variant in variants:
                    variant.save()
            if interrupted():
                raise KeyboardInterrupt


def _batches(config: TrainConfig, corpus: Corpus) -> Iterator[list[int]]:
    lengths = [len(corpus.sequences[i].ids) for i in corpus.train]
    for chosen in batches(lengths, config.batch_size, config.seed):
        yield [corpus.train[i] for i in chosen]


def _batch(
    indices: list[int], step: int, config: TrainConfig, corpus: Corpus, head: SharedHead
) -> tuple[Blocks, torch.Tensor]:
    """Blocks and scaled features of one step; the anchors depend on seed, step and sequence."""
    sequences = [corpus.sequences[i] for i in indices]
    anchors = [
        draw_anchors(s, config.num_anchors, np.random.default_rng([config.seed, step, i]))
        for s, i in zip(sequences, indices, strict=True)
    ]
    blocks = make_blocks(sequences, anchors, max(map(len, anchors)), config.block_size)
    return _to(blocks, head), scaled_features(corpus, indices, head)


def scaled_features(corpus: Corpus, indices: Sequence[int], head: SharedHead) -> torch.Tensor:
    """Features ``[B, S, F]`` in units of `Corpus.scale`: the optimiser sees dimensions alike."""
    raw = corpus.features.batch(indices).to(head.embedding.device)
    return (raw.float() / corpus.scale.to(raw.device)).to(head.embedding.dtype)


def _to(blocks: Blocks, head: SharedHead) -> Blocks:
    device = head.embedding.device
    return Blocks(*(getattr(blocks, f.name).to(device) for f in dataclasses.fields(blocks)))


def _step(
    variant: Variant, config: TrainConfig, blocks: Blocks, features: torch.Tensor, head: SharedHead
) -> dict[str, float]:
    started = time.perf_counter()
    loss = block_loss(variant.model, blocks, features, head, variant.objective)
    loss.total.backward()
    scale = cosine_with_warmup(variant.step, config.steps, config.warmup_fraction)
    variant.optimizer.step(scale, config.max_grad_norm)
    variant.step += 1
    values = {"loss": loss.total.item(), "accepted": loss.accepted.item()}
    variant.train_s += time.perf_counter() - started
    return values


@torch.no_grad()
def measure(variants: list[Variant], corpus: Corpus, head: SharedHead, config: TrainConfig) -> None:
    """Training-time accepted length on held-back prompts, over the training vocabulary.

    Fixed anchors; leading argmax matches a block plus the bonus token; a token outside the
    vocabulary is a miss. Appended to the history.
    """
    chosen = corpus.held_back[:_EVAL_SEQUENCES]
    totals = {variant.name: [0.0, 0.0] for variant in variants}
    for start in range(0, len(chosen), 8):
        indices = chosen[start : start + 8]
        sequences = [corpus.sequences[i] for i in indices]
        anchors = [draw_anchors(s, _EVAL_ANCHORS, np.random.default_rng(0)) for s in sequences]
        blocks = _to(
            make_blocks(sequences, anchors, max(map(len, anchors)), config.block_size), head
        )
        features = scaled_features(corpus, indices, head)
        count = float(blocks.valid[:, :, 0].sum())
        for variant in variants:
            hidden, labels, valid = label_rows(variant.model, blocks, features, head)
            hits = torch.zeros_like(valid).masked_scatter(
                valid, is_argmax(hidden, head.lm_head, labels)
            )
            totals[variant.name][0] += float(hits.cumprod(-1).sum())
            totals[variant.name][1] += count
    for variant in variants:
        accepted, count = totals[variant.name]
        variant.history.append({"step": variant.step, "train_time_tau": 1 + accepted / count})


def _summary(report: dict[str, dict[str, float]], variants: list[Variant]) -> str:
    parts = []
    for variant in variants:
        if variant.name in report:
            values = report[variant.name]
            parts.append(f"{variant.name} loss {values['loss']:.2f} τ {1 + values['accepted']:.2f}")
    return ", ".join(parts)


def _export(
    variant: Variant, config: TrainConfig, corpus: Corpus, target: TransformersTarget
) -> Path:
    root = config.output_dir
    directory = (
        checkpoint.user_directory(config.target, variant.name)
        if root is None
        else root / variant.name
    )
    row = dataclasses.asdict(variant.objective)
    # JSON has no infinity; null is "no decay".
    row["gamma"] = None if row["gamma"] == float("inf") else row["gamma"]
    del row["description"]
    settings = _settings(config, target, corpus)
    commit, dirty = provenance.source_state(checkpoint.OWN.parent.parent)
    training = {
        "name": variant.name,
        "objective": row,
        **settings,
        "data": {**settings["data"], **corpus.prompts.describe()},
        "initial_weights": variant.initial_weights,
        "step": variant.step,
        "train_s": round(variant.train_s, 1),
        "commit": commit,
        "dirty": dirty,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "measured": variant.history,
    }
    whole = len(corpus.vocabulary) == target.vocab_size
    vocabulary = None if whole else corpus.vocabulary
    checkpoint.save(directory, variant.export(corpus.scale), training, vocabulary)
    return directory
