"""Asks vLLM, in an environment of its own, for answers, and checks how it drafted them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.typed_json import parse_json
from tests.bench.vllm_agreement import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What vLLM is asked for; greedy."""

    target: str
    """Directory or hub id; so is the drafter."""
    drafter: str
    dtype: str
    num_speculative_tokens: int
    max_new_tokens: int
    max_model_len: int
    """Tokens of prompt and answer together."""
    stop_ids: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids."""


def ask(python: Path, request: Request, directory: Path) -> tuple[list[Answer], dict[str, Any]]:
    """vLLM's answers in the order of the prompts, and its versions.

    Args:
        python: of the environment that has vLLM.
        request: what for.
        directory: keeps request, answers and vLLM's log.

    Raises:
        UserError: it failed, or drafted by other rules than those compared here.
    """
    request_path, answers_path, log = (
        directory / name for name in ("request.json", "vllm.json", "vllm.log")
    )
    request_path.write_text(json.dumps(asdict(request)), encoding="utf-8")
    answers_path.unlink(missing_ok=True)
    script = Path(__file__).with_name("vllm_side.py")
    # What this project's modules are found by is no business of that environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("wb") as lines:
        status = subprocess.run(
            [python, "-P", script, request_path, answers_path],
            stdout=lines,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        ).returncode
    if status or not answers_path.is_file():
        raise UserError(f"vLLM gave up (exit status {status}); read why in {log}.")
    body: Any = parse_json(answers_path.read_text(encoding="utf-8"))
    facts = {"versions": body["versions"], "vllm_threads": body["num_threads"]}
    answers = [read_answer(item, request) for item in body["answers"]]
    if len(answers) != len(request.prompts):
        raise UserError(
            f"vLLM answered {len(answers)} of {len(request.prompts)} prompts; read why in {log}."
        )
    return answers, facts


def read_answer(body: dict[str, Any], request: Request) -> Answer:
    """An answer as ``vllm_side`` wrote it.

    Raises:
        UserError: vLLM did not draft as many tokens as asked for in every round, or an answer
            ended elsewhere than at the limit or a stop token.
    """
    committed, by_position = tuple(body["steps"][1:]), tuple(body["by_position"])
    counted = body["drafts"], body["draft_tokens"], body["accepted"]
    depth = request.num_speculative_tokens
    expected = len(committed), len(committed) * depth, sum(by_position)
    if counted != expected or len(by_position) != depth:
        raise UserError(
            f"vLLM counted {counted} drafts, draft tokens and accepted tokens where its steps make "
            f"{expected}; it did not draft {depth} tokens in every round, and its accepted length "
            "cannot be compared."
        )
    new_tokens = tuple(body["new_tokens"])
    if len(new_tokens) != request.max_new_tokens and new_tokens[-1] not in request.stop_ids:
        raise UserError(
            f"vLLM ended an answer at {len(new_tokens)} tokens with token {new_tokens[-1]}, which "
            "is no stop token of the target; its answers cannot be compared."
        )
    try:
        return Answer(new_tokens=new_tokens, committed=committed, by_position=by_position)
    except ValueError as error:
        raise UserError(f"vLLM's counters contradict its answer: {error}.") from error
