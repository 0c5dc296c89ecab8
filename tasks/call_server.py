"""The side of the answer: its sources run here, and its functions are called from elsewhere.

The process holds the answer and the arguments it is called with, and never a test or an expected
result. All it can do is send values.

The source of this module runs inside the sandbox, on its own with `call_values`.
"""

from __future__ import annotations

import collections
import json
import os
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from tasks.call_values import decode, encode
else:
    from call_values import decode, encode


_CHANGEABLE = (list, tuple, dict, set, bytearray, collections.deque)
"""Forms of arguments that a call can change, or something inside."""


def serve(sources: Sequence[tuple[str, str]], names: Sequence[str]) -> None:
    """Run the sources in one module, then answer requests until there are no more.

    A request is a line of JSON on standard input and its reply one on standard output. The answer's
    own input is empty, and what it prints goes to standard error, where it is counted.

    Args:
        sources: name and text of each; the last is the answer.
        names: what is asked for; the answer has to define it itself, whatever the others did or
            Python has.
    """
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        for number, (place, source) in enumerate(sources, start=1):
            if number == len(sources):
                for name in names:
                    module.__dict__.pop(name, None)
            exec(compile(source, place, "exec"), module.__dict__)
        kept = _Kept(module)
        for line in requests:
            reply = json.dumps(kept.reply(json.loads(line)))
            replies.write(reply + "\n")
            replies.flush()
    finally:
        sys.stdout.flush()  # the reason of an end is the last line of standard error


class _Kept:
    """Objects that were referred to, by number."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def keep(self, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)
        return [number, type(value).__name__]

    def fetch(self, reference: Any) -> Any:
        if isinstance(reference, list):
            return self._objects[reference[0]]
        found = vars(self._module)
        if reference in found:
            return found[reference]
        raise NameError(f"name {reference!r} is not defined")

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result or the exception, and the arguments that are not what they were."""
        if not request:  # only whether the sources ran to their end
            return {"result": None}
        arguments, named = request.get("arguments", []), request.get("named", {})
        given: list[Any] = []
        try:
            target = self.fetch(request["of"])
            if "attribute" in request:
                return {"result": encode(getattr(target, request["attribute"]), self.keep)}
            given = [decode(node, self.fetch) for node in arguments]
            words = {name: decode(node, self.fetch) for name, node in named.items()}
            answer = {"result": encode(target(*given, **words), self.keep)}
        except Exception as error:
            answer = {"raised": self._raised(error)}
        return {**answer, "changed": self._changed(arguments, given)}

    def _raised(self, error: Exception) -> list[Any]:
        names = [form.__name__ for form in type(error).__mro__]
        try:
            arguments = [encode(argument, str) for argument in error.args]
        except Exception:
            arguments = []
        return [names, arguments]

    def _changed(self, before: Sequence[Any], given: Sequence[Any]) -> dict[str, Any]:
        found = {}
        for number, (node, value) in enumerate(zip(before, given, strict=False)):
            if not isinstance(value, _CHANGEABLE):
                continue
            after = encode(value, self.keep)
            if after != node:
                found[str(number)] = after
        return found
