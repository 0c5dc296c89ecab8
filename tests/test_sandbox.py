from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.errors import UserError
from tasks import sandbox_calls, sandbox_launch, sandbox_probe, sandbox_processes
from tasks.sandbox import Finished, Limits, Sandbox

UDP = socket.SOCK_DGRAM
LIMITS = Limits(wall_s=8.0, cpu_s=5, num_processes=8, memory_bytes=256 << 20, file_bytes=4 << 20)


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(LIMITS)
    except UserError as error:
        pytest.skip(str(error))


def within(sandbox: Sandbox, **changes: float) -> Sandbox:
    """The same fences with other limits; not probed again."""
    other = Sandbox.__new__(Sandbox)
    other.limits = replace(sandbox.limits, **changes)  # type: ignore[arg-type]
    other.containment = sandbox.containment
    return other


def offspring() -> set[int]:
    """Children of this process, and what a sandbox lost: its processes without their launcher."""
    found = {process.pid for process in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if is_sandboxed(process) and not any(map(is_launcher, process.parents())):
                found.add(process.pid)
    return found


def is_sandboxed(process: psutil.Process) -> bool:
    return process.uids().real >= 1_900_000_000 or "program.py" in " ".join(process.cmdline())


def is_launcher(process: psutil.Process) -> bool:
    return str(sandbox_launch.LAUNCHER.name) in " ".join(process.cmdline())


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test: no process, no directory, and limits of this process as before."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)  # the spare user must reach it
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    limits = [resource.getrlimit(kind) for kind in range(10)]
    before = offspring()
    yield
    assert offspring() <= before
    place.rmdir()  # empty, or this fails
    assert [resource.getrlimit(kind) for kind in range(10)] == limits


def holds(sandbox: Sandbox, name: str) -> bool:
    """Whether the containment claims it."""
    return sandbox.containment.held[name]


def require(sandbox: Sandbox, name: str) -> None:
    """Skip a test of what the containment says it does not hold here."""
    if not holds(sandbox, name):
        fences = f"fences {sandbox.containment.steps}, without {sandbox.containment.absent}"
        pytest.skip(f"{name} is not held here: {fences}")


# The fork bomb comes first: nothing else runs before its bound was seen to hold.
def test_a_fork_bomb_is_bounded(sandbox: Sandbox) -> None:
    require(sandbox, "processes")  # never run one without a bound
    counted = sandbox.run(
        "import os, time\nstarted = 0\ntry:\n    while started < 30:\n"
        "        if os.fork() == 0: time.sleep(30); os._exit(0)\n        started += 1\n"
        "except OSError as error: print(started, error.strerror)"
    )
    assert counted.stdout == "7 Resource temporarily unavailable\n" and counted.exit_status == 0
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    finished = within(sandbox, wall_s=0.5).run(bomb)
    assert finished.timed_out and finished.exit_status is None


def test_a_program_gives_status_and_output(sandbox: Sandbox) -> None:
    program = "import sys\nprint(input())\nprint('é', file=sys.stderr)\nexit(3)"
    assert sandbox.run(program, "line\n") == Finished(
        exit_status=3, signal=None, timed_out=False, stdout="line\n", stderr="é\n", output_cut=False
    )


def test_it_is_a_main_program_with_the_standard_library_only(sandbox: Sandbox) -> None:
    program = (
        "from __future__ import annotations\nimport sys, json, ctypes, dataclasses\n"
        "import importlib.util\n"
        "@dataclasses.dataclass\nclass A: x: int\n"
        "print(__name__, A(1), importlib.util.find_spec('numpy'), 'site' in globals(), "
        "hash('a'), __file__ == sys.argv[0], input.__module__)\nassert False"
    )
    first, second = sandbox.run(program), sandbox.run(program)
    assert first.stdout == second.stdout and first.exit_status == 1
    assert first.stdout.startswith("__main__ A(x=1) None False ")
    assert 'program.py", line 7, in <module>\n    assert False' in first.stderr


def test_endless_work_ends_at_either_limit(sandbox: Sandbox) -> None:
    begin_s = time.monotonic()
    slept = within(sandbox, wall_s=0.5).run("import time; time.sleep(60)")
    assert slept.timed_out and slept.exit_status is None and slept.signal is None
    assert 0.5 <= time.monotonic() - begin_s < 5
    spun = within(sandbox, cpu_s=1, wall_s=60.0).run("while True: pass")
    assert spun.timed_out and spun.exit_status is None
    assert spun.signal == (signal.SIGXCPU if holds(sandbox, "cpu_time") else None)


def test_a_memory_bomb_meets_its_limit(sandbox: Sandbox) -> None:
    require(sandbox, "memory")
    finished = sandbox.run("many = []\nwhile True: many.append(bytearray(1 << 24))")
    assert finished.exit_status == 1 and "MemoryError" in finished.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_flood_is_cut_and_ended(sandbox: Sandbox, stream: str) -> None:
    begin_s = time.monotonic()
    flood = f"import sys\nwhile True: sys.{stream}.write('x' * 4096)"
    finished = within(sandbox, output_bytes=10_000).run(flood)
    assert getattr(finished, stream) == "x" * 10_000 and finished.output_cut
    assert finished.signal == signal.SIGKILL and not finished.timed_out
    assert time.monotonic() - begin_s < 6


def test_files_outside_are_neither_read_nor_written(sandbox: Sandbox) -> None:
    require(sandbox, "writes")
    with tempfile.TemporaryDirectory(dir="/tmp") as open_to_all:
        os.chmod(open_to_all, 0o777)
        theirs = Path(open_to_all) / "theirs"
        theirs.write_text("secret")
        theirs.chmod(0o666)
        places = [theirs, Path.home() / ".sandbox_test", Path(__file__).parent / "sandbox_test"]
        program = (
            "import json\nfor path in json.loads(input()):\n"
            "    try: print(open(path).read())\n    except OSError: pass\n"
            "    try: open(path, 'w').write('broken')\n    except OSError: pass"
        )
        finished = sandbox.run(program, json.dumps([str(place) for place in places]))
        assert finished.exit_status == 0
        assert theirs.read_text() == "secret"
        assert not places[1].exists() and not places[2].exists()
        assert ("secret" in finished.stdout) != holds(sandbox, "reads")


def test_a_program_has_files_of_its_own(sandbox: Sandbox) -> None:
    own = "import tempfile\nopen(tempfile.mkstemp()[1], 'w').write('a')\nprint('mine')"
    assert sandbox.run(own).stdout == "mine\n"


def test_files_have_a_size(sandbox: Sandbox) -> None:
    require(sandbox, "file_size")
    finished = sandbox.run("with open('big', 'wb') as f:\n    while True: f.write(b'x' * 65536)")
    assert finished.exit_status == 1 and "OSError" in finished.stderr


def test_the_parents_environment_is_not_seen(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_SECRET", "do-not-tell")
    monkeypatch.setenv("PYTHONPATH", "/do-not-tell")
    finished = sandbox.run("import os, sys; print(dict(os.environ), sys.path)")
    assert finished.exit_status == 0 and "do-not-tell" not in finished.stdout


def test_the_network_is_out_of_reach(sandbox: Sandbox) -> None:
    require(sandbox, "network")
    program = (
        "import errno, json, socket\nfor kind, port in json.loads(input()).items():\n"
        "    try:\n        with socket.socket(type=getattr(socket, kind)) as one:\n"
        "            one.connect(('127.0.0.1', port)); one.send(b'x')\n"
        "        print('sent')\n"
        "    except OSError as error: print(errno.errorcode[error.errno])"
    )
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=UDP) as letters:
        letters.bind(("127.0.0.1", 0))
        ports = {"SOCK_STREAM": server.getsockname()[1], "SOCK_DGRAM": letters.getsockname()[1]}
        finished = sandbox.run(program, json.dumps(ports))
        for one, take in ((server, server.accept), (letters, lambda: letters.recv(1))):
            one.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing has come
                take()
    answers = finished.stdout.split()
    assert len(answers) == 2 and finished.exit_status == 0
    assert set(answers) <= {"ENETUNREACH", "EACCES", "EPERM"}


def test_leaving_early_is_visible_by_the_missing_last_line(sandbox: Sandbox) -> None:
    checks = "\nassert False\nprint('token-7f3a')"
    for early in ("import os; os._exit(0)", "import sys; sys.exit(0)", "exit()"):
        finished = sandbox.run(early + checks)
        assert finished.exit_status == 0 and finished.stdout == ""


def test_ignored_signals_and_runaways_do_not_survive(sandbox: Sandbox) -> None:
    stubborn = (
        "import signal, time\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\ntime.sleep(60)"
    )
    assert within(sandbox, wall_s=0.5).run(stubborn).timed_out
    runaway = (
        "import os, time, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.setsid(); print('out', flush=True); {close}\n        time.sleep(60)\n"
        "    os._exit(0)\nos.wait(); time.sleep(0.3)"
    )
    for close in ("pass", "os.closerange(0, 256)"):
        begin_s = time.monotonic()
        finished = sandbox.run(runaway.format(close=close))
        assert finished.exit_status == 0 and finished.stdout == "out\n"
        assert time.monotonic() - begin_s < 6  # and the fixture finds no process


def test_a_process_that_cannot_be_ended_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    survivor = subprocess.Popen(["sleep", "30"])
    job = {"steps": (), "absent": {}, "uid": None}
    with monkeypatch.context() as change:
        change.setattr(sandbox_processes, "_KILL_S", 0.1)
        change.setattr(os, "kill", lambda pid, number: None)
        with pytest.raises(OSError, match=r"could not be ended within 0\.1 s"):
            sandbox_processes.end(job, survivor.pid, None)
    sandbox_processes.end(job, survivor.pid, None)
    assert not psutil.pid_exists(survivor.pid)
    survivor.returncode = -signal.SIGKILL  # it was reaped above


def test_killing_all_it_can_hurts_only_itself(sandbox: Sandbox) -> None:
    require(sandbox, "signals")
    finished = sandbox.run("import os; print(1, flush=True); os.kill(-1, 9); print(2)")
    assert finished.stdout.startswith("1\n")


def test_deep_recursion_ends(sandbox: Sandbox) -> None:
    finished = sandbox.run("def f(n): return f(n + 1)\nf(0)")
    assert finished.exit_status == 1 and "RecursionError" in finished.stderr
    deep = "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(s): return repr(s)"
    finished = sandbox.run(deep + "\nrepr(A())")
    assert finished.signal == signal.SIGSEGV or finished.exit_status == 1


def test_closed_streams_and_signals_and_bytes(sandbox: Sandbox) -> None:
    assert sandbox.run("import os; os.close(1); os.close(2)").exit_status in (0, 120)
    killed = sandbox.run("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    assert killed.signal == signal.SIGTERM and killed.exit_status is None and not killed.timed_out
    broken = sandbox.run("import os; os.write(1, b'a\\xff\\x00b')")
    assert broken.stdout == "a\ufffd\x00b"
    assert sandbox.run("print('\ud800')").exit_status == 1  # no UTF-8, so no program
    assert "null bytes" in sandbox.run("a\x00").stderr


def test_stdin_larger_than_a_pipe(sandbox: Sandbox) -> None:
    text = "0123456789" * 200_000
    assert sandbox.run("import sys; print(len(sys.stdin.read()))", text).stdout == "2000000\n"
    assert sandbox.run("print('unread')", text).stdout == "unread\n"


def test_two_programs_read_what_the_other_prints(sandbox: Sandbox) -> None:
    first = "import os\nfor line in open(0): print(2 * int(line), flush=True)"
    second = (
        "import os, sys\nprint(21, flush=True)\nprint(input(), file=sys.stderr)\n"
        "print(os.path.exists('own'), open('own', 'w').close(), file=sys.stderr)\nexit(3)"
    )
    answered, tested = sandbox.converse(first, second)
    assert (answered.stdout, answered.stderr) == ("", "") and not answered.timed_out
    assert (tested.exit_status, tested.stdout, tested.stderr) == (3, "", "42\nFalse None\n")


def test_of_two_programs_neither_sees_the_others_files(sandbox: Sandbox) -> None:
    require(sandbox, "reads")
    first = "import os\nopen('left', 'w').write('here')\nprint(os.getcwd(), flush=True)\ninput()"
    second = (
        "import os, sys\nplace = input()\n"
        "try: print(open(place + '/left').read(), file=sys.stderr)\n"
        "except OSError as error: print(type(error).__name__, file=sys.stderr)\n"
    )
    _, tested = sandbox.converse(first, second)
    assert tested.stderr in ("FileNotFoundError\n", "PermissionError\n")


@pytest.mark.parametrize(
    ("first", "is_timeout"), [("import time; time.sleep(60)", True), ("exit(4)", False)]
)
def test_the_end_of_the_first_is_seen_by_the_second(
    sandbox: Sandbox, first: str, is_timeout: bool
) -> None:
    begin_s = time.monotonic()
    second = "import sys; print(sys.stdin.read() == '', file=sys.stderr)"
    answered, tested = sandbox.converse(first, second, wall_s=0.5)
    assert answered.timed_out is is_timeout and answered.exit_status == (None if is_timeout else 4)
    assert tested.stderr == "True\n" and time.monotonic() - begin_s < 5


def test_the_end_of_the_second_ends_the_first(sandbox: Sandbox) -> None:
    begin_s = time.monotonic()
    stubborn = "import time\nwhile True: time.sleep(1)"
    answered, tested = sandbox.converse(stubborn, "pass")
    assert tested.exit_status == 0 and answered.exit_status is None and not answered.timed_out
    flood = "import sys\nwhile True: sys.stderr.write('x' * 4096)"
    answered, _ = sandbox.converse(flood, "input()")
    assert answered.output_cut
    assert time.monotonic() - begin_s < 6


def test_a_program_that_cannot_be_started_ends_both(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp
    fails = iter([True, False])

    def once(**options: str) -> str:
        if next(fails, False):
            raise OSError("the disk is full")
        return make(**options)

    monkeypatch.setattr(sandbox_launch.tempfile, "mkdtemp", once)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match="the disk is full"):
        sandbox.converse("input()", "input()")
    assert len(os.listdir("/proc/self/fd")) == before


def test_numpy_is_there_for_those_that_ask(sandbox: Sandbox) -> None:
    pytest.importorskip("numpy")
    program = (
        "import numpy\nfrom numpy import linalg\n"
        "ones = numpy.ones((200, 200))\nprint((ones @ ones)[0, 0], linalg.det(numpy.eye(3)))\n"
        "try: import pytest\nexcept ImportError: print('no more')"
    )
    usual = within(sandbox, memory_bytes=1 << 30)
    finished = usual.run(program, numpy=True)
    assert finished.stdout == "200.0 1.0\nno more\n", finished.stderr
    assert "No module named 'numpy'" in usual.run(program).stderr
    _, tested = usual.converse("import numpy; print(numpy.sum([1, 2]))", "print(input())")
    assert tested.exit_status == 1  # it was not asked for
    asked = "import sys; print(input(), file=sys.stderr)"
    _, tested = usual.converse("import numpy; print(numpy.sum([1, 2]))", asked, numpy=True)
    assert tested.stderr == "3\n"


def test_locked_and_deep_directories_are_removed(sandbox: Sandbox) -> None:
    program = (
        "import os\nos.mkdir('locked'); open('locked/a', 'w').close(); os.chmod('locked', 0)\n"
        "for _ in range(1200): os.mkdir('d'); os.chdir('d')"
    )
    assert sandbox.run(program).exit_status == 0  # the fixture finds no directory


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    outputs: dict[int, str] = {}

    def ask(number: int) -> None:
        outputs[number] = sandbox.run("print(int(input()) * 2)", str(number)).stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {number: f"{2 * number}\n" for number in range(4)}


@pytest.mark.parametrize("steps", [("namespaces",), ("landlock",), ("calls",), ()])
def test_with_fewer_fences_the_containment_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sandbox_probe, "STEPS", steps)
    try:
        weaker = Sandbox(LIMITS)
    except UserError as error:
        assert os.geteuid() == 0 and "must be able to read this Python" in str(error)
        pytest.skip(str(error))
    held = weaker.containment.held
    assert set(weaker.containment.steps) <= set(steps)
    if "landlock" not in weaker.containment.steps:
        assert not held["reads"] and "disk" in weaker.containment.lacking
    if "calls" not in weaker.containment.steps and hasattr(os, "memfd_create"):
        assert not held["shared_memory"]
    if "namespaces" not in weaker.containment.steps:
        assert not held["network"]
    assert held["descendants"] and held["descriptors"]
    test_ignored_signals_and_runaways_do_not_survive(weaker)


def test_a_fence_that_fell_since_refuses_to_run(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = within(sandbox)
    broken.containment = replace(sandbox.containment, steps=("root",))
    with pytest.raises(UserError, match=r"could not be contained: OSError: there are no names"):
        broken.run("print('never')")

    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(sandbox_launch.subprocess, "Popen", refuse)
    with pytest.raises(UserError, match="no process could be started"):
        sandbox.run("pass")


def test_a_killed_launcher_takes_its_program_along(sandbox: Sandbox) -> None:
    def kill() -> None:
        time.sleep(0.5)
        for process in psutil.Process().children():
            if is_launcher(process):
                process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UserError, match="the launcher was killed"):
        sandbox.run("import time; time.sleep(30)")
    killer.join()
    deadline = time.monotonic() + 10
    while offspring() and time.monotonic() < deadline:
        time.sleep(0.05)  # orphans are reaped by the system's first process


REFUSED_CALLS = """
import ctypes, os, platform, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
x86_64 = platform.machine() == "x86_64"
CLONE, GETPID = (56, 39) if x86_64 else (220, 172)
NEWUSER_SIGCHLD = 0x10000011

def error(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result == 0 and name == "syscall":
        os._exit(9)
    return result if result >= 0 else os.strerror(ctypes.get_errno())

print("memfd", error("memfd_create", b"a", 0))
print("shm", error("shmget", 0, ctypes.c_size_t(100 << 20), 0o1600))
print("sem", error("semget", 0, 32000, 0o1600))
print("msg", error("msgget", 0, 0o1600))
print("unshare", error("unshare", 0x10020000))
print("clone", error("syscall", CLONE, NEWUSER_SIGCHLD, 0, 0, 0, 0))
print("clone3", error("syscall", 435, ctypes.create_string_buffer(64), 64))
if x86_64:
    print("x32", error("syscall", (1 << 30) | GETPID))
thread = threading.Thread(target=lambda: print("thread"))
thread.start(); thread.join()
if os.fork() == 0:
    print("child", error("memfd_create", b"a", 0), flush=True)
    os._exit(0)
os.wait()
"""


def test_memory_that_no_limit_counts_is_refused(sandbox: Sandbox) -> None:
    if "calls" not in sandbox.containment.steps:
        pytest.skip(f"no filter of system calls here: {sandbox.containment.absent}")
    finished = sandbox.run(REFUSED_CALLS)
    said = dict(line.partition(" ")[::2] for line in finished.stdout.splitlines())
    assert said.pop("clone3") == os.strerror(errno.ENOSYS), finished.stderr
    assert said.pop("thread") == "" and len(said) >= 7
    assert set(said.values()) == {os.strerror(errno.EPERM)}
    assert finished.exit_status == 0 and holds(sandbox, "shared_memory")


def answer(rules: bytes, machine: int, number: int, flags: int = 0) -> int | None:
    """What the filter decides: None to allow, else the error. Four instructions suffice."""
    data = {0: number, 4: machine, 16: flags}
    lines, at, value = list(struct.iter_unpack("HBBI", rules)), 0, 0
    while True:
        code, yes, no, word = lines[at]
        at += 1
        if code == 0x20:
            value = data[word]
        elif code == 0x06:
            assert word >> 16 in (0x7FFF, 5)
            return None if word >> 16 == 0x7FFF else word & 0xFFFF
        else:
            jumps = {0x15: value == word, 0x35: value >= word, 0x45: bool(value & word)}
            at += yes if jumps[code] else no


@pytest.mark.parametrize(
    ("name", "machine", "memfd", "fork", "clone", "others"),
    [
        ("x86_64", 0xC000003E, 319, 57, 56, (0xC00000B7, 0x40000003)),
        ("aarch64", 0xC00000B7, 279, 172, 220, (0xC000003E, 0x40000028)),
    ],
)
def test_the_filter_decides_by_machine_number_and_flags(
    name: str, machine: int, memfd: int, fork: int, clone: int, others: tuple[int, ...]
) -> None:
    rules = sandbox_calls.rules(name)
    assert answer(rules, machine, memfd) == errno.EPERM
    assert answer(rules, machine, fork) is None
    assert answer(rules, machine, 1 << 30 | fork) == errno.EPERM
    assert answer(rules, machine, 435) == errno.ENOSYS
    assert answer(rules, machine, clone, 0x003D0F00) is None  # a thread
    for namespace in (0x20000, 0x2000000, 0x10000000, 0x40000000):
        assert answer(rules, machine, clone, namespace | signal.SIGCHLD) == errno.EPERM
        assert answer(rules, machine, fork, namespace) is None  # it has no such flags
    assert {answer(rules, other, fork) for other in others} == {errno.EPERM}


def test_a_machine_of_unknown_calls_has_no_filter() -> None:
    with pytest.raises(OSError, match="no list of system calls for riscv64"):
        sandbox_calls.rules("riscv64")


def test_nothing_of_a_virtual_environment_is_shown() -> None:
    code = "from tasks.sandbox_launch import interpreter; print(*interpreter()[1], sep='\\n')"
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, symlinks=True)
        root = Path(__file__).parents[1]
        shown = subprocess.check_output([f"{place}/bin/python", "-c", code], cwd=root, text=True)
    assert os.path.dirname(os.__file__) in shown.splitlines()
    assert place not in shown


def test_an_interpreter_below_tmp_runs_behind_all_fences(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "root" not in sandbox.containment.steps:
        pytest.skip(f"no root of its own here: {sandbox.containment.absent}")
    python, readable = sandbox_launch.interpreter()
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        moved = f"{place}/bin/{Path(python).name}"
        os.mkdir(f"{place}/bin")
        shutil.copy(python, moved)
        os.symlink(Path(python).parents[1] / "lib", f"{place}/lib")
        shown = tuple(sorted({*readable, moved, f"{place}/lib"}))
        monkeypatch.setattr(sandbox_launch, "interpreter", lambda: (moved, shown))
        below_tmp = Sandbox(LIMITS)
        finished = below_tmp.run("import sys; open('a', 'w').close(); print(sys.executable)")
    assert below_tmp.containment.steps == sandbox.containment.steps
    assert below_tmp.containment.held == sandbox.containment.held
    assert finished.stdout == f"{moved}\n"


def test_behind_all_fences_nothing_is_lacking(sandbox: Sandbox) -> None:
    if absent := sandbox.containment.absent:
        pytest.skip(f"fences are absent here: {absent}")
    assert sandbox.containment.steps == sandbox_launch.STEPS
    assert sandbox.containment.lacking == ()


def test_what_is_not_held_is_lacking(sandbox: Sandbox) -> None:
    held = {"memory": True, "disk": False, "network": False}
    assert replace(sandbox.containment, held=held).lacking == ("disk", "network")


def test_facts_are_json(sandbox: Sandbox) -> None:
    facts = json.loads(json.dumps(sandbox.containment.facts()))
    assert set(facts["held"]) == set(sandbox_probe.HOLDS)
    assert facts["user"] == ("spare" if os.geteuid() == 0 else "own")
