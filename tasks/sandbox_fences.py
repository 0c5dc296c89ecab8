"""Fences that Linux has: namespaces, a root of its own, Landlock; used by the sandbox's launcher.

Each raises OSError where the system does not give it, and AttributeError where libc does not know
it. Constants are the kernel's.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_SYS_MOUNT_SETATTR, _READ_ONLY_NOSUID = 442, 3
_SYS_LANDLOCK = 444  # create_ruleset; then add_rule, restrict_self
_LANDLOCK_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # rights on files by ABI; 16 from the fifth
_LANDLOCK_READ, _LANDLOCK_WRITE = 0b1101, 0b10  # execute, read file, read directory; write file
_LANDLOCK_OF_FILES = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 14) | (1 << 15)
_HOMES = ("/tmp", "/home", "/sandbox", "/sandbox.home")
"""Of these the first that holds nothing of the interpreter's."""

_libc = ctypes.CDLL(None, use_errno=True)


def namespaces(job: dict[str, Any]) -> None:
    """Put the next child first in its own PID, network, IPC and host name namespaces."""
    flags = _NEWPID | _NEWNET | _NEWIPC | _NEWUTS
    if job["uid"] is not None:
        call("unshare", flags)
        return
    uid, gid = os.getuid(), os.getgid()
    call("unshare", flags | _NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def own_root(job: dict[str, Any]) -> None:
    """Leave only the interpreter and its libraries, read-only, and a small home in memory."""
    if not has(job, "namespaces"):
        raise OSError("there are no namespaces")
    root, uid = job["directory"], job["uid"] or os.getuid()
    gid = job["uid"] or os.getgid()
    call("unshare", _NEWNS)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("sandbox", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755")
    for path in job["readable"]:
        _show(path, root + path)
    home = next(place for place in _HOMES if not os.path.lexists(root + place))
    os.mkdir(root + home)
    with open(f"{root}/program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(job["program"])
    attributes = struct.pack("4Q", _READ_ONLY_NOSUID, 0, 0, 0)
    _system(_SYS_MOUNT_SETATTR, _AT_FDCWD, root.encode(), _AT_RECURSIVE, attributes, 32)
    size = f"size={job['limits']['file_bytes']},nr_inodes=4096,mode=700,uid={uid},gid={gid}"
    _mount("sandbox", root + home, "tmpfs", _MS_NOSUID | _MS_NODEV, size)
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", _MNT_DETACH)
    os.chdir("/")
    job["home"] = home


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
    call("mount", *words, ctypes.c_ulong(flags), data.encode() or None)


def landlock(job: dict[str, Any]) -> None:
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


def _system(number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(f"system call {number}", _libc.syscall(ctypes.c_long(number), *words))


def call(name: str, *arguments: Any) -> int:
    """Call libc; a result below zero is an OSError."""
    return _checked(name, getattr(_libc, name)(*arguments))


def _checked(name: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def has(job: dict[str, Any], step: str) -> bool:
    """Whether a fence was asked for and has not failed."""
    return step in job["steps"] and step not in job["absent"]
