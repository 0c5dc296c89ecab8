"""Runs one program inside what this system offers to contain it; a script, started by the sandbox.

Three processes. The launcher keeps the time and ends everything. Its child, the first of a PID
namespace where there is one, waits for the program. The program is a fresh interpreter.

Fences are put up one by one. A request that is `tolerant` goes on without those that fail and
reports why; any other is refused, so that nothing runs behind fewer fences than were probed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_SYS_MOUNT_SETATTR, _READ_ONLY_NOSUID = 442, 3
_SYS_LANDLOCK = 444  # create_ruleset; then add_rule, restrict_self
_LANDLOCK_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights on files by ABI; 16 from the fifth
_LANDLOCK_READ, _LANDLOCK_WRITE = 0b1101, 0b10  # execute, read file, read directory; write file
_LANDLOCK_OF_FILES = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 14) | (1 << 15)
_SET_SUBREAPER, _NO_NEW_PRIVS = 36, 38

_SPARE_UIDS = 1_900_000_000
_OPEN_FILES = 256
_STACK_BYTES = 8 << 20
_KILL_S = 2.0

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read the request, run it, report in one line of JSON."""
    control, report = int(sys.argv[1]), int(sys.argv[2])
    for fd in (control, report):
        os.set_inheritable(fd, False)
    os.umask(0o022)
    outcome: dict[str, Any] = {"absent": {}}
    try:
        job = _request(control)
        outcome |= _run(job, control)
    except Exception as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    os.write(report, json.dumps(outcome).encode())


def _request(control: int) -> dict[str, Any]:
    text = bytearray()
    while not text.endswith(b"\n"):
        chunk = os.read(control, 1 << 20)
        if not chunk:
            raise EOFError("the request broke off")
        text += chunk
    job: dict[str, Any] = json.loads(text)
    job["absent"] = {}
    return job


def _run(job: dict[str, Any], control: int) -> dict[str, Any]:
    if sys.platform == "linux":
        _call("prctl", _SET_SUBREAPER, 1, 0, 0, 0)
    job["uid"] = _spare_uid() if os.geteuid() == 0 else None
    _attempt(job, "namespaces", _namespaces)
    status_read, status_write = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(status_read)
        _first(job, status_write)
    os.close(status_write)
    outcome = _watch(control, status_read, job["limits"]["wall_s"])
    job["absent"] |= outcome["absent"]
    _end(job, first, outcome["program"])
    outcome["absent"] = job["absent"]
    return outcome


def _watch(control: int, status: int, wall_s: float) -> dict[str, Any]:
    """Wait for the program's end, the time limit, or the sandbox to let go of ``control``."""
    deadline = time.monotonic() + wall_s
    outcome: dict[str, Any] = {"ended": None, "timed_out": False, "program": None, "absent": {}}
    text = b""
    while True:
        left_s = deadline - time.monotonic()
        ready, _, _ = select.select([control, status], [], [], max(0.0, left_s))
        if status in ready:
            chunk = os.read(status, 1 << 16)
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                outcome |= json.loads(line)
            if not chunk or "error" in outcome or outcome["ended"] is not None:
                return outcome
        elif ready:
            return outcome
        elif left_s <= 0:
            outcome["timed_out"] = True
            return outcome


def _first(job: dict[str, Any], status: int) -> NoReturn:
    """Build the root, start the program, and reap until it has ended."""
    try:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when memory is short, this goes first
        _attempt(job, "root", _own_root)
        _settle(job)
        program = os.fork()
        if program == 0:
            _program(job, status)
        _tell(status, {"program": program})
        while True:
            pid, ended = os.wait()
            if pid == program:
                break
        _tell(status, {"ended": ended})
    except BaseException as error:
        _tell(status, {"error": f"{type(error).__name__}: {error}"})
    os._exit(0)


def _settle(job: dict[str, Any]) -> None:
    """Decide where the program lies and where it may write."""
    if _has(job, "root"):
        job["home"], place = "/tmp", "/"
    else:
        job["home"] = place = job["directory"]
        path = os.path.join(place, "program.py")
        with open(path, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(job["program"])
        if job["uid"] is not None:
            os.chown(place, job["uid"], job["uid"])
    job["path"] = os.path.join(place, "program.py")


def _program(job: dict[str, Any], status: int) -> NoReturn:
    """Become the program: what is set here holds for all it starts."""
    try:
        os.setsid()
        os.chdir(job["home"])
        _limit(job)
        if job["uid"] is not None:
            os.setgroups([])
            os.setresgid(job["uid"], job["uid"], job["uid"])
            os.setresuid(job["uid"], job["uid"], job["uid"])
        if sys.platform == "linux":
            _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        _attempt(job, "landlock", _landlock)
        _tell(status, {"absent": job["absent"]})
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": job["home"],
            "TMPDIR": job["home"],
            "PYTHONHASHSEED": "0",  # one program, one verdict
        }
        # No site, no user directory, no path of its own: the standard library and nothing else.
        flags = ("-s", "-P", "-S", "-B", "-X", "utf8")
        os.execve(job["python"], [job["python"], *flags, job["path"]], environment)
    except BaseException as error:
        _tell(status, {"error": f"{type(error).__name__}: {error}"})
    os._exit(127)


def _tell(status: int, words: dict[str, Any]) -> None:
    os.write(status, json.dumps(words).encode() + b"\n")


def _attempt(job: dict[str, Any], step: str, build: Callable[[dict[str, Any]], None]) -> None:
    """Put up a fence that was asked for; note why it fails, if that is tolerated."""
    if step not in job["steps"]:
        return
    try:
        build(job)
    except (OSError, AttributeError) as error:  # the latter: libc has no such call
        if not job["tolerant"]:
            raise
        job["absent"][step] = str(error)


def _has(job: dict[str, Any], step: str) -> bool:
    return step in job["steps"] and step not in job["absent"]


def _call(name: str, *arguments: Any) -> int:
    return _checked(name, getattr(_libc, name)(*arguments))


def _checked(name: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def _spare_uid() -> int:
    """An id that no account has, and no other sandbox running here."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        top = max(int(inside) + int(count) for inside, _, count in map(str.split, file))
    if top > _SPARE_UIDS + (1 << 22):
        return _SPARE_UIDS + os.getpid()
    if top < 1 << 16:
        raise OSError("there is no user id to spare")
    return top - 5000 + os.getpid() % 4096


def _namespaces(job: dict[str, Any]) -> None:
    flags = _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    if job["uid"] is not None:
        _call("unshare", flags)
        return
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", flags | _NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _own_root(job: dict[str, Any]) -> None:
    """Leave only the interpreter and its libraries, read-only, and a small /tmp in memory."""
    if not _has(job, "namespaces"):
        raise OSError("there are no namespaces")
    root, uid = job["directory"], job["uid"] or os.getuid()
    gid = job["uid"] or os.getgid()
    _call("unshare", _NEWNS)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("sandbox", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for path in job["readable"]:
        _show(path, root + path)
    os.mkdir(f"{root}/tmp")
    with open(f"{root}/program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(job["program"])
    attributes = struct.pack("4Q", _READ_ONLY_NOSUID, 0, 0, 0)
    _system(_SYS_MOUNT_SETATTR, _AT_FDCWD, root.encode(), _AT_RECURSIVE, attributes, 32)
    size = f"size={job['limits']['file_bytes']},nr_inodes=4096,mode=700,uid={uid},gid={gid}"
    _mount("sandbox", f"{root}/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    os.chdir(root)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def _show(path: str, inside: str) -> None:
    if os.path.lexists(inside) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
    _mount(path, inside, None, _MS_BIND | _MS_REC)


def _mount(source: str | None, at: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, at, kind)]
    _call("mount", *words, ctypes.c_ulong(flags), data.encode() or None)


def _system(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(f"system call {number}", _libc.syscall(ctypes.c_long(number), *words))


def _limit(job: dict[str, Any]) -> None:
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
    if _has(job, "namespaces") and release >= (5, 14):  # counted by user namespace since
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


def _landlock(job: dict[str, Any]) -> None:
    """Deny files but those of the interpreter, other processes' signals, and TCP."""
    abi = _system(_SYS_LANDLOCK, None, 0, 1)
    handled = (1 << _LANDLOCK_BITS.get(abi, 16)) - 1
    attributes = struct.pack("3Q", handled, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    rules = _system(_SYS_LANDLOCK, attributes, len(attributes), 0)
    _allow(rules, job["home"], handled)
    _allow(rules, job["path"], _LANDLOCK_READ)
    for path in job["readable"]:
        writes = _LANDLOCK_WRITE if path.startswith("/dev/") else 0
        _allow(rules, path, (_LANDLOCK_READ | writes) & handled)
    _system(_SYS_LANDLOCK + 2, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= _LANDLOCK_OF_FILES
    _system(_SYS_LANDLOCK + 1, rules, 1, struct.pack("=Qi", rights, place), 0)
    os.close(place)


def _end(job: dict[str, Any], first: int, program: int | None) -> None:
    """Kill everything the program left and wait until it is gone."""
    if _has(job, "namespaces"):
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


if __name__ == "__main__":
    main()
