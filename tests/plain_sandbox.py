"""Stands in for `tasks.sandbox` where a test writes the programs itself: no containment."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

programs: list[str] = []
"""Every program that was run, in order."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    wall_s: float = 10.0
    num_processes: int = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    exit_status: int | None = 0
    signal: int | None = None
    timed_out: bool = False
    stdout: str = ""
    stderr: str = ""
    output_cut: bool = False


class Containment:
    lacking = ("open_reads",)

    def facts(self) -> dict[str, Any]:
        return {"steps": ("none",), "absent": {}, "held": {"cpu_time": True, "open_reads": False}}


class Sandbox:
    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.containment = Containment()
        self.numpy = "2.0.1"
        self._lock = threading.Lock()

    def run(
        self, program: str, stdin: str = "", *, wall_s: float | None = None, numpy: bool = False
    ) -> Finished:
        with self._lock:
            programs.append(program)
        return run(program, stdin, wall_s or self.limits.wall_s)

    def converse(
        self, program: str, tests: str, *, wall_s: float | None = None, numpy: bool = False
    ) -> tuple[Finished, Finished]:
        with self._lock:
            programs.append(program)
        return converse(program, tests, wall_s or self.limits.wall_s)


def run(program: str, stdin: str = "", wall_s: float = 10.0) -> Finished:
    """Run a program of a test's own."""
    with subprocess.Popen(_command(program), stdin=_PIPE, stdout=_PIPE, stderr=_PIPE) as process:
        return _finished(process, stdin.encode(), wall_s)


def converse(program: str, tests: str, wall_s: float = 10.0) -> tuple[Finished, Finished]:
    """Run two programs of a test's own, each reading what the other prints."""
    reads, asks = os.pipe()
    hears, replies = os.pipe()
    first = subprocess.Popen(_command(program), stdin=reads, stdout=replies, stderr=_PIPE)
    second = subprocess.Popen(_command(tests), stdin=hears, stdout=asks, stderr=_PIPE)
    for fd in (reads, asks, hears, replies):
        os.close(fd)
    with first, second, ThreadPoolExecutor(1) as other:
        answered = other.submit(_finished, first, None, wall_s)
        tested = _finished(second, None, wall_s + 5)
        wait([answered], timeout=1.0)  # it may be about to end by itself
        first.kill()
        return answered.result(), tested


_PIPE = subprocess.PIPE


def _command(program: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", program]


def _finished(process: subprocess.Popen[bytes], stdin: bytes | None, wall_s: float) -> Finished:
    try:
        out, err = process.communicate(stdin, timeout=wall_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Finished(exit_status=None, timed_out=True)
    status, stderr = process.returncode, err.decode()
    if status < 0:
        return Finished(exit_status=None, signal=-status, stderr=stderr)
    return Finished(exit_status=status, stdout=(out or b"").decode(), stderr=stderr)
