"""HumanEval: Python functions from signature and docstring (arXiv 2107.03374)."""

from __future__ import annotations

import re
import textwrap

from tasks.base import Prompt
from tasks.grading import Grader, Outcome
from tasks.hub import HubFiles
from tasks.programs import ModuleTrial, extract_code
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


def judge(prompt: Prompt, text: str) -> Outcome | list[ModuleTrial]:
    """The answer's function, or the prompt's with the answer as its body, against ``check``.

    What stands above the function in the prompt, imports and helpers, stands above the answer.
    """
    reference = prompt.reference
    name = reference["entry_point"]
    definition = rf"^(?:async +)?def +{re.escape(name)}\b"
    code = extract_code(text, definition)
    if code is None:
        return Outcome("error", "no code")
    above = ""
    if re.search(definition, code, re.MULTILINE):
        start = re.search(definition, reference["prompt"], re.MULTILINE)
        above = reference["prompt"][: start.start()] if start else ""
    else:
        code = reference["prompt"] + _as_body(code)
    test = f"{reference['test']}\ncheck({name})\n"
    return [ModuleTrial((("prompt", above), ("answer", code), ("tests", test)))]


def _as_body(code: str) -> str:
    """Code that fits below a signature at the margin."""
    first = next(line for line in code.splitlines() if line.strip())
    return code if first[0].isspace() else textwrap.indent(code, "    ")


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
    grader=Grader(rule="humaneval/2", runs_code=True, judge=judge),
)
