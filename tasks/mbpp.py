"""MBPP, sanitized test split: short Python programs from one sentence (arXiv 2108.07732).

The sentence alone is asked, as peers do; it does not name the function that the tests call, so a
right program under another name fails. Scores compare methods; they are not MBPP's published ones.
"""

from __future__ import annotations

import builtins
import keyword
import re

from tasks.answer_code import definition, extract_code
from tasks.base import Prompt
from tasks.grading import Grader, Outcome
from tasks.hub import HubFiles
from tasks.programs import CallTrial
from tasks.row_task import RowTask
from tasks.rows import Row

_CALLED = re.compile(r"(?<![\w.])([^\W\d]\w*)\s*\(")
_DEFINED = re.compile(r"^(?:(?:async +)?def|class) +(\w+)|^(\w+) *=", re.MULTILINE)
_TEST_IDS = range(11, 511)
"""Upstream's test split, by ``task_id``; its one file holds the other splits too."""


def parse(row: Row) -> Prompt | None:
    """The sentence as it is; None for a row of another split."""
    task_id = row.identifier("task_id")
    if task_id.isdecimal() and int(task_id) not in _TEST_IDS:
        return None
    return Prompt(
        task="mbpp",
        prompt_id=task_id,
        turns=(row.text("prompt"),),
        reference={
            "tests": row.texts("test_list"),
            "test_imports": row.texts("test_imports"),
            "code": row.text("code"),
        },
    )


def judge(prompt: Prompt, text: str) -> Outcome | list[CallTrial]:
    """The last block that defines what the tests call, against the row's asserts."""
    reference = prompt.reference
    imports, tests = ("\n".join(reference[key]) + "\n" for key in ("test_imports", "tests"))
    names = called(tests, reference["code"])
    code = extract_code(text, definition(names) if names else r"^(?:async +)?def ")
    if code is None:
        return Outcome("error", "no code")
    if not reference["tests"]:
        return []
    return [
        CallTrial(
            answer=(("imports", imports), ("answer", code)),
            tests=(("imports", imports), ("tests", tests)),
            names=names,
        )
    ]


def called(tests: str, code: str) -> tuple[str, ...]:
    """Names that the tests call and the reference solution defines.

    A row without a solution leaves those that Python has not: an answer that defines ``set`` must
    not be asked what a set is.
    """
    names = dict.fromkeys(_CALLED.findall(tests))
    defined = {name for pair in _DEFINED.findall(code) for name in pair if name}
    if not defined:
        defined = set(names) - set(dir(builtins)) - set(keyword.kwlist)
    return tuple(name for name in names if name in defined)


TASK = RowTask(
    name="mbpp",
    files=("mbpp/sanitized_test.jsonl", "mbpp/sanitized-mbpp.json", "sanitized-mbpp.json"),
    hub=HubFiles("google-research-datasets/mbpp", ("sanitized/test-*.parquet",)),
    parse=parse,
    grader=Grader(rule="mbpp/4", runs_code=True, judge=judge),
)
