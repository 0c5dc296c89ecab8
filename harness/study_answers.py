"""Recorded greedy answers that a study replays: of held-back training prompts, and of runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import target_features
from drafters.block_diffusion.data import TrainingSequence
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.features import Features
from drafters.block_diffusion.model import BlockDiffusionModel, build_target_layer_ids
from drafters.block_diffusion.replay import Drafts, FeaturesOf, draft_behind, walk
from drafters.block_diffusion.workbench import Workbench
from harness import template_date
from harness.conversations import prompt_sha256, turns
from harness.errors import UserError
from harness.plan import prompts_of_run
from harness.records import key_of
from harness.study import Measure
from harness.study_records import HELD_BACK, Replayed
from harness.waste import slots_of
from reports.run import Run
from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one task, and the limit they are replayed with.

    Attributes:
        task: `HELD_BACK`, or the task.
        names: prompt id and turn of each.
        sequences: prompt and answer.
        features: the target's of the sequences with these indices, end to end.
        max_new_tokens: the limit.
    """

    task: str
    names: tuple[tuple[str, int], ...]
    sequences: tuple[TrainingSequence, ...]
    features: FeaturesOf
    max_new_tokens: int

    def first(self, count: int) -> Answers:
        """The first ``count`` of them."""
        return replace(self, names=self.names[:count], sequences=self.sequences[:count])


def held_back_answers(bench: Workbench, config: TrainConfig, measure: Measure) -> Answers:
    """Held-back prompts with the target's own greedy responses, in the corpus's stable order.

    Raises:
        UserError: the corpus holds no greedy response to a held-back prompt.
    """
    corpus = bench.corpus
    greedy: dict[str, int] = {}
    for row in corpus.held_back:
        if row not in corpus.drawn:
            greedy.setdefault(_name(corpus.sequences[row]), row)
    chosen = list(greedy.items())[: measure.held_back]
    if not chosen:
        raise UserError(
            f"{corpus.prompts.name} holds no greedy response to a held-back prompt, and only those "
            "can be replayed; build a corpus at temperature 0 too, or raise train.held_back."
        )
    rows = [row for _, row in chosen]
    sequences = tuple(corpus.sequences[row] for row in rows)
    return Answers(
        task=HELD_BACK,
        names=tuple((name, 1) for name, _ in chosen),
        sequences=sequences,
        features=_features(bench, config, sequences, (corpus.features, rows)),
        max_new_tokens=measure.max_new_tokens,
    )


def run_answers(bench: Workbench, config: TrainConfig, measure: Measure, run: Run) -> list[Answers]:
    """Answers of a run's ``ar_loop``, first repeat, by task.

    Raises:
        UserError: other prompts or another target than the run's, or no answers.
    """
    facts, target = run.config["target"], bench.target
    for name in ("model", "revision", "weights_sha256", "dtype"):
        began, now = facts.get(name), target.describe()[name]
        if began != now:
            raise UserError(
                f"run {run.run_id} was made by a target whose {name} was {began}, and the study's "
                f"has {now}; name a run of the same target."
            )
    date = facts.get("template_date")
    with target.chat.on(None if date is None else template_date.parse(date)):
        found = _sequences(run, target, measure)
    if not found:
        raise UserError(f"run {run.run_id} holds no answers of ar_loop; finish it with --resume.")
    parts = []
    for task in run.tasks:
        own = [item for item in found if item[0] == task]
        sequences = tuple(item[-1] for item in own)
        if own:
            parts.append(
                Answers(
                    task=task,
                    names=tuple((prompt_id, turn) for _, prompt_id, turn, _ in own),
                    sequences=sequences,
                    features=_features(bench, config, sequences),
                    max_new_tokens=min(measure.max_new_tokens, int(run.config["max_new_tokens"])),
                )
            )
    return parts


def _sequences(
    run: Run, target: TransformersTarget, measure: Measure
) -> list[tuple[str, str, int, TrainingSequence]]:
    """Task, prompt, turn and tokens of every answer of ``ar_loop``, first repeat."""
    answers = {key_of(item): item for item in run.of("ar_loop") if item.repeat == 0}
    found: list[tuple[str, str, int, TrainingSequence]] = []
    for task, chosen in prompts_of_run(run.config, measure.data_dir).items():
        for prompt in chosen.prompts:
            for turn, ids in turns(target, task, prompt, answers):
                answer = answers.get((task, prompt.prompt_id, turn, "ar_loop", 0))
                if answer is None:
                    break
                if prompt_sha256(ids) != answer.prompt_sha256:
                    raise UserError(
                        f"run {run.run_id} read prompt {prompt.prompt_id} of {task} as other "
                        "tokens; name a run with the chat template of today."
                    )
                sequence = TrainingSequence((*ids, *answer.new_tokens), len(ids))
                found.append((task, prompt.prompt_id, turn, sequence))
    return found


def replayed(
    model: BlockDiffusionModel,
    bench: Workbench,
    answers: Answers,
    measure: Measure,
    horizon: int,
    *,
    rewards: bool,
) -> list[Replayed]:
    """Every answer as ``model`` would have drafted it in blocks of ``horizon`` tokens.

    Args:
        model: for raw features.
        bench: its target drafts and answers.
        answers: of one task.
        measure: says which vocabulary is drafted from.
        horizon: block size in use.
        rewards: whether to keep the chain reward of each round's block.
    """
    vocabulary = bench.corpus.vocabulary if measure.draft_vocab == "trained" else None
    drafts = draft_behind(
        model,
        bench.target,
        DraftHead(bench.target, vocabulary),
        answers.sequences,
        answers.features,
        block_size=horizon,
        max_new_tokens=answers.max_new_tokens,
    )
    found = []
    for (prompt_id, turn), item in zip(answers.names, drafts, strict=True):
        rounds = walk(item)
        found.append(
            Replayed(
                task=answers.task,
                prompt_id=prompt_id,
                turn=turn,
                num_tokens=len(item.answer),
                accepted=tuple(round_.accepted for round_ in rounds),
                depths=tuple(round_.depth for round_ in rounds),
                slots=slots_of(rounds, item.answer.tolist()),
                rewards=_rewards(item, [round_.committed for round_ in rounds])
                if rewards
                else None,
            )
        )
    return found


def _rewards(drafts: Drafts, committed: Sequence[int]) -> tuple[float | None, ...]:
    """Chain reward of each round's block (arXiv 2606.11552, Eq. 12); None behind the answer."""
    starts = np.cumsum([0, *committed])[:-1]
    values = np.exp(drafts.log_q[starts].astype(np.float64).cumsum(1)).mean(1)
    return tuple(None if math.isnan(value) else round(float(value), 5) for value in values)


def _name(sequence: TrainingSequence) -> str:
    """Prompts have no ids in a corpus; answers to one prompt share this."""
    ids = ",".join(map(str, sequence.ids[: sequence.start]))
    return hashlib.sha256(ids.encode()).hexdigest()[:16]


def _features(
    bench: Workbench,
    config: TrainConfig,
    sequences: Sequence[TrainingSequence],
    kept: tuple[Features, Sequence[int]] | None = None,
) -> FeaturesOf:
    """Features of ``sequences`` by index.

    What is kept for training is bfloat16. A wider target's features are made anew each time: only
    with them are the rounds those of decoding.

    Args:
        bench: its target reads them.
        config: says which layers.
        sequences: prompts and answers.
        kept: features that are there already, and the place of each sequence in them.
    """
    target = bench.target
    layers = build_target_layer_ids(target.num_layers, config.num_features)
    if target.dtype == torch.bfloat16:
        store, rows = kept or (
            target_features(config, target, sequences, layers),
            range(len(sequences)),
        )
        return lambda indices: store.packed([rows[i] for i in indices])

    def anew(indices: Sequence[int]) -> torch.Tensor:
        parts = []
        for index in indices:
            ids = torch.tensor([sequences[index].ids], device=target.device)
            parts.append(target.features_of(ids, torch.ones_like(ids), layers)[0])
        return torch.cat(parts)

    return anew
