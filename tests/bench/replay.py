"""Batched replay against sequential replay against what a run measured, round by round.

    python -m tests.bench.replay --run runs/RUN_ID --drafter chain,combined

Takes a greedy run's ``ar_loop`` answers. *Batched* drafts behind all tokens of all answers in few
passes (`drafters.block_diffusion.replay`), *sequential* asks the drafter round by round, and
*measured* are the rounds of the run's own records, where it ran the method. Exit status 1 where a
round differs in float32; in bfloat16 near-ties may fall otherwise. No time is measured.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from drafters.block_diffusion.data import TrainingSequence
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.replay import Drafts, chain_correlation, draft_behind, walk
from drafters.options import DrafterOptions
from harness import registry
from harness.conversations import prompt_sha256, turns
from harness.records import Generation, Round, key_of
from harness.reload import reload_run
from harness.sampling import Sampling
from harness.verify import Verdict
from reports.run import Run, load_run
from targets.transformers_lm import TransformersTarget
from tasks.base import PromptSet

Rounds = Sequence[tuple[Round, ...]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replay drafters on the answers of a run."""

    run: Path
    """Directory of a greedy run with ``ar_loop``."""
    drafter: str
    """Names as for ``harness run``, separated by commas."""
    block_size: int | None = None
    """Tokens of a block at drafting; default: the drafter's own."""
    data_dir: Path | None = None
    """As for the run."""


def main(options: Options) -> int:
    """1 where rounds differ in float32."""
    run = load_run(options.run)
    if run.config["sampling"]["temperature"] != 0:
        raise SystemExit("only greedy answers can be replayed")
    reloaded = reload_run(run.config, options.data_dir)
    target = reloaded.target
    assert isinstance(target, TransformersTarget)
    table: dict[str, dict[str, float]] = {}
    compared = differing = 0
    for text in options.drafter.split(","):
        item = DrafterOptions.parse(text, options.block_size)
        drafter = registry.resolve("drafters", item.name).load()(target, item)
        assert isinstance(drafter, BlockDiffusionDrafter)
        every: list[Drafts] = []
        for task, prompts in reloaded.tasks.items():
            answers = answers_of(run, target, task, prompts)
            drafts, others = three_ways(run, target, drafter, item.method, answers)
            every += drafts
            batched = [walk(one) for one in drafts]
            num_rounds = sum(map(len, batched))
            tau = sum(r.committed for rounds in batched for r in rounds) / num_rounds
            table.setdefault(item.method, {})[task] = tau
            words = []
            for name, rounds in others.items():
                different = num_different(batched, rounds)
                compared, differing = compared + num_rounds, differing + different
                words.append(f"{name}: {different} of {num_rounds} rounds differ")
            print(f"{item.method:12} {task:14} replayed τ {tau:.3f}   " + "   ".join(words))
        found = chain_correlation(every)
        print(f"{item.method:12} chain reward and accepted length, behind every token: {found}")
    print(f"{compared} rounds compared, {differing} differ ({target.dtype})")
    print(json.dumps({"run_id": run.config["run_id"], "replayed_tau": table}))
    return int(differing > 0 and target.dtype == torch.float32)


def answers_of(
    run: Run, target: TransformersTarget, task: str, prompts: PromptSet
) -> list[tuple[Generation, TrainingSequence]]:
    """``ar_loop``'s answers to one task, each with its prompt in front."""
    records = {key_of(item): item for item in run.generations}
    found = []
    for prompt in prompts.prompts:
        for turn, ids in turns(target, task, prompt, records):
            answer = records.get((task, prompt.prompt_id, turn, "ar_loop", 0))
            if answer is None:
                continue
            if answer.prompt_sha256 != prompt_sha256(ids):
                raise SystemExit(f"{task} {prompt.prompt_id}: the run read another prompt")
            found.append((answer, TrainingSequence((*ids, *answer.new_tokens), len(ids))))
    return found


def three_ways(
    run: Run,
    target: TransformersTarget,
    drafter: BlockDiffusionDrafter,
    method: str,
    answers: Sequence[tuple[Generation, TrainingSequence]],
) -> tuple[list[Drafts], dict[str, Rounds]]:
    """Batched drafts, and the rounds of the other ways that there are."""
    limit = run.config["max_new_tokens"]
    sequences = [sequence for _, sequence in answers]
    features = [features_of(target, drafter, sequence) for sequence in sequences]
    drafts = draft_behind(
        drafter.model,
        target,
        drafter.head,
        sequences,
        lambda indices: torch.cat([features[i] for i in indices]),
        block_size=drafter.block_size,
        max_new_tokens=limit,
    )
    others: dict[str, Rounds] = {
        "sequential": [
            sequential(drafter, item, rows, min(limit, target.max_context - item.start))
            for item, rows in zip(sequences, features, strict=True)
        ]
    }
    sizes = {facts["method"]: facts.get("block_size") for facts in run.config["methods"]}
    if sizes.get(method) != drafter.block_size:
        return drafts, others
    records = {key_of(item): item for item in run.generations}
    measured = [records.get((*key_of(item)[:3], method, 0)) for item, _ in answers]
    if all(item is not None for item in measured):
        others["measured"] = [item.rounds or () for item in measured if item is not None]
    return drafts, others


def features_of(
    target: TransformersTarget, drafter: BlockDiffusionDrafter, sequence: TrainingSequence
) -> torch.Tensor:
    """``[L, F]`` of a whole answer in one pass."""
    ids = torch.tensor([sequence.ids], device=target.device)
    return target.features_of(ids, torch.ones_like(ids), drafter.feature_layers)[0]


@torch.inference_mode()
def sequential(
    drafter: BlockDiffusionDrafter,
    sequence: TrainingSequence,
    features: torch.Tensor,
    max_new_tokens: int,
) -> tuple[Round, ...]:
    """Rounds of one answer, proposed one by one: drafts are accepted while they agree with it."""
    ids, start = list(sequence.ids), sequence.start
    answer = ids[start:]
    prompt = torch.tensor(ids[:start], device=features.device)
    drafter.start(prompt, features[:start], Sampling())
    at = 0  # place of the pending token in the answer
    rounds: list[Round] = []
    while at + 1 < len(answer):
        budget = max_new_tokens - at - 2
        row = start + at
        draft: list[int] = []
        if budget > 0:
            draft = drafter.propose(ids[:row], answer[at], budget).tokens.tolist()
        ahead = answer[at + 1 : at + 1 + len(draft)]
        pairs = zip(draft, ahead, strict=False)
        accepted = next((k for k, (a, b) in enumerate(pairs) if a != b), len(ahead))
        committed = min(accepted + 1, len(answer) - at - 1)
        rounds.append(
            Round(
                depth=len(draft),
                nodes=len(draft),
                accepted=accepted,
                committed=committed,
                draft_tokens=tuple(draft),
            )
        )
        if budget > 0:
            verdict = Verdict(tuple(range(accepted)), tuple(draft[:accepted]), 0)
            drafter.observe(verdict, features[row : row + accepted + 1])
        at += committed
    drafter.reset()
    return tuple(rounds)


def num_different(ours: Rounds, others: Rounds) -> int:
    """Rounds that are not the other's, or that the other does not have."""
    different = 0
    for own, other in zip(ours, others, strict=True):
        same = sum(a == known(b) for a, b in zip(own, other, strict=False))
        different += max(len(own), len(other)) - same
    return different


def known(item: Round) -> Round:
    """What the answer tells of a round: no draft behind the token that stopped it is accepted."""
    return dataclasses.replace(item, accepted=min(item.accepted, item.committed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
