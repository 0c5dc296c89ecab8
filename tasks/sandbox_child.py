"""Runs one program inside what this system offers to contain it; a script, started by the sandbox.

Three processes. The launcher keeps the time and ends everything. Its child, the first of a PID
namespace where there is one, waits for the program. The program is a fresh interpreter.

Fences are put up one by one. A request that is `tolerant` goes on without those that fail and
reports why; any other is refused, so that nothing runs behind fewer fences than were probed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tasks import sandbox_calls as filters
    from tasks import sandbox_fences as fences
    from tasks import sandbox_processes as processes
else:
    sys.path.append(os.path.dirname(__file__))
    import sandbox_calls as filters
    import sandbox_fences as fences
    import sandbox_processes as processes

_PARENT_DEATH, _SET_SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38

_BOOT = """
import site, sys
site.setquit(), site.setcopyright(), site.sethelper()
__file__ = sys.argv[0] = {path!r}
{imports}
del site, sys
exec(compile(open(__file__, "rb").read(), __file__, "exec"))
"""
# Without `site` no installed package is found; programs still expect the builtins it adds.
_IMPORTS = """
class installed:
    def find_spec(name, path=None, target=None, places={places!r}):
        from importlib.util import spec_from_file_location as spec
        if name in places:
            place = places[name]
            return spec(name, place + "/__init__.py", submodule_search_locations=[place])
sys.meta_path.append(installed)
del installed
"""
# Of the directory where packages lie nothing else can be imported, with or without fences.


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
    _control_process(_SET_SUBREAPER, 1)
    job["uid"] = processes.spare_uid() if os.geteuid() == 0 else None
    _attempt(job, "namespaces", fences.namespaces)
    status_read, status_write = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(status_read)
        _first(job, status_write)
    os.close(status_write)
    outcome = _watch(control, status_read, job["limits"]["wall_s"])
    job["absent"] |= outcome["absent"]
    processes.end(job, first, outcome["program"])
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
        _control_process(_PARENT_DEATH, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when memory is short, this goes first
        _attempt(job, "root", fences.own_root)
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
    if fences.has(job, "root"):
        place = "/"
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
        processes.limit(job)
        if job["uid"] is not None:
            os.setgroups([])
            os.setresgid(job["uid"], job["uid"], job["uid"])
            os.setresuid(job["uid"], job["uid"], job["uid"])
        _control_process(_PARENT_DEATH, signal.SIGKILL)  # a change of user resets it
        _control_process(_NO_NEW_PRIVS, 1)
        _attempt(job, "landlock", fences.landlock)
        _attempt(job, "calls", filters.calls)
        _tell(status, {"absent": job["absent"]})
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": job["home"],
            "TMPDIR": job["home"],
            "PYTHONHASHSEED": "0",  # one program, one verdict
            # Each thread of numpy's libraries takes addresses and counts as a process.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        imports = _IMPORTS.format(places=job["packages"]) if job["packages"] else ""
        boot = _BOOT.format(path=job["path"], imports=imports)
        # No site, no user directory, no path of its own: the standard library and nothing else.
        flags = ("-s", "-P", "-S", "-B", "-X", "utf8")
        os.execve(
            job["python"],
            [job["python"], *flags, "-c", boot],
            environment,
        )
    except BaseException as error:
        _tell(status, {"error": f"{type(error).__name__}: {error}"})
    os._exit(127)


def _tell(status: int, words: dict[str, Any]) -> None:
    os.write(status, json.dumps(words).encode() + b"\n")


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux":
        fences.call("prctl", option, value, 0, 0, 0)


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


if __name__ == "__main__":
    main()
