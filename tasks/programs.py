"""Programs in answers: how they are tried, and what their end means.

An answer never runs in the process that judges it. What it prints is compared here; what its
functions return leaves its process as plain data and is compared by the tests in another one.
"""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tasks.grading import Outcome, Runs, Verdict

if TYPE_CHECKING:
    from tasks.sandbox import Finished

_PRELUDE = """\
import builtins, sys
builtins.exit = builtins.quit = sys.exit
"""
"""What an interactive Python has and an isolated one lacks."""

_MODULE = """\
import sys, types
for name, source in {modules!r}:
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), module.__dict__)
module.{call}(*{arguments!r})
"""

_MAIN = """\
names = {{"__name__": "__main__"}}
exec({above!r}, names)
try:
    exec(compile({source!r}, "answer", "exec"), names)
except SystemExit:
    pass
"""
"""However it leaves, by ``sys.exit`` or at its last line, what it printed decides."""

Sources = Sequence[tuple[str, str]]
"""Name and text of each, run one after another in one namespace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTrial:
    """An answer whose functions are called by tests, each side in a sandbox of its own.

    The tests see names in place of the answer's functions, and values that were sent. The answer
    sees arguments. See `tasks.call_server` and `tasks.call_client`.
    """

    answer: Sources
    """The last is the answer; those before stand above it."""
    tests: Sources
    names: tuple[str, ...]
    """What the tests call of the answer's; its own, whatever else has such a name."""
    call_s: float | None = None
    """Seconds for one call; None for as long as a program may run."""
    wall_s: float | None = None
    """Seconds for all of it; None for the sandbox's own limit."""
    numpy: bool = False

    def attempt(self, runs: Runs) -> Outcome:
        """Passed if the tests ran to their end, and every call came back."""
        server = _program("call_server", "serve", (tuple(self.answer), self.names))
        client = _program("call_client", "check", (tuple(self.tests), self.names, self.call_s))
        answered, tested = runs.converse(
            _PRELUDE + server, client, wall_s=self.wall_s, numpy=self.numpy
        )
        found = _last_line(tested)
        if found.get("verdict") in get_args(Verdict):
            return Outcome.because(found["verdict"], found["detail"])
        if (broken := _broken(answered)) is not None:
            return broken
        if found.get("verdict") == "gone":
            return Outcome("failed", "ended before its tests did")
        return _broken(tested) or Outcome("error", "its tests did not come to an end")


def _program(module: str, call: str, arguments: tuple[Any, ...]) -> str:
    modules = tuple((name, _source(name)) for name in ("call_values", module))
    return _MODULE.format(modules=modules, call=call, arguments=arguments)


@functools.cache
def _source(module: str) -> str:
    return Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")


def _last_line(tested: Finished) -> dict[str, Any]:
    """What the tests' process reported; nothing where it came to no report."""
    try:
        found = json.loads(tested.stderr.rstrip().rpartition("\n")[2])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class InputTrial:
    """A whole program, and what it must print for one input."""

    source: str
    stdin: str
    expected: str
    name: str
    above: str = ""
    """Run first, in the same namespace."""
    wall_s: float | None = None
    """Seconds it may take; None for the sandbox's own limit."""
    numpy: bool = False

    def attempt(self, runs: Runs) -> Outcome:
        """Passed if the output is the expected one, unless the program broke or was ended."""
        program = _PRELUDE + _MAIN.format(above=self.above, source=self.source)
        finished = runs.run(program, self.stdin, wall_s=self.wall_s, numpy=self.numpy)
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
