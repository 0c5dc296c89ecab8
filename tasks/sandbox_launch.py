"""One run of the launcher: what goes in, what comes out, and an end in any case."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

LAUNCHER = Path(__file__).with_name("sandbox_child.py")
STEPS = ("namespaces", "root", "landlock", "calls")
"""Fences the launcher knows, in the order they are put up."""

_GRACE_S = 30.0
"""What starting, killing and reading may take on a busy machine, beyond the program's own time."""
_END_S = 5.0
_DRAIN_S = 1.0
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may use.

    Memory, CPU time and file size count for each process of the program.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    """Of addresses, not of pages in use."""
    file_bytes: int = 64 << 20
    """Of one file; of all files together where they lie in memory."""
    num_processes: int = 32
    """Processes and threads, the program's first among them."""
    output_bytes: int = 1 << 20
    """Of stdout, and again of stderr; a program that writes more is killed."""


@dataclass(slots=True)
class Ended:
    """What came back from the launcher."""

    report: dict[str, Any]
    stdout: bytes
    stderr: bytes
    output_cut: bool
    drained: bool
    """Whether the program's pipes were closed: nobody is left who holds them."""


@cache
def interpreter() -> tuple[str, tuple[str, ...]]:
    """This Python outside its virtual environment, and the paths it needs to run."""
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # Left alone, sysconfig answers with a virtual environment's own library for the second.
    outside = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    paths = sysconfig.get_paths(vars=outside)
    readable = {
        python,
        paths["stdlib"],
        paths["platstdlib"],
        f"{sys.base_prefix}/lib",
        *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/nix/store"),
        *("/etc/ld.so.cache", "/usr/share/zoneinfo"),
        *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
    }
    return python, tuple(sorted(readable))  # what contains others comes before them


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Ends of pipes in the place of a program's input and output, and a third that ends it."""

    stdin: int
    stdout: int
    over: int
    """Readable, or closed on its other side: the program is not wanted any more."""


def launch(
    program: str,
    stdin: str | Line,
    limits: Limits,
    *,
    steps: tuple[str, ...],
    tolerant: bool = False,
    packages: tuple[str, ...] = (),
) -> Ended:
    """Run a program behind the fences ``steps``; see `tasks.sandbox_child`.

    Args:
        program: its source.
        stdin: its whole input; or pipes, of which this closes its copies of the first two.
        limits: what it may use.
        steps: names of fences.
        tolerant: whether fences that cannot be put up are left out.
        packages: directories of installed packages it may import, and of their libraries.

    Raises:
        OSError: no process, pipe or directory is to be had.
    """
    python, readable = interpreter()
    line = stdin if isinstance(stdin, Line) else None
    given = b"" if isinstance(stdin, Line) else stdin.encode("utf-8", "surrogatepass")
    with contextlib.ExitStack() as home, contextlib.ExitStack() as ends:
        for fd in (line.stdin, line.stdout) if line else ():
            ends.callback(os.close, fd)
        directory = home.enter_context(_directory())
        request = {
            "program": program,
            "directory": directory,
            "python": python,
            "readable": tuple(sorted({*readable, *packages})),
            "packages": {
                os.path.basename(p): p for p in packages if "." not in os.path.basename(p)
            },
            "steps": steps,
            "tolerant": tolerant,
            "limits": asdict(limits),
        }
        with _Launcher(json.dumps(request).encode() + b"\n", line) as launcher:
            ends.close()  # the launcher has its own; else no reader would ever see an end
            return launcher.converse(given, limits)


@contextlib.contextmanager
def _directory() -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="sandbox-")
    try:
        yield os.path.realpath(path)
    finally:
        with contextlib.suppress(OSError, RecursionError):
            shutil.rmtree(path)
        if os.path.lexists(path):  # locked or very deep directories
            for command in (["chmod", "-R", "u+rwx", path], ["rm", "-rf", path]):
                subprocess.run(command, check=False, stderr=subprocess.DEVNULL)


class _Launcher:
    """The launcher's process and the two pipes it alone has."""

    def __init__(self, request: bytes, line: Line | None) -> None:
        self._request = request
        self._line = line
        control, self._control = os.pipe()
        self._report, report = os.pipe()
        try:
            self._process = subprocess.Popen(
                [interpreter()[0], "-I", "-S", str(LAUNCHER), str(control), str(report)],
                stdin=line.stdin if line else subprocess.PIPE,
                stdout=line.stdout if line else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"LANG": "C.UTF-8"},
                cwd="/",
                pass_fds=(control, report),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._control)
            os.close(self._report)
            raise
        finally:
            os.close(control)
            os.close(report)

    def __enter__(self) -> _Launcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._let_go()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        os.close(self._report)

    def _let_go(self) -> None:
        """Close what tells the launcher that its program is still wanted."""
        if self._control >= 0:
            os.close(self._control)
            self._control = -1

    def converse(self, stdin: bytes, limits: Limits) -> Ended:
        """Feed the program and take what it writes, until all pipes are closed."""
        process, deadline = self._process, time.monotonic() + limits.wall_s + _GRACE_S
        feeds = {self._control: self._request}
        into = process.stdin.fileno() if process.stdin else -1
        if process.stdin:
            feeds[into] = stdin
        streams = {stream.fileno() for stream in (process.stdout, process.stderr) if stream}
        taken = {fd: bytearray() for fd in (*sorted(streams), self._report)}
        open_fds, cut, over = set(taken), False, False
        with selectors.DefaultSelector() as selector:
            for fd in feeds:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_WRITE)
            for fd in taken:
                selector.register(fd, selectors.EVENT_READ)
            if self._line:
                selector.register(self._line.over, selectors.EVENT_READ)
            while open_fds and (left_s := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left_s):
                    fd = key.fd
                    if fd in feeds:
                        feeds[fd] = _feed(fd, feeds[fd])
                        done = not feeds[fd]
                    elif fd in taken:
                        chunk = os.read(fd, _CHUNK)
                        done = not chunk
                        cut |= _take(chunk, taken[fd], limits.output_bytes)
                    else:
                        done = over = True
                    if done:
                        selector.unregister(fd)
                        open_fds.discard(fd)
                    if done and fd == into and process.stdin:
                        process.stdin.close()
                    if done and fd == self._report:
                        deadline = min(deadline, time.monotonic() + _DRAIN_S)
                if cut or over:
                    self._let_go()
        out, err = (
            bytes(taken[stream.fileno()]) if stream else b""
            for stream in (process.stdout, process.stderr)
        )
        return Ended(_report(bytes(taken[self._report])), out, err, cut, drained=not open_fds)


def _take(chunk: bytes, taken: bytearray, most: int) -> bool:
    """Keep what there is room for; return whether some was left out."""
    room = most - len(taken)
    taken += chunk[:room]
    return len(chunk) > room


def _feed(fd: int, data: bytes) -> bytes:
    """Write what fits; a reader that has gone needs no more."""
    try:
        return data[os.write(fd, data[:_CHUNK]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""


def _report(text: bytes) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"error": "the launcher was killed"}
    return report
