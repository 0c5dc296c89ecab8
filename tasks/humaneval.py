"""HumanEval: Python functions from signature and docstring (arXiv 2107.03374)."""

from __future__ import annotations

import ast
import re
import textwrap

from tasks.answer_code import definition, extract_code
from tasks.base import Prompt
from tasks.grading import Grader, Outcome
from tasks.hub import HubFiles
from tasks.programs import CallTrial
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


def judge(prompt: Prompt, text: str) -> Outcome | list[CallTrial]:
    """The answer's function, or the prompt's with the answer as its body, against ``check``.

    What stands above the function in the prompt, imports and helpers, stands above the answer and
    above the tests.
    """
    reference = prompt.reference
    name = reference["entry_point"]
    wanted = re.compile(definition([name]), re.MULTILINE)
    code = extract_code(text, wanted.pattern)
    if code is None:
        return Outcome("error", "no code")
    start = wanted.search(reference["prompt"])
    above = reference["prompt"][: start.start()] if start else ""
    if not wanted.search(code):
        code = reference["prompt"] + _as_body(code)
    tests = f"{reference['test']}\ncheck({name})\n"
    return [
        CallTrial(
            answer=(("prompt", above), ("answer", code)),
            tests=(("prompt", above), ("tests", tests)),
            names=(name,),
        )
    ]


def _as_body(code: str) -> str:
    """Code that fits below a signature at the margin; often its first line lost its indent."""
    first = next(line for line in code.splitlines() if line.strip())
    if first[0].isspace():
        return code
    indented = textwrap.indent(code, "    ")
    return next((body for body in (indented, f"    {code.lstrip()}") if _parses(body)), indented)


def _parses(body: str) -> bool:
    try:
        ast.parse(f"def f():\n{body}")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


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
    grader=Grader(rule="humaneval/4", runs_code=True, judge=judge),
)
