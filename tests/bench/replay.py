"""Accepted length of drafters on answers that ``ar_loop`` already gave, without decoding again.

    python -m tests.bench.replay --run runs/RUN_ID --drafter chain,focal

One forward pass gives the features of a whole recorded answer; what is left is the drafting. The
result is τ of a greedy run up to near-ties that bfloat16 breaks otherwise, is labelled *replayed*,
and is never timed. Methods that the run itself measured are compared with their records.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from drafters.base import Drafter, DrafterOptions
from harness import metrics, registry
from harness.config import RunConfig
from harness.plan import make_plan
from harness.records import Generation, Round
from harness.sampling import Sampling
from harness.verify import Verdict
from reports.tables import Run, load_run
from targets.load import load_target
from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, kw_only=True)
class Options:
    """Replay drafters on the answers of a run."""

    run: Path
    """Directory of a greedy run with ``ar_loop``."""
    drafter: str
    """Names as for ``harness run``, separated by commas."""
    data_dir: Path | None = None
    """As for the run."""


def main(options: Options) -> int:
    run = load_run(options.run)
    config = run.config
    if config["sampling"]["temperature"] != 0:
        raise SystemExit("only greedy answers can be replayed")
    plan = make_plan(
        RunConfig(
            drafter=tuple(options.drafter.split(",")),
            target=config["target"]["name"],
            tasks=tuple(task["task"] for task in config["tasks"]),
            limit=config["limit"] or "all",
            data_dir=options.data_dir,
            max_new_tokens=config["max_new_tokens"],
            dtype=config["target"]["dtype"],
            device=config["target"]["device"],
        )
    )
    target = load_target(plan.target)
    assert isinstance(target, TransformersTarget)
    answers = {(g.task, g.prompt_id, g.turn): g for g in run.generations if g.method == "ar_loop"}
    table: dict[str, dict[str, float]] = {}
    for item in plan.drafters:
        drafter = registry.resolve("drafters", item.name).load()(target, item)
        for task, chosen in plan.tasks.items():
            rounds: list[Round] = []
            for prompt in chosen.prompts:
                messages: list[dict[str, str]] = []
                for turn, text in enumerate(prompt.turns, start=1):
                    messages.append({"role": "user", "content": text})
                    answer = answers[task, prompt.prompt_id, turn]
                    ids = target.encode_chat(messages)
                    rounds += replay(target, drafter, ids, answer.new_tokens, plan.max_new_tokens)
                    messages.append({"role": "assistant", "content": answer.text})
            tau = sum(r.committed for r in rounds) / len(rounds)
            table.setdefault(item.method, {})[task] = tau
            print(f"{item.method:12} {task:14} replayed τ {tau:.3f}{measured(run, item, task)}")
    print(json.dumps({"run_id": config["run_id"], "replayed_tau": table}))
    return 0


def measured(run: Run, item: DrafterOptions, task: str) -> str:
    """τ of the run's own records for the same method and task, where there is one."""
    own: Sequence[Generation] = [
        g for g in run.generations if g.method == item.method and g.task == task
    ]
    return f"   measured {metrics.tau(own):.3f}" if own else ""


@torch.inference_mode()
def replay(
    target: TransformersTarget,
    drafter: Drafter,
    prompt: list[int],
    answer: Sequence[int],
    max_new_tokens: int,
) -> list[Round]:
    """Rounds of one answer: drafts are accepted while they agree with it."""
    ids = torch.tensor([[*prompt, *answer]], device=target.device)
    features = target.features_of(ids, torch.ones_like(ids), drafter.feature_layers)[0]
    drafter.start(ids[0, : len(prompt)], features[: len(prompt)], Sampling())
    at = 0  # place of the pending token in the answer
    result: list[Round] = []
    while at + 1 < len(answer):
        budget = max_new_tokens - at - 2
        row = len(prompt) + at
        draft: list[int] = []
        if budget > 0:
            prefix = [*prompt, *answer[:at]]
            draft = drafter.propose(prefix, answer[at], budget).tokens.tolist()
        ahead = answer[at + 1 : at + 1 + len(draft)]
        pairs = zip(draft, ahead, strict=False)
        accepted = next(
            (k for k, (a, b) in enumerate(pairs) if a != b), min(len(draft), len(ahead))
        )
        committed = min(accepted + 1, len(answer) - at - 1)
        result.append(
            Round(
                depth=len(draft),
                nodes=len(draft),
                accepted=accepted,
                committed=committed,
                draft_tokens=tuple(draft),
            )
        )
        verdict = Verdict(tuple(range(accepted)), tuple(draft[:accepted]), 0)
        if budget > 0:
            drafter.observe(verdict, features[row : row + accepted + 1])
        at += committed
    drafter.reset()
    return result


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
