"""Running generated code in a contained child process.

The program gets a fresh interpreter with the standard library and nothing else (no numpy: what a
verdict rests on must not depend on what is installed here), no network, no files but its own, and
`Limits`. What of this the system truly gives is tried once per sandbox and kept in `containment`.
"""

from __future__ import annotations

import os
import signal

from harness.errors import UserError
from tasks.sandbox_launch import Ended, Limits, launch
from tasks.sandbox_probe import Containment, probe

__all__ = ["Containment", "Finished", "Limits", "Sandbox"]

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a child ended."""

    exit_status: int | None
    """None: killed by a signal or at the time limit."""
    signal: int | None
    timed_out: bool
    """At the wall or the CPU limit."""
    stdout: str
    """Up to `Limits.output_bytes`; what is no UTF-8 is replaced."""
    stderr: str
    output_cut: bool
    """It wrote more, and was killed for it."""


class Sandbox:
    """A place to run programs that nobody has read; several threads may share it.

    Raises:
        UserError: programs cannot be run here, or only as root.
    """

    containment: Containment

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 (it is frozen)
        self.limits = limits
        self.containment = probe(limits)

    def run(self, program: str, stdin: str = "") -> Finished:
        """Run one program to its end; nothing of it is left afterwards.

        Raises:
            UserError: a fence that held when it was probed cannot be put up any more, or what the
            program started cannot be ended.
        """
        try:
            ended = launch(program, stdin, self.limits, steps=self.containment.steps)
        except OSError as error:
            raise UserError(f"no process could be started for generated code ({error})") from None
        if "error" in ended.report:
            raise UserError(f"generated code could not be contained: {ended.report['error']}")
        return _finished(ended)


def _finished(ended: Ended) -> Finished:
    status = ended.report["ended"]
    number = None if status is None or not os.WIFSIGNALED(status) else os.WTERMSIG(status)
    if status is None and not ended.report["timed_out"]:
        number = signal.SIGKILL.value  # by us, for its output
    return Finished(
        exit_status=os.WEXITSTATUS(status) if status is not None and number is None else None,
        signal=number,
        timed_out=ended.report["timed_out"] or number == signal.SIGXCPU,
        stdout=ended.stdout.decode("utf-8", "replace"),
        stderr=ended.stderr.decode("utf-8", "replace"),
        output_cut=ended.output_cut,
    )
