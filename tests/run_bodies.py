"""The files of a small run directory with everything in it, as JSON values."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

from run_directories import BASELINES, ENVIRONMENT, asked, config, drafter, simulated_records

from harness.audit_records import Deviation, make_audit
from harness.audit_records import to_json as audit_to_json
from harness.draws import Draws
from harness.draws import to_json as draws_to_json
from harness.findings import tokens_sha256
from harness.records import Generation, key_of, to_json
from harness.score_records import CodeFacts, Score, Scoring, TaskRule, scoring_json, text_sha256
from harness.score_records import to_json as score_to_json
from harness.stages import Stages, StageTimes


def make_run_bodies() -> dict[str, Any]:
    """The files of a small run with everything in it, as JSON values."""
    checkpoint_facts = {
        "path": "x",
        "weights_sha256": "0" * 64,
        "num_parameters": 5,
        "objective": {"gamma": 10, "alpha_focal": 0, "alpha_chain": 0, "ce_reduction": "mean"},
        "training": {
            **{"name": "combined", "steps": 5, "seed": 0, "train_vocab_size": 9},
            **{"data": {"name": "x", "vocabulary": 9}, "hardware": ENVIRONMENT["hardware"]},
        },
    }
    settings = config()
    settings["tasks"][0]["num_turns"] = [1, 1]
    other_seed = copy.deepcopy(checkpoint_facts)
    other_seed["training"]["seed"] = 1
    settings["methods"] = [
        *BASELINES,
        drafter("combined", checkpoint=checkpoint_facts),
        drafter("combined@1", drafter="combined", checkpoint=other_seed),
        asked("combined+ddtree:budget=7"),
    ]
    speeds = {str(item["method"]): 0.03 for item in settings["methods"]}
    quality = dict.fromkeys(list(speeds)[len(BASELINES) :], 0.5)
    records = simulated_records(settings, quality, speeds)
    keyed = {key_of(item): item for item in records}
    audits = [
        make_audit(
            item,
            keyed[item.task, item.prompt_id, item.turn, "ar_loop", item.repeat],
            [Deviation(position=1, margin=0.5, noise=0.2)],
        )
        for item in records
    ]
    times = StageTimes(draft_s=(0.1, 0.1), verify_s=(0.2, 0.2), commit_s=(0.1, 0.1))
    stages = Stages(num_context_tokens=9, methods={name: times for name in speeds})
    rule = TaskRule(rule="gsm8k 1", runs_code=False, tests_sha256="0" * 64)
    code = CodeFacts(
        python="3.11.9", limits={"wall_s": 10.0}, containment={"held": {"network": True}}
    )
    program = dataclasses.replace(rule, runs_code=True)
    scoring = Scoring(tasks={"gsm8k": rule, "mbpp": program}, code=code)
    environment = {**ENVIRONMENT, "plugins": [{"name": "x.py", "sha256": "0" * 64}]}
    bodies = {
        "config.json": settings,
        "environment.json": {**environment, "resumed": [environment]},
        "stages.json": json.loads(json.dumps(stages.to_json())),
        "records.jsonl": [json.loads(to_json(item)) for item in records],
        "audit.jsonl": [json.loads(audit_to_json(item)) for item in audits],
        "draws.jsonl": [json.loads(draws_to_json(draws_of(item))) for item in records],
        "scoring.json": json.loads(json.dumps(scoring_json(scoring))),
        "scores.jsonl": [json.loads(score_to_json(score_of(item))) for item in records],
    }
    return bodies


def draws_of(item: Generation) -> Draws:
    count = len(item.new_tokens)
    return Draws(
        **asdict_key(item),
        tokens_sha256=tokens_sha256(item),
        above=(0.25,) * count,
        given=(0.5,) * count,
        top=(0.5,) * count,
    )


def score_of(item: Generation) -> Score:
    digest = text_sha256(item.text)
    return Score(
        **asdict_key(item), verdict="passed", detail="", text_sha256=digest, rule="gsm8k 1"
    )


def asdict_key(item: Generation) -> dict[str, Any]:
    return {name: getattr(item, name) for name in ("task", "prompt_id", "turn", "method", "repeat")}


def write_bodies(directory: Path, bodies: dict[str, Any]) -> None:
    directory.mkdir(exist_ok=True)
    for name, body in bodies.items():
        lines = body if name.endswith("l") else [body]
        (directory / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
