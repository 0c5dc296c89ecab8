"""Running generated code in a contained child process.

The program gets a fresh interpreter with the standard library and nothing else (numpy where it is
asked for: what a verdict rests on should not depend on what is installed here), no network, no
files but its own, and `Limits`. What of this the system truly gives is tried once per sandbox and
kept in `containment`.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from harness.errors import UserError
from tasks.sandbox_launch import Ended, Limits, Line, launch
from tasks.sandbox_probe import Containment, probe

__all__ = ["Containment", "Finished", "Limits", "Sandbox"]

_LONGER_S = 5.0
"""What tests get beyond the answer's time, so that the answer's end is the one that is seen."""


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
    numpy: str | None
    """Its version, for programs that may import it; None where it is not installed."""

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 (it is frozen)
        self.limits = limits
        self.containment = probe(limits)
        self.numpy = _numpy_here().version

    def run(
        self, program: str, stdin: str = "", *, wall_s: float | None = None, numpy: bool = False
    ) -> Finished:
        """Run one program to its end; nothing of it is left afterwards.

        Args:
            program: its source.
            stdin: its whole input.
            wall_s: another limit for this one, of CPU time too.
            numpy: whether it may import numpy, where that is installed here.

        Raises:
            UserError: a fence that held when it was probed cannot be put up any more, or what the
            program started cannot be ended.
        """
        return self._launch(program, stdin, self._limits(wall_s), numpy=numpy)

    def converse(
        self, program: str, tests: str, *, wall_s: float | None = None, numpy: bool = False
    ) -> tuple[Finished, Finished]:
        """Run two programs, each contained by itself; what one prints is what the other reads.

        The second one's end ends the first. Of neither is there any standard output to be had.

        Args:
            program: the source of the first.
            tests: the source of the second.
            wall_s: as for `run`, of the first; the second has a little longer.
            numpy: as for `run`, for the first.

        Raises:
            UserError: as `run`.
        """
        limits = self._limits(wall_s)
        longer = dataclasses.replace(limits, wall_s=limits.wall_s + _LONGER_S)
        reads, asks = os.pipe()
        hears, replies = os.pipe()
        over, done = os.pipe()
        first = Line(stdin=reads, stdout=replies, over=over)
        second = Line(stdin=hears, stdout=asks, over=over)
        with ThreadPoolExecutor(1) as other:
            answering = other.submit(self._launch, program, first, limits, numpy=numpy)
            try:
                tested = self._launch(tests, second, longer)
            finally:
                os.close(done)
                wait([answering])
                os.close(over)
        return answering.result(), tested

    def _limits(self, wall_s: float | None) -> Limits:
        if wall_s is None:
            return self.limits
        return dataclasses.replace(self.limits, wall_s=wall_s, cpu_s=math.ceil(wall_s))

    def _launch(
        self, program: str, stdin: str | Line, limits: Limits, *, numpy: bool = False
    ) -> Finished:
        packages = _numpy_here().directories if numpy else ()
        steps = self.containment.steps
        try:
            ended = launch(program, stdin, limits, steps=steps, packages=packages)
        except OSError as error:
            raise UserError(f"no process could be started for generated code ({error})") from None
        if "error" in ended.report:
            raise UserError(f"generated code could not be contained: {ended.report['error']}")
        return _finished(ended)


@dataclass(frozen=True, slots=True)
class Installed:
    """A package that programs may import."""

    version: str | None
    directories: tuple[str, ...]


@functools.cache
def _numpy_here() -> Installed:
    """The numpy of this environment, found without importing it."""
    try:
        package = importlib.metadata.distribution("numpy")
    except importlib.metadata.PackageNotFoundError:
        return Installed(None, ())
    names = ("numpy", "numpy.libs")
    places = (os.path.realpath(str(package.locate_file(name))) for name in names)
    return Installed(package.version, tuple(filter(os.path.isdir, places)))


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
