"""MBPP, sanitized test split: short Python programs from one sentence (arXiv 2108.07732).

The sentence alone is asked, as peers do; it does not name the function that the tests call.
"""

from __future__ import annotations

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

_TEST_IDS = range(11, 511)
"""Upstream's test split, by ``task_id``; its one file holds the other splits too."""


def parse(row: Row) -> Prompt | None:
    """The sentence as it is; None for a row of another split."""
    task_id = row.body.get("task_id")
    if isinstance(task_id, int) and task_id not in _TEST_IDS:
        return None
    return Prompt(
        task="mbpp",
        prompt_id=row.identifier("task_id"),
        turns=(row.text("prompt"),),
        reference={
            "tests": row.texts("test_list"),
            "test_imports": row.texts("test_imports"),
            "code": row.text("code"),
        },
    )


TASK = RowTask(
    name="mbpp",
    files=("mbpp/sanitized_test.jsonl", "mbpp/sanitized-mbpp.json", "sanitized-mbpp.json"),
    hub=HubFiles("google-research-datasets/mbpp", ("sanitized/test-*.parquet",)),
    parse=parse,
)
