"""Limits on a program's processes, and the end of them; used by the sandbox's launcher."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from tasks.sandbox_fences import has
else:  # run as a script, the launcher has this directory on its path and nothing else
    from sandbox_fences import has

_SPARE_UIDS = 1_900_000_000
_OPEN_FILES = 256
_STACK_BYTES = 8 << 20
_KILL_S = 10.0
"""How long a killed process may take to go, on a busy machine."""


def spare_uid() -> int:
    """An id that no account has, and no other sandbox running here."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        top = max(int(inside) + int(count) for inside, _, count in map(str.split, file))
    if top > _SPARE_UIDS + (1 << 22):
        return _SPARE_UIDS + os.getpid()
    if top < 1 << 16:
        raise OSError("there is no user id to spare")
    return top - 5000 + os.getpid() % 4096


def limit(job: dict[str, Any]) -> None:
    """Set the limits of this process and all it starts."""
    limits = job["limits"]
    for name, value in (
        ("AS", limits["memory_bytes"]),
        ("FSIZE", limits["file_bytes"]),
        ("NPROC", limits["num_processes"] + _counted_already(job)),
        ("CORE", 0),
        ("NOFILE", _OPEN_FILES),
        ("STACK", _STACK_BYTES),
        ("CPU", limits["cpu_s"]),
    ):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue
        _, most = resource.getrlimit(kind)
        kept = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(ValueError, OSError):  # the probe tells which limits hold
            # A program that ignores the soft limit on CPU time meets the hard one.
            resource.setrlimit(kind, (kept, kept + 1 if name == "CPU" else kept))


def _counted_already(job: dict[str, Any]) -> int:
    """Processes and threads that the kernel counts against the program's user but are not its."""
    if job["uid"] is not None:
        return 0
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if has(job, "namespaces") and release >= (5, 14):  # counted by user namespace since
        return 2
    return sum(len(_tasks(pid)) for pid, (uid, _) in _processes().items() if uid == os.getuid())


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _processes() -> dict[int, tuple[int, int]]:
    """Real user and parent of every process that /proc shows; empty where there is none."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open(f"/proc/{name}/status", "rb") as file:
                fields = dict(line.split(b":", 1) for line in file if b":" in line)
            found[int(name)] = int(fields[b"Uid"].split()[0]), int(fields[b"PPid"])
        except (OSError, KeyError):  # it has ended
            continue
    return found


def end(job: dict[str, Any], first: int, program: int | None) -> None:
    """Kill everything the program left and wait until it is gone.

    Raises:
        OSError: something is still there.
    """
    if has(job, "namespaces"):
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)  # the kernel ends the whole PID namespace before
        return
    if program is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(program, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        if job["uid"] is not None:
            _kill_user(job["uid"])
        left = _descendants() | {first}
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:  # all are dead, the adopted ones too
            return
        time.sleep(0.002)
    raise OSError(f"processes of the program could not be ended within {_KILL_S:g} s")


def _kill_user(uid: int) -> None:
    """Kill all processes of a user at once, as that user."""
    killer = os.fork()
    if killer == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(killer, 0)


def _descendants() -> set[int]:
    """Processes below this one; orphans come to it, being their subreaper."""
    parents = {pid: parent for pid, (_, parent) in _processes().items()}
    family = {os.getpid()}
    while grown := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= grown
    return family - {os.getpid()}
