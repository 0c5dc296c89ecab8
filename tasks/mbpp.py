"""MBPP, sanitized test split: short Python programs from one sentence (arXiv 2108.07732).

The sentence alone is asked, as peers do; it does not name the function that the tests call, so a
right program under another name fails. Scores compare methods; they are not MBPP's published ones.
"""

from __future__ import annotations

from tasks.base import Prompt
from tasks.grading import Grader, Outcome
from tasks.hub import HubFiles
from tasks.programs import ModuleTrial, extract_code
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


def judge(prompt: Prompt, text: str) -> Outcome | list[ModuleTrial]:
    """The last block that defines a function, against the row's asserts."""
    code = extract_code(text, r"^(?:async +)?def ")
    if code is None:
        return Outcome("error", "no code")
    reference = prompt.reference
    if not reference["tests"]:
        return []
    imports, tests = ("\n".join(reference[key]) + "\n" for key in ("test_imports", "tests"))
    return [ModuleTrial((("imports", imports), ("answer", code), ("tests", tests)))]


TASK = RowTask(
    name="mbpp",
    files=("mbpp/sanitized_test.jsonl", "mbpp/sanitized-mbpp.json", "sanitized-mbpp.json"),
    hub=HubFiles("google-research-datasets/mbpp", ("sanitized/test-*.parquet",)),
    parse=parse,
    grader=Grader(rule="mbpp/2", runs_code=True, judge=judge),
)
