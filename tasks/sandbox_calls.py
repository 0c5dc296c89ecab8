"""System calls that a program is refused: a seccomp filter, put up by the sandbox's launcher.

Most of what a program may do is bounded elsewhere. Refused is only what no limit counts, what would
give it a system of its own to mount in, and what a test needs no more than the kernel's attackers
do. Numbers are the kernel's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from tasks.sandbox_fences import call
else:  # run as a script, the launcher has this directory on its path and nothing else
    from sandbox_fences import call

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_REFUSED = {
    # Memory that is no address space's and no file's.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    # A user namespace has every right inside, so that a file system of any size can be mounted.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    # Large parts of the kernel that no answer to a problem needs; keys outlive their program.
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "perf_event_open": (298, 241),
    "ptrace": (101, 117),
    "userfaultfd": (323, 282),
}
"""By name, the numbers in the order of `_MACHINES`."""
_CLONE, _CLONE3 = (56, 220), 435
_NAMESPACES = 0x7E020000
"""Flags of clone: new mount, cgroup, host name, IPC, user, PID and network namespaces."""
_X32 = 1 << 30
"""In the numbers of a second set of calls that x86_64 has; too high for any other."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # classic BPF
_NUMBER_AT, _MACHINE_AT, _FLAGS_AT = 0, 4, 16  # in struct seccomp_data, little-endian
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_SET_SECCOMP, _FILTER = 22, 2


def calls(job: dict[str, Any]) -> None:
    """Refuse them to this process and all it starts; it can gain no privileges since before."""
    code = ctypes.create_string_buffer(rules(os.uname().machine))
    program = struct.pack("HP", (len(code) - 1) // 8, ctypes.addressof(code))
    call("prctl", _SET_SECCOMP, ctypes.c_ulong(_FILTER), program)


def rules(machine: str) -> bytes:
    """Return the filter in classic BPF, eight bytes an instruction.

    Raises:
        OSError: the numbers of this machine's calls are not known.
    """
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    column = list(_MACHINES).index(machine)
    refuse, allow = (_RETURN, 0, 0, _ERROR | errno.EPERM), (_RETURN, 0, 0, _ALLOW)
    lines = [
        (_LOAD, 0, 0, _MACHINE_AT),
        (_EQUAL, 1, 0, _MACHINES[machine]),
        refuse,
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, 0, 1, _X32),
        refuse,
    ]
    for numbers in _REFUSED.values():
        lines += [(_EQUAL, 0, 1, numbers[column]), refuse]
    lines += [
        # Its flags lie in memory, where a filter cannot look. Libraries fall back to clone.
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _ERROR | errno.ENOSYS),
        (_EQUAL, 1, 0, _CLONE[column]),
        allow,
        (_LOAD, 0, 0, _FLAGS_AT),
        (_ANY_BIT, 0, 1, _NAMESPACES),
        refuse,
        allow,
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)
