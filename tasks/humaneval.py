"""HumanEval: Python functions from signature and docstring (arXiv 2107.03374)."""

from __future__ import annotations

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

TEMPLATE = (
    "Write a solution to the following problem and make sure that it passes the tests:\n"
    "```python\n{prompt}\n```"
)


def parse(row: Row) -> Prompt:
    """The function's beginning in a fence; the tests stay in the reference."""
    keys = ("prompt", "entry_point", "test", "canonical_solution")
    reference = {key: row.text(key) for key in keys}
    return Prompt(
        task="humaneval",
        prompt_id=row.identifier("task_id"),
        turns=(TEMPLATE.format(prompt=reference["prompt"]),),
        reference=reference,
    )


TASK = RowTask(
    name="humaneval",
    files=(
        "humaneval/HumanEval.jsonl",
        "humaneval/HumanEval.jsonl.gz",
        "HumanEval.jsonl",
        "HumanEval.jsonl.gz",
    ),
    hub=HubFiles("openai/openai_humaneval", ("openai_humaneval/test-*.parquet",)),
    parse=parse,
)
