"""Programs in answers: which text is the code, how it is tried, and what its end means.

This tells right programs from wrong ones. It does not defend against code written to cheat: the
answer runs in one process with its tests, and could read or replace them.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from tasks.grading import Outcome, Run, Verdict

if TYPE_CHECKING:
    from tasks.sandbox import Finished

_FENCE = re.compile(r"\s*(?:[-*>]\s+)?(`{3,}|~{3,})\s*([^`]*)$")
_PYTHON = ("", "py", "py3", "python", "python3")

_PRELUDE = """\
import builtins, sys
builtins.exit = builtins.quit = sys.exit
"""
"""What an interactive Python has and an isolated one lacks."""

_MODULE = """\
import types
module = types.ModuleType("answer")
sys.modules["answer"] = module
out = sys.stdout
for place, source in {sources!r}:
    exec(compile(source, place, "exec"), module.__dict__)
out.write({last!r})
out.flush()
"""

_MAIN = """\
names = {{"__name__": "__main__"}}
exec({above!r}, names)
exec(compile({source!r}, "answer", "exec"), names)
"""


def extract_code(text: str, wanted: str = "") -> str | None:
    """The program in an answer; None where there is only white space.

    Of the fenced blocks in Python, or without a language, the last one that ``wanted`` is found
    in, else the last one; a block cut off by the end of the answer counts. Without such a block
    the whole answer is taken for code.

    Args:
        text: the answer.
        wanted: a regular expression over lines.
    """
    blocks = list(_blocks(text)) or [text]
    pattern = re.compile(wanted, re.MULTILINE)
    code = next((block for block in reversed(blocks) if pattern.search(block)), blocks[-1])
    return code if code.strip() else None


def _blocks(text: str) -> Iterator[str]:
    """Fenced blocks in Python, in order and at the margin; empty ones left out."""
    fence, language = "", ""
    lines: list[str] = []
    for line in text.splitlines():
        found = _FENCE.match(line)
        if found is None or (fence and (found[2].strip() or not found[1].startswith(fence))):
            lines.append(line)
            continue
        if fence:
            yield from _python(language, lines)
            fence = ""
        else:
            fence, language = found[1], found[2]
        lines = []
    if fence:
        yield from _python(language, lines)


def _python(language: str, lines: Sequence[str]) -> Iterator[str]:
    name = language.strip().lower().split(" ")[0].strip("{}.")
    indents = [line[: -len(line.lstrip())] for line in lines if line.strip()]
    margin = len(os.path.commonprefix(indents))  # noqa: RUF071 (they are no paths)
    code = "\n".join(line[margin:] for line in lines)
    if name in _PYTHON and code.strip():
        yield code + "\n"


@dataclass(frozen=True, slots=True)
class ModuleTrial:
    """Sources run one after another in one module, the answer's and then the tests'.

    The tests raise where a result is wrong. The program's last line is random and printed behind
    them, so that one which ends early has not passed, whatever its exit status.
    """

    sources: tuple[tuple[str, str], ...]
    """Name and text of each."""

    def attempt(self, run: Run) -> Outcome:
        """Passed if every source ran to its end."""
        nonce = secrets.token_hex(16)
        body = _MODULE.format(sources=self.sources, last=f"\n{nonce}\n")
        finished = run(_PRELUDE + body, "")
        if (broken := _broken(finished)) is not None:
            return broken
        if finished.stdout.rstrip("\n").rpartition("\n")[2] != nonce:
            return Outcome("failed", "ended before its tests did")
        return Outcome("passed")


@dataclass(frozen=True, slots=True)
class InputTrial:
    """A whole program, and what it must print for one input."""

    source: str
    stdin: str
    expected: str
    name: str
    above: str = ""
    """Run first, in the same namespace."""

    def attempt(self, run: Run) -> Outcome:
        """Passed if it ended well and the output is the expected one."""
        program = _PRELUDE + _MAIN.format(above=self.above, source=self.source)
        finished = run(program, self.stdin)
        if (broken := _broken(finished)) is not None:
            return broken
        difference = output_difference(finished.stdout, self.expected)
        if difference is not None:
            return Outcome.because("failed", f"{self.name}: {difference}")
        return Outcome("passed")


def output_difference(output: str, expected: str) -> str | None:
    """Where an output is not the expected one, as LiveCodeBench compares; None where it is.

    White space around the whole and around each line counts for nothing. Lines that differ are
    equal if both are numbers between white space, and the numbers are equal exactly: ``1.0`` is
    ``1``.
    """
    lines, wanted = (
        [line.strip() for line in text.strip().split("\n")] for text in (output, expected)
    )
    if len(lines) != len(wanted):
        return f"{len(lines)} lines instead of {len(wanted)}"
    for number, (line, right) in enumerate(zip(lines, wanted, strict=True), start=1):
        if line != right and not _equal_numbers(line, right):
            return f"line {number} is {line[:40]!r} instead of {right[:40]!r}"
    return None


def _equal_numbers(line: str, right: str) -> bool:
    try:
        return [Decimal(item) for item in line.split()] == [Decimal(i) for i in right.split()]
    except InvalidOperation:
        return False


def _broken(finished: Finished) -> Outcome | None:
    """What is wrong with how a program ended; None where it ended by itself with status 0."""
    if finished.timed_out or finished.signal == signal.SIGXCPU:
        return Outcome("timeout", "time limit")
    if finished.output_cut:
        return Outcome("error", "printed more than is kept")
    if finished.signal is not None:
        return Outcome("error", f"killed by signal {finished.signal}")
    if finished.exit_status == 0:
        return None
    last = finished.stderr.rstrip().rpartition("\n")[2]
    verdict: Verdict = "failed" if last.startswith("AssertionError") else "error"
    return Outcome.because(verdict, last or f"exit status {finished.exit_status}")
