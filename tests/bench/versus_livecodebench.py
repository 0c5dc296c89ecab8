"""This project's verdicts beside those of LiveCodeBench's own grader, on answers written by hand.

    git clone https://github.com/LiveCodeBench/LiveCodeBench
    python -m tests.bench.versus_livecodebench --checkout LiveCodeBench

Its grader takes the code out of the answer and runs it on the same tests, a process an answer, as
its evaluation does; there is no sandbox around it, so only answers that somebody has read belong
here. Prints the counts and every difference; the exit status is 1 if a verdict of ours is not the
one written down as right.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from harness.errors import UserError
from tasks.base import Prompt
from tasks.grading import Outcome, grader_of
from tasks.livecodebench import TASK
from tasks.sandbox import Sandbox
from tests.hand_made_answers import HandMade, answers

_THEIRS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from lcb_runner.evaluation.testing_util import run_test
from lcb_runner.lm_styles import LMStyle
from lcb_runner.utils.extraction_utils import extract_code
asked = json.load(sys.stdin)
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
code = extract_code(asked["text"], LMStyle.OpenAIChat)
results, facts = run_test(asked["sample"], test=code, timeout=6)
print(json.dumps([[bool(one > 0) for one in results], facts.get("error_message", "")],
                 default=str), file=replies, flush=True)
"""
_GLOBAL_S = 7
"""Its own: a second beyond its limit for every test, and five more."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare verdicts with LiveCodeBench's grader."""

    checkout: Path
    """Its repository."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Both verdicts on one answer."""

    answer: HandMade
    ours: Outcome
    theirs: bool
    reason: str
    """Theirs, where it did not pass."""


def main() -> int:
    """Compare and print."""
    options = tyro.cli(Options)
    asked = [one for one in answers() if one.prompt.task == TASK.name]
    try:
        if not (options.checkout / "lcb_runner/evaluation/testing_util.py").is_file():
            raise UserError(f"{options.checkout} holds no LiveCodeBench; clone it first.")
        sandbox = Sandbox()
        found = [_compared(one, sandbox, options.checkout.resolve()) for one in asked]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _show(found)
    return int(any(one.ours.verdict != one.answer.verdict for one in found))


def _compared(answer: HandMade, sandbox: Sandbox, checkout: Path) -> Compared:
    rule = grader_of(TASK)
    assert rule is not None
    ours = rule.grade(answer.prompt, answer.text, sandbox)
    return Compared(answer, ours, *_theirs(answer, checkout))


def _theirs(answer: HandMade, checkout: Path) -> tuple[bool, str]:
    """Whether its grader passes an answer, and its reason if not."""
    asked = {"text": answer.text, "sample": _sample(answer.prompt)}
    num_tests = len(answer.prompt.reference["public_tests"])
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _THEIRS, str(checkout)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_GLOBAL_S * num_tests + 5,
        )
        results, reason = json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        return False, "global timeout"
    except ValueError:
        return False, "the grader's process ended without a result"
    return bool(results) and all(results), reason


def _sample(prompt: Prompt) -> dict[str, Any]:
    """The tests as its data set's loader hands them to its grader."""
    tests = prompt.reference["public_tests"]
    body = {
        "inputs": [test["input"] for test in tests],
        "outputs": [test["output"] for test in tests],
        "fn_name": prompt.reference.get("function_name"),
    }
    return {"input_output": json.dumps(body)}


def _show(found: list[Compared]) -> None:
    counts = Counter((one.ours.verdict == "passed", one.theirs) for one in found)
    right = {
        "ours": sum((one.ours.verdict == "passed") == _is_right(one) for one in found),
        "theirs": sum(one.theirs == _is_right(one) for one in found),
    }
    for one in found:
        if (one.ours.verdict == "passed") != one.theirs:
            mine = f"ours {one.ours.verdict}, theirs {'passed' if one.theirs else 'not'}"
            print(f"{mine:28} {one.answer.name} ({one.ours.detail or one.reason})")
    print(
        f"{len(found)} answers: {counts[True, True]} passed by both, {counts[False, False]} by "
        f"neither, {counts[True, False]} by ours alone, {counts[False, True]} by theirs alone; "
        f"as written down: ours {right['ours']}, theirs {right['theirs']}"
    )


def _is_right(one: Compared) -> bool:
    return one.answer.verdict == "passed"


if __name__ == "__main__":
    sys.exit(main())
