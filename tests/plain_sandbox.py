"""Stands in for `tasks.sandbox` where a test writes the programs itself: no containment."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
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
        self._lock = threading.Lock()

    def run(self, program: str, stdin: str = "") -> Finished:
        with self._lock:
            programs.append(program)
        return run(program, stdin)


def run(program: str, stdin: str = "", wall_s: float = 10.0) -> Finished:
    """Run a program of a test's own."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", program],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=wall_s,
        )
    except subprocess.TimeoutExpired:
        return Finished(exit_status=None, timed_out=True)
    if done.returncode < 0:
        return Finished(exit_status=None, signal=-done.returncode, stderr=done.stderr)
    return Finished(exit_status=done.returncode, stdout=done.stdout, stderr=done.stderr)
