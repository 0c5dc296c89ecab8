"""LiveCodeBench, code_generation_lite: contest programs (arXiv 2403.07974).

Only the public tests are read. The private ones are pickled upstream, and unpickling would run
whatever the file says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.typed_json import parse_json
from tasks.answer_code import definition, extract_code
from tasks.base import Prompt
from tasks.grading import Grader, Outcome, Trial
from tasks.hub import HubFiles
from tasks.programs import CallTrial, InputTrial
from tasks.row_task import RowTask
from tasks.rows import Row

TEMPLATE = (
    "You are an expert Python programmer. You will be given a question (problem specification) "
    "and will generate a correct Python program that matches the specification and passes all "
    "tests. You will NOT return anything except for the program\n\n"
    "### Question:\n{question}\n\n"
    "### Format: {format}\n```python\n{code}\n```\n\n"
    "### Answer: (use the provided format with backticks)"
)
WITH_STARTER_CODE = "Use the following code structure:"
WITHOUT_STARTER_CODE = "Write your code in the following format:"

_STARS = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools "
    "operator io sys json builtins typing"
)
_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools "
    "operator io sys json"
)
IMPORTS = "".join(f"from {name} import *\n" for name in _STARS.split()) + "".join(
    [*(f"import {name}\n" for name in _MODULES.split()), "sys.setrecursionlimit(50_000)\n"]
)
"""What upstream's graders import for every answer, in their order: later names win."""
_DIGITS = "sys.set_int_max_str_digits(50_000)\n"
"""As upstream's graders allow; Python's own limit is 4,300."""

_CALLS = """\
import json, sys
{digits}\
call = {call}
for number, (lines, expected) in enumerate({tests!r}, start=1):
    found = call(*(json.loads(line) for line in lines.split("\\n")))
    found = list(found) if isinstance(found, tuple) else found
    assert found == json.loads(expected), f"test {{number}}: {{found!r}}"
"""

TEST_S = 6.0
"""Seconds for one test, as upstream's graders give."""
_START_S = 5.0
"""For a process to start and to import what stands above every answer."""
_READS = r"\binput\b|\bstdin\b|\bopen\(0"

_TEST_KEYS = ("input", "output", "testtype")


def parse(row: Row) -> Prompt:
    """The question and the format of the answer; the function's name if tests call one."""
    starter_code = row.text("starter_code")
    tests = _public_tests(row)
    reference: dict[str, Any] = {
        "public_tests": tests,
        "starter_code": starter_code,
        "platform": row.text("platform"),
        "difficulty": row.text("difficulty"),
    }
    if any(test["testtype"] == "functional" for test in tests):
        reference["function_name"] = _function_name(row)
    turn = TEMPLATE.format(
        question=row.text("question_content"),
        format=WITH_STARTER_CODE if starter_code else WITHOUT_STARTER_CODE,
        code=starter_code or "# YOUR CODE HERE",
    )
    return Prompt(
        task="livecodebench",
        prompt_id=row.identifier("question_id"),
        turns=(turn,),
        reference=reference,
    )


def _public_tests(row: Row) -> list[dict[str, str]]:
    tests = _decoded(row, "public_test_cases")
    if not isinstance(tests, list) or not all(map(_is_test, tests)):
        raise row.error("'public_test_cases' should list input, output and testtype of each test")
    return [{key: test[key] for key in _TEST_KEYS} for test in tests]


def _is_test(test: Any) -> bool:
    return (
        isinstance(test, dict)
        and all(isinstance(test.get(key), str) for key in _TEST_KEYS)
        and test["testtype"] in ("stdin", "functional")
    )


def _function_name(row: Row) -> str:
    metadata = _decoded(row, "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if not isinstance(name, str):
        raise row.error("'metadata' should give the func_name that the tests call")
    return name


def _decoded(row: Row, key: str) -> Any:
    """The value under ``key``; upstream writes it as JSON inside a string."""
    value = row.body.get(key)
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise row.error(f"{key!r} holds broken JSON ({error})") from error


def judge(prompt: Prompt, text: str) -> Outcome | list[Trial]:
    """The answer's program against the public tests: calls of a function, or input and output.

    ``docs/graders.md`` lists where this is not upstream's grader.
    """
    reference = prompt.reference
    name = reference.get("function_name")
    code = extract_code(text, definition(["Solution", name]) if name else _READS)
    if code is None:
        return Outcome("error", "no code")
    tests = reference["public_tests"]
    called = [(test["input"], test["output"]) for test in tests if test["testtype"] == "functional"]
    trials: list[Trial] = [
        InputTrial(
            code,
            test["input"],
            test["output"],
            f"test {number}",
            IMPORTS + _DIGITS,
            TEST_S,
            numpy=True,
        )
        for number, test in enumerate(tests, start=1)
        if test["testtype"] == "stdin"
    ]
    if called and name:
        trials.append(_calls(code, name, called))
    return trials


def _calls(code: str, name: str, tests: Sequence[tuple[str, str]]) -> CallTrial:
    in_class = re.search(r"^class +Solution\b", code, re.MULTILINE) is not None
    call = f"Solution().{name}" if in_class else name
    return CallTrial(
        answer=(("imports", IMPORTS + _DIGITS), ("answer", code)),
        tests=(("tests", _CALLS.format(digits=_DIGITS, call=call, tests=tests)),),
        names=("Solution" if in_class else name,),
        call_s=TEST_S,
        wall_s=_START_S + TEST_S * (len(tests) + 1),
        numpy=True,
    )


TASK = RowTask(
    name="livecodebench",
    files=("livecodebench/problems_*.jsonl", "livecodebench/test*.jsonl"),
    hub=HubFiles(
        "livecodebench/code_generation_lite",
        ("test.jsonl", "test2.jsonl", "test3.jsonl", "test4.jsonl", "test5.jsonl", "test6.jsonl"),
    ),
    parse=parse,
    grader=Grader(rule="livecodebench-public/5", runs_code=True, judge=judge),
)
