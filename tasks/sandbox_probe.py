"""What the sandbox holds back on this machine: tried from inside, not assumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from tasks.sandbox_launch import STEPS, Ended, Limits, launch

_PROBE_WALL_S = 8.0
_SPIN_WALL_S = 30.0
"""On a busy machine a second of CPU time takes many."""
_VARIABLES = (
    *("PATH", "LANG", "LC_CTYPE", "HOME", "TMPDIR", "PYTHONHASHSEED"),
    *("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
)
_NEW_USER_AND_MOUNTS = 0x10020000
"""Namespaces, as unshare has them: in these a file system in memory can be mounted."""
_LEFT_S = 30
"""How long a process lives that the sandbox fails to end."""

HOLDS = {
    "cpu_time": "endless work is ended",
    "memory": "a process cannot take more memory than allowed",
    "shared_memory": "there is no memory to be had that no limit counts",
    "file_size": "a file cannot grow beyond the limit",
    "disk": "all files together cannot grow beyond the limit",
    "processes": "no more processes than allowed",
    "descendants": "a process that left its session is ended with the program",
    "environment": "the parent's environment cannot be read",
    "descriptors": "no open file is inherited",
    "signals": "other processes cannot be signalled",
    "reads": "other files cannot be read, even those open to all",
    "writes": "other files cannot be written, even those open to all",
    "network": "no socket reaches another",
}
"""What can hold, and what it means."""

_SPIN = "while True: pass"
_BREAKOUT = """
import ctypes, errno, json, mmap, os, signal, socket, tempfile, time
asked = json.loads(input())

def fails(action, *still):
    try:
        action()
    except (OSError, ValueError, MemoryError) as error:
        return not isinstance(error, still)
    except AttributeError:  # no such call to try it with
        pass
    return False

def descriptors():
    def closed(fd):
        return fails(lambda: os.fstat(fd))
    return all(map(closed, range(3, 256)))

def leave():
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                time.sleep(asked["left_s"])
        finally:
            os._exit(0)
    os.wait()

def grow(path, size):
    with open(path, "wb") as file:
        file.seek(size - 1)
        file.write(b"x")

def fill():
    with open("many", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, asked["file_bytes"])
    with open("more", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, asked["file_bytes"] // 4)

def multiply():
    started = 0
    try:
        while started < asked["num_processes"]:
            if os.fork() == 0:
                time.sleep(asked["left_s"])
                os._exit(0)
            started += 1
    except OSError:
        return True
    return False

def send():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("127.0.0.1", asked["udp"]))

def write():
    with open(asked["open_file"], "a") as file:
        file.write("broken")

def environment():
    with open(f"/proc/{asked['pid']}/environ", "rb") as file:
        file.read(1)

def shared_memory():
    # What is missing from the system, or from libc, cannot be had either.
    libc = ctypes.CDLL(None)
    had = [
        not fails(lambda: tempfile.TemporaryFile(dir="/dev/shm").close()),
        getattr(libc, "memfd_create", lambda *_: -1)(b"", 0) >= 0,
        getattr(libc, "unshare", lambda *_: -1)(asked["new_user_and_mounts"]) == 0,
    ]
    for get, control, *size in (("shmget", "shmctl", 4096), ("msgget", "msgctl")):
        one = getattr(libc, get, lambda *_: -1)(0, *size, 0o1600)
        had.append(one >= 0)
        if one >= 0:
            getattr(libc, control)(one, 0, None)  # it would outlive us
    return not any(had)

connect = lambda: socket.create_connection(("127.0.0.1", asked["tcp"]), 1).close()
held = {
    "descriptors": descriptors(),
    "environment": os.environ.keys() <= set(asked["variables"]) and fails(environment),
    "signals": fails(lambda: os.kill(asked["pid"], 0)),
    "reads": fails(lambda: open(asked["open_file"]).read()),
    "writes": fails(write) and fails(lambda: open(asked["open_file"] + ".new", "w").close()),
    "network": fails(connect, ConnectionRefusedError) and fails(send),
    "memory": fails(lambda: mmap.mmap(-1, asked["memory_bytes"])),
    "file_size": fails(lambda: grow("big", asked["file_bytes"] + 1)),
    "disk": fails(fill),
}
fails(leave)
held["processes"] = multiply()
held["shared_memory"] = shared_memory()
print(json.dumps(held), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Containment:
    """What holds, and by which means."""

    user: Literal["spare", "own"]
    """Whose rights a program has: those of an id nobody uses (where we are root), or ours."""
    steps: tuple[str, ...]
    """Fences that could be put up."""
    absent: dict[str, str]
    """Why the others could not."""
    held: dict[str, bool]
    """By the names of `HOLDS`."""

    @property
    def lacking(self) -> tuple[str, ...]:
        """What does not hold."""
        return tuple(name for name, holds in self.held.items() if not holds)

    def facts(self) -> dict[str, Any]:
        """The same as JSON."""
        return dataclasses.asdict(self)


def probe(limits: Limits) -> Containment:
    """Try to break out; takes about a second, most of it the least CPU limit there is.

    Raises:
        UserError: no program can be run.
    """
    own = dataclasses.replace(limits, wall_s=_PROBE_WALL_S, output_bytes=1 << 16)
    spinning = dataclasses.replace(own, cpu_s=1, wall_s=_SPIN_WALL_S)
    with _Canaries() as asked, ThreadPoolExecutor(1) as other:
        asked |= dataclasses.asdict(limits)
        spun = other.submit(_tolerant, _SPIN, "", spinning)
        tried = _tolerant(_BREAKOUT, json.dumps(asked), own)
        held = _held(tried) | {"cpu_time": _ended_early(spun.result())}
        if Path(asked["open_file"]).read_bytes():
            held["writes"] = False
    absent = tried.report["absent"]
    return Containment(
        user="spare" if os.geteuid() == 0 else "own",
        steps=tuple(step for step in STEPS if step not in absent),
        absent=absent,
        held={name: held[name] for name in HOLDS},
    )


def _tolerant(program: str, stdin: str, limits: Limits) -> Ended:
    try:
        ended = launch(program, stdin, limits, steps=STEPS, tolerant=True)
    except OSError as error:
        raise UserError(f"no process could be started for generated code ({error})") from None
    if "error" in ended.report:
        why = ended.report["error"]
        hint = (
            "; root runs it under a spare user id, which must be able to read this Python: "
            "install Python outside root's home, or run as an ordinary user"
        )
        raise UserError(
            f"generated code cannot be run here ({why}){hint if os.geteuid() == 0 else ''}"
        )
    return ended


def _held(tried: Ended) -> dict[str, bool]:
    lines = tried.stdout.decode("utf-8", "replace").splitlines()
    try:
        held = dict(json.loads(lines[-1]))
    except (ValueError, IndexError):
        raise UserError(
            "generated code cannot be run here: the sandbox's own trial ended with "
            f"{tried.stderr.decode('utf-8', 'replace').strip().splitlines()[-1:]}"
        ) from None
    return held | {"descendants": tried.drained}


def _ended_early(spun: Ended) -> bool:
    return spun.report["ended"] is not None and not spun.report["timed_out"]


class _Canaries:
    """Things outside the sandbox that are open to everyone: a file, two ports, a variable."""

    def __enter__(self) -> dict[str, Any]:
        self._stack = contextlib.ExitStack()
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o777)
        file = directory / "open"
        file.touch()
        file.chmod(0o666)
        return {
            "open_file": str(file),
            "tcp": self._port(socket.SOCK_STREAM),
            "udp": self._port(socket.SOCK_DGRAM),
            "pid": os.getpid(),
            "variables": _VARIABLES,
            "left_s": _LEFT_S,
            "new_user_and_mounts": _NEW_USER_AND_MOUNTS,
        }

    def _port(self, kind: socket.SocketKind) -> int:
        try:
            one = self._stack.enter_context(socket.socket(socket.AF_INET, kind))
            one.bind(("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                one.listen()
        except OSError:
            return 9
        return int(one.getsockname()[1])

    def __exit__(self, *error: object) -> None:
        self._stack.close()
