"""A training corpus for one target: sequences, the held-back split, features, frequent tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from filelock import FileLock

from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import TrainingSequence, corpus_digest, frequent_tokens
from drafters.block_diffusion.features import (
    Columns,
    Features,
    FeatureStore,
    LiveFeatures,
    feature_scale,
    open_features,
)
from drafters.block_diffusion.head import expected_rows
from drafters.block_diffusion.prompts import (
    PromptRow,
    TrainingPrompts,
    in_stable_order,
    is_held_back,
    training_prompts,
)
from drafters.block_diffusion.responses import build_sequences
from drafters.block_diffusion.shared_head import as_read, head_rows
from harness.errors import UserError
from harness.progress import Progress
from harness.user_cache import user_cache
from targets.scales import Scales, measured_scales
from targets.transformers_lm import TransformersTarget

_SCALE_SEQUENCES = 256
"""Sequences from which the magnitude of the features is taken."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything the variants share.

    Attributes:
        sequences: all of them; features are indexed alike.
        train: indices trained on.
        held_back: indices kept out.
        drawn: indices of responses that were drawn above temperature 0; the others are greedy.
        features: the target's, of every sequence.
        expected: `head.expected_rows` of the target over ``vocabulary``, likewise; None where no
            objective distils.
        scale: ``[F]`` float32, typical magnitude of each feature.
        vocabulary: ``[V']`` ids of the softmax, ascending.
        coverage: share of response tokens inside ``vocabulary``.
        digest: of all token ids.
        prompts: what the sequences were made of, and where it came from.
    """

    sequences: list[TrainingSequence]
    train: list[int]
    held_back: list[int]
    drawn: frozenset[int]
    features: Features
    expected: Features | None
    scale: torch.Tensor
    vocabulary: torch.Tensor
    coverage: float
    digest: str
    prompts: TrainingPrompts


@dataclass(frozen=True, slots=True)
class ResponseSet:
    """Prompts with the responses to them, and which of those are trained on.

    Attributes:
        sequences: all of them.
        train: indices trained on.
        held_back: indices kept out.
        drawn: indices of responses that were drawn above temperature 0; the others are greedy.
        digest: of all token ids.
        prompts: what the sequences were made of, and where it came from.
    """

    sequences: list[TrainingSequence]
    train: list[int]
    held_back: list[int]
    drawn: frozenset[int]
    digest: str
    prompts: TrainingPrompts


def build_responses(config: TrainConfig, target: TransformersTarget) -> ResponseSet:
    """Read prompts and complete responses; cached and resumable.

    Raises:
        UserError: no prompts, too few of them, or responses of another tokenizer.
    """
    prompts = training_prompts(config.data, config.responses)
    most = config.max_prompts
    if most is None and prompts.kind != "directory":
        most = config.steps * config.batch_size  # the default's prompts that the steps can draw
    rows = in_stable_order(prompts.rows, most)
    weights = str(target.describe()["weights_sha256"])
    sequences, kept = _sequences(config, target, rows, weights)
    held = [i for i, row in enumerate(kept) if is_held_back(row, config.held_back)]
    if not held:  # a prompt is held back with all its responses
        held = [i for i, row in enumerate(kept) if row.prompt == kept[0].prompt]
    train = sorted(set(range(len(kept))) - set(held))
    if not train:
        raise UserError(f"{prompts.name} holds too few prompts to train on ({len(kept)}).")
    drawn = (i for i, row in enumerate(kept) if (row.sampling or {}).get("temperature"))
    digest = corpus_digest(sequences)
    return ResponseSet(sequences, train, held, frozenset(drawn), digest, prompts)


def build_corpus(
    config: TrainConfig,
    target: TransformersTarget,
    layers: Sequence[int],
    *,
    distill: bool = False,
) -> Corpus:
    """Read prompts, complete responses and features; all of it cached and resumable.

    With ``distill`` the target's expected rows are kept beside its features.

    Raises:
        UserError: as `build_responses`.
    """
    found = build_responses(config, target)
    sequences, train = found.sequences, found.train
    vocabulary, coverage = torch.arange(target.vocab_size), 1.0
    if config.train_vocab_size:
        ids, coverage = frequent_tokens([sequences[i] for i in train], config.train_vocab_size)
        vocabulary = torch.from_numpy(ids)
    whole = target_features(config, target, sequences, layers, vocabulary if distill else None)
    width = len(layers) * target.hidden_size
    features = Columns(whole, slice(width)) if distill else whole
    expected = Columns(whole, slice(width, None)) if distill else None
    return Corpus(
        sequences,
        train,
        found.held_back,
        found.drawn,
        features,
        expected,
        feature_scale(features, min(_SCALE_SEQUENCES, len(sequences))),
        vocabulary,
        coverage,
        found.digest,
        found.prompts,
    )


def _sequences(
    config: TrainConfig, target: TransformersTarget, rows: Sequence[PromptRow], weights: str
) -> tuple[list[TrainingSequence], list[PromptRow]]:
    cache = user_cache() / "responses" / f"{weights[:16]}-{config.max_new_tokens}.jsonl"
    with Progress(len(rows), "responses", unit="prompt") as bar:

        def progress(done: int, total: int) -> None:
            bar.reach(done, total=total)

        generator = BatchGenerator(target, config.max_new_tokens)
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cache.with_suffix(".lock")):  # other trainings may want the same
            built = build_sequences(rows, target, generator, cache, progress)
    sequences, kept = [], []
    for row, sequence in zip(rows, built, strict=True):
        if max(sequence.ids) >= target.vocab_size:
            raise UserError(
                f"{config.data} holds responses of another tokenizer (token {max(sequence.ids)}, "
                f"{target.name} has {target.vocab_size}); remove response_ids or change the target."
            )
        if sequence.num_anchors > 0 and len(sequence.ids) <= target.max_context:
            sequences.append(sequence)
            kept.append(row)
    return sequences, kept


def target_features(
    config: TrainConfig,
    target: TransformersTarget,
    sequences: Sequence[TrainingSequence],
    layers: Sequence[int],
    vocabulary: torch.Tensor | None = None,
) -> FeatureStore | LiveFeatures:
    """Of all sequences, kept or computed as ``config.features`` says.

    The target's expected rows over ``vocabulary`` stand behind them, if it is given.
    """
    width = len(layers) * target.hidden_size
    rows, scales = None, Scales()
    if vocabulary is not None:
        scales = measured_scales(target)
        rows = head_rows(target, vocabulary, scales)
    weights, digest = target.describe()["weights_sha256"], corpus_digest(sequences)
    name = f"{weights} {list(layers)} {digest} {target.dtype}"
    if vocabulary is not None:
        name += f" {vocabulary.tolist()}"

    def compute(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with_output = rows is not None
        found = target.features_of(
            ids.to(target.device), mask.to(target.device), layers, with_output=with_output
        )
        if rows is None:
            return found
        features, output = found.split((width, target.hidden_size), dim=-1)
        read = as_read(output, rows)
        expected = expected_rows(read.flatten(0, 1), rows, scales.final_logit_softcapping)
        return torch.cat((features, expected.view_as(read)), dim=-1)

    with Progress(len(sequences), "features", unit="sequence") as bar:
        return open_features(
            user_cache() / "features" / hashlib.sha256(name.encode()).hexdigest()[:32],
            [sequence.ids for sequence in sequences],
            width + (0 if rows is None else rows.shape[1]),
            compute,
            keep=config.features,
            device=target.device,
            progress=bar.reach,
        )
