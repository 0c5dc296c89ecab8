"""What becomes of an answer: verdicts, and the rule of a task that gives them.

A task is scored if it has a ``grader``; answers to open questions have no right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from tasks.base import Prompt, Task

if TYPE_CHECKING:
    from tasks.sandbox import Finished

Verdict = Literal["passed", "failed", "timeout", "error", "not run"]
"""``failed``: a wrong result. ``timeout``: none in time. ``error``: the answer broke or holds
nothing to judge. ``not run``: nobody tried; part of no share. Trouble of the machine is no verdict:
it is raised."""


class Runs(Protocol):
    """A place to run programs, contained: `tasks.sandbox.Sandbox`."""

    def run(
        self, program: str, stdin: str = "", *, wall_s: float | None = None, numpy: bool = False
    ) -> Finished:
        """Run a program on its standard input."""

    def converse(
        self, program: str, tests: str, *, wall_s: float | None = None, numpy: bool = False
    ) -> tuple[Finished, Finished]:
        """Run two, apart from each other; what one prints is what the other reads."""


_DETAIL_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and its reason."""

    verdict: Verdict
    detail: str = ""
    """One short line; empty for most that passed."""

    @classmethod
    def because(cls, verdict: Verdict, reason: str) -> Outcome:
        """An outcome whose reason is made one short, printable line."""
        line = "".join(c if c.isprintable() else " " for c in reason)
        line = " ".join(line.split())
        if len(line) > _DETAIL_LENGTH:
            line = f"{line[: _DETAIL_LENGTH - 1]}…"
        return cls(verdict, line)


class Trial(Protocol):
    """One program to run, and what its end means."""

    def attempt(self, runs: Runs) -> Outcome:
        """Run it once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grader:
    """How answers of one task, of one turn each, are judged."""

    rule: str
    """Name and version; answers are scored anew when it changes."""
    runs_code: bool
    """Whether answers are programs, which somebody must have allowed to run."""
    judge: Callable[[Prompt, str], Outcome | Sequence[Trial]]
    """From the text alone: the outcome, or the trials it has to pass."""

    def grade(self, prompt: Prompt, text: str, runs: Runs | None) -> Outcome:
        """The outcome of one answer; the first trial that is not passed decides.

        Args:
            prompt: with its reference.
            text: the answer.
            runs: None for a task that runs no code.

        Raises:
            UserError: no program can be run.
        """
        found = self.judge(prompt, text)
        if isinstance(found, Outcome):
            return found
        if not found:
            return Outcome("not run", "the prompt has no tests")
        assert runs is not None, "a rule that runs no code asked for a program"
        for trial in found:
            outcome = trial.attempt(runs)
            if outcome.verdict != "passed":
                return outcome
        return Outcome("passed")


def grader_of(task: Task) -> Grader | None:
    """The task's rule; None where it has none."""
    found = getattr(task, "grader", None)
    return found if isinstance(found, Grader) else None
