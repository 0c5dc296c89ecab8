"""The side of the tests: the answer's functions stand here as names, and their results are values.

The process never runs a line of the answer. It reads what the answer's process sends, builds plain
values from it, and compares. Its last line on standard error is the verdict, in JSON.

The source of this module runs inside the sandbox, on its own with `call_values`.
"""

from __future__ import annotations

import builtins
import json
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from tasks.call_values import decode, encode, renew
else:
    from call_values import decode, encode, renew

_LONGEST = 1 << 26
"""Bytes of a reply."""


class _End(BaseException):
    """There is no more to ask; tests that catch whatever is an `Exception` do not stop it."""


class Answer:
    """The answer's process, asked through two pipes.

    Once it has failed to reply, or replied what is no value, that is the verdict, even if a test
    catches everything.
    """

    def __init__(self, replies: int, requests: int, call_s: float | None) -> None:
        self._replies, self._requests = replies, requests
        self._call_s = call_s
        self._pending = b""
        self._kept: dict[int, Held] = {}
        self.end: dict[str, str] = {}
        """The verdict it came to before the tests did."""

    def ask(self, request: dict[str, Any], arguments: Sequence[Any] = ()) -> Any:
        """The result of a request; arguments are changed as the answer changed its own."""
        if self.end:
            raise _End
        reply = self._exchange(request, self._call_s)
        try:
            for number, node in reply.get("changed", {}).items():
                renew(arguments[int(number)], decode(node, self.fetch))
            if "raised" not in reply:
                return decode(reply["result"], self.fetch)
            error = self._raised(*reply["raised"])
        except Exception:
            self._stop("error", "it replied what is no value")
        raise error

    def _stop(self, verdict: str, detail: str = "") -> None:
        self.end = {"verdict": verdict, "detail": detail}
        raise _End

    def wait(self) -> None:
        """Wait until the answer's sources have run to their end."""
        self._exchange({}, None)

    def _exchange(self, request: dict[str, Any], limit_s: float | None) -> dict[str, Any]:
        data = json.dumps(request).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            self._stop("gone")
        deadline = None if limit_s is None else time.monotonic() + limit_s
        chunks = [self._pending]
        size = len(self._pending)
        while b"\n" not in chunks[-1]:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._replies], [], [], left_s)[0]:
                self._stop("timeout", f"a call took more than {limit_s:g} s")
            chunks.append(os.read(self._replies, 1 << 16))
            size += len(chunks[-1])
            if not chunks[-1]:
                self._stop("gone")
            if size > _LONGEST:
                self._stop("error", "a result is too large")
        line, _, self._pending = b"".join(chunks).partition(b"\n")
        try:
            reply = json.loads(line)
            if isinstance(reply, dict):
                return reply
        except (ValueError, RecursionError):
            pass
        self._stop("error", "it replied what is no value")
        raise AssertionError

    def fetch(self, reference: Any) -> Any:
        """What stands here for an object that stayed there; a test's own object comes back."""
        number, form = reference
        if number not in self._kept:
            self._kept[number] = Held(self, [int(number), str(form)])
        return self._kept[number]

    def keep(self, value: Any) -> Any:
        """How a test's argument is referred to that is no plain data."""
        if isinstance(value, Held):
            return object.__getattribute__(value, "_reference")
        form = type(value).__name__
        self._stop("error", f"the tests hand over a {form}, which cannot be brought to the answer")

    def _raised(self, names: Sequence[str], arguments: Sequence[Any]) -> Exception:
        """The same exception, or its nearest ancestor that Python has."""
        base: Any = Exception
        for name in names:
            found = getattr(builtins, name, None)
            if isinstance(found, type) and issubclass(found, Exception):
                base = found
                break
        form = base if base.__name__ == names[0] else type(str(names[0]), (base,), {})
        values = [decode(node, str) for node in arguments]
        try:
            error = form(*values)
        except Exception:
            error = Exception(*values)
        assert isinstance(error, Exception)
        return error


class Held:
    """A name of the answer, or an object that stayed in its process: called, never looked into."""

    def __init__(self, answer: Answer, reference: Any) -> None:
        self._answer = answer
        self._reference = reference

    def __repr__(self) -> str:
        named = isinstance(self._reference, str)
        return f"<{self._reference}>" if named else f"<{self._reference[1]} object of the answer>"

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Its result; an exception of the answer's is raised here."""
        keep = self._answer.keep
        request = {
            "of": self._reference,
            "arguments": [encode(argument, keep) for argument in arguments],
            "named": {name: encode(argument, keep) for name, argument in named.items()},
        }
        return self._answer.ask(request, arguments)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._answer.ask({"of": self._reference, "attribute": name})


def check(
    sources: Sequence[tuple[str, str]], names: Sequence[str], call_s: float | None = None
) -> None:
    """Run the tests and write the verdict.

    Args:
        sources: name and text of each, run one after another in one namespace.
        names: what the answer is asked for by these sources.
        call_s: seconds a call may take; None for as long as there is.
    """
    answer = Answer(os.dup(0), os.dup(1), call_s)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    namespace: dict[str, Any] = {"__name__": "tests"}
    namespace |= {name: Held(answer, name) for name in names}
    found = {"verdict": "passed", "detail": ""}
    try:
        answer.wait()
        for place, source in sources:
            exec(compile(source, place, "exec"), namespace)
    except BaseException as error:
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        found = {
            "verdict": "failed" if isinstance(error, AssertionError) else "error",
            "detail": detail[:1000],
        }
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(2, b"\n" + json.dumps(answer.end or found).encode() + b"\n")
    os._exit(0)
