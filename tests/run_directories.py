"""Synthetic run directories: scripted rounds and clocks, so that every number is known."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drafters.options import DrafterOptions
from harness import audit_records
from harness.audit_records import Audit
from harness.records import Failure, Generation, Record, Round, to_json

DIGEST = "0123456789abcdef" * 4


def rounds(accepted: Sequence[int], depth: int, cut: int = 0) -> tuple[Round, ...]:
    """Rounds of one depth; the last commits ``cut`` tokens less than it could.

    In answers made of 5 every second draft token behind a rejected one is correct.
    """
    last = len(accepted) - 1
    return tuple(
        Round(
            depth=depth,
            nodes=depth,
            accepted=a,
            committed=a + 1 - (cut if i == last else 0),
            draft_tokens=((5,) * a + (7, 5) * depth)[:depth],
        )
        for i, a in enumerate(accepted)
    )


def generation(
    *,
    accepted: Sequence[int] | None = None,
    num_new_tokens: int | None = None,
    depth: int = 7,
    cut: int = 0,
    **fields: Any,
) -> Generation:
    """A generation from its accepted lengths, or, without rounds, from its length."""
    made = None if accepted is None else rounds(accepted, depth, cut)
    length = num_new_tokens or 1 + sum(item.committed for item in made or ())
    facts: dict[str, Any] = {
        "task": "gsm8k",
        "prompt_id": "0",
        "turn": 1,
        "method": "combined",
        "repeat": 0,
        "seed": 0,
        "source": "directory",
        "source_digest": DIGEST,
        "prompt_sha256": DIGEST,
        "num_prompt_tokens": 20,
        "text": "",
        "prefill_s": 0.5,
        "decode_s": 1.0,
        "finish_reason": "stop",
    }
    return Generation(new_tokens=(5,) * length, rounds=made, **{**facts, **fields})


def answers(lists: Sequence[Sequence[int]], cut: int = 0) -> list[Generation]:
    """One answer for each list of accepted lengths; last rounds are cut where they can be."""
    return [
        generation(accepted=accepted, prompt_id=str(i), cut=min(cut, accepted[-1]))
        for i, accepted in enumerate(lists)
    ]


def drafter(method: str, **fields: Any) -> dict[str, Any]:
    """A drafter as ``config.json`` describes it."""
    facts = {"kind": "drafter", "drafter": method, "block_size": 8, "draft": "argmax"}
    return {"method": method, **facts, "checkpoint": None, **fields}


def asked(text: str, **fields: Any) -> dict[str, Any]:
    """The drafter that ``--drafter`` asks for with ``text``."""
    options = DrafterOptions.parse(text)
    policies = [{"policy": item.name, "settings": dict(item.settings)} for item in options.policies]
    facts = {"drafter": options.name, "policies": policies, "argument": options.argument}
    return drafter(options.method, **facts, **fields)


BASELINES = [
    {"method": "ar_loop", "kind": "baseline"},
    {"method": "hf_generate", "kind": "baseline"},
]


def source(kind: str = "directory") -> dict[str, Any]:
    """Where prompts came from."""
    return {
        "kind": kind,
        "location": "gsm8k/test.jsonl",
        "revision": None,
        "digest": DIGEST,
        "num_rows": 1319,
    }


def config(**fields: Any) -> dict[str, Any]:
    """A ``config.json``."""
    return {
        "schema_version": 1,
        "run_id": "20260102-combined",
        "target": {
            "name": "smollm2",
            "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
            "revision": None,
            "dtype": "bfloat16",
            "attn": "sdpa",
            "device": "cpu",
            "weights_sha256": DIGEST,
            "template_sha256": DIGEST,
            "enable_thinking": False,
        },
        "methods": [*BASELINES, drafter("combined")],
        "tasks": [{"task": "gsm8k", "source": source(), "prompt_ids": ["0", "1"]}],
        "sampling": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
        "max_new_tokens": 128,
        "seed": 0,
        "repeats": 1,
        "limit": 2,
        **fields,
    }


ENVIRONMENT: dict[str, Any] = {
    "schema_version": 1,
    "commit": "89abcdef" * 5,
    "dirty": False,
    "argv": ["run", "--drafter", "combined"],
    "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"},
    "hardware": {
        "cpu": "Example CPU",
        "num_cores": 8,
        "num_threads": 4,
        "memory_bytes": 2**34,
        "gpu": None,
    },
    "started_at": "2026-01-02T03:04:05Z",
}


def write_run(
    path: Path,
    records: Sequence[Record],
    settings: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    audits: Sequence[Audit] = (),
) -> Path:
    """A run directory at ``path``; without audits it is one from before there were any."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(settings or config()))
    (path / "environment.json").write_text(json.dumps(environment or ENVIRONMENT))
    (path / "records.jsonl").write_text("".join(to_json(item) + "\n" for item in records))
    if audits:
        lines = (audit_records.to_json(item) + "\n" for item in audits)
        (path / "audit.jsonl").write_text("".join(lines))
    return path


def simulated_records(
    settings: dict[str, Any], quality: dict[str, float], seconds: dict[str, float]
) -> list[Record]:
    """Records of a whole run, drawn from a fixed seed.

    Args:
        settings: the run's config.
        quality: method → chance that a draft token is accepted; baselines have none.
        seconds: method → seconds of one target pass, the draft included.
    """
    draw = random.Random(0)
    records: list[Record] = []
    for task in settings["tasks"]:
        ease = draw.uniform(0.8, 1.1)
        for prompt_id in task["prompt_ids"]:
            for method in settings["methods"]:
                name = method["method"]
                chance = quality.get(name, 0.0) * ease
                depth = (method.get("block_size") or 1) - 1
                accepted = []
                while sum(accepted) + len(accepted) < 80:
                    length = 0
                    while length < depth and draw.random() < chance * (1 - 0.03 * length):
                        length += 1
                    accepted.append(length)
                foreign = name == "hf_generate"
                records.append(
                    generation(
                        task=task["task"],
                        prompt_id=prompt_id,
                        method=name,
                        source=task["source"]["kind"],
                        accepted=None if foreign else accepted,
                        num_new_tokens=81 if foreign else None,
                        depth=depth,
                        decode_s=len(accepted) * seconds[name] * draw.uniform(0.95, 1.05),
                        prefill_s=0.1,
                        peak_memory_bytes=settings.get("peak_memory_bytes"),
                    )
                )
    return records


def failure(**fields: Any) -> Failure:
    """A generation that raised."""
    facts = {"task": "gsm8k", "prompt_id": "1", "turn": 1, "method": "combined", "repeat": 0}
    return Failure(**{**facts, "error": "RuntimeError: out of memory", **fields})
