"""This project's tasks as lm-eval reads them; the files in ``lm_eval_tasks`` name these functions.

One reader and one scorer serve `harness run` and lm-eval alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import registry
from harness.plan import load_tasks
from tasks.base import Prompt
from tasks.grading import grader_of

if TYPE_CHECKING:
    from tasks.sandbox import Sandbox


def dataset(task: str, data_dir: str | None = None, **metadata: Any) -> dict[str, Any]:
    """Prompts of a task as the split ``test``.

    Args:
        task: its name here.
        data_dir: as ``--data-dir``; from the command line ``--metadata data_dir=…``.
        metadata: what else lm-eval hands on; not ours.
    """
    import datasets

    chosen = load_tasks((task,), Path(data_dir) if data_dir else None, None)[task]
    rows = [
        {
            "task": task,
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.turns[0],
            "reference": json.dumps(dict(prompt.reference)),
            "source": chosen.source.kind,
        }
        for prompt in chosen.prompts
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def prompt_with_tests(doc: Mapping[str, Any]) -> str:
    """The prompt and the tests it must pass: MBPP's sentence alone does not name the function."""
    tests = "\n".join(json.loads(doc["reference"])["tests"])
    return f"{doc['prompt']}\nThese tests must pass:\n```python\n{tests}\n```"


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer passed; nothing where it could not be judged."""
    prompt = Prompt(
        task=doc["task"],
        prompt_id=doc["prompt_id"],
        turns=(doc["prompt"],),
        reference=json.loads(doc["reference"]),
    )
    grader = grader_of(registry.load("tasks", doc["task"]))
    assert grader is not None, f"{doc['task']} has no grader"
    verdict = grader.grade(prompt, results[0], sandbox() if grader.runs_code else None).verdict
    return {} if verdict == "not run" else {"passed": float(verdict == "passed")}


@functools.cache
def sandbox() -> Sandbox:
    """One for all programs, made when first asked for: it probes the machine."""
    from tasks.sandbox import Sandbox

    return Sandbox()
