"""Arguments and results as plain data, so that they can pass between two processes.

What arrives is built from built-in and standard types alone: an ``__eq__`` or a ``__bool__`` of the
sender's own stays with the sender. A value of a subclass travels as what its base class holds. What
is no plain data stays where it is, and a reference travels in its place.

The source of this module runs inside the sandbox, where the project is not to be seen: it imports
the standard library only.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from typing import Any

MOST_ITEMS = 1 << 20
"""What is taken from an iterator; one that gives more is refused."""

_ITEMS: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)
_PAIRS: tuple[Any, ...] = (collections.Counter, collections.OrderedDict, dict)
_TIMES: tuple[Any, ...] = (datetime.datetime, datetime.date, datetime.time)


def encode(value: Any, keep: Callable[[Any], Any]) -> Any:
    """A value as what JSON can hold.

    Args:
        value: anything.
        keep: called with what is no plain data; returns what stands for it.

    Raises:
        ValueError: an iterator gives more than `MOST_ITEMS`.
        RecursionError: the value is nested too deeply, or holds itself.
    """

    def inside(items: Any) -> list[Any]:
        return [encode(item, keep) for item in items]

    def pairs(items: Any) -> list[Any]:
        return [[encode(key, keep), encode(item, keep)] for key, item in items]

    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if (number := _number(value)) is not None:
        return number
    for form in _ITEMS:
        if isinstance(value, form):
            return [form.__name__, inside(form.__iter__(value))]
    for form in _PAIRS:
        if isinstance(value, form):
            return [form.__name__, pairs(dict.items(value))]
    if isinstance(value, KeysView):
        return ["keys", inside(value)]
    if isinstance(value, ItemsView):
        return ["items", pairs(value)]
    if isinstance(value, Iterator | ValuesView):
        return ["iterator", inside(_bounded(value))]
    return ["kept", keep(value)]


def _number(value: Any) -> Any:
    """A scalar with its type; None for what is none."""
    if isinstance(value, int):
        return ["int", hex(int.__index__(value))]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, bytes | bytearray):
        form = "bytes" if isinstance(value, bytes) else "bytearray"
        return [form, bytes(memoryview(value)).hex()]
    if isinstance(value, range):
        return ["range", [hex(part) for part in (value.start, value.stop, value.step)]]
    if value is ...:
        return ["ellipsis", None]
    if isinstance(value, decimal.Decimal):
        return ["decimal", decimal.Decimal.__str__(value)]
    if isinstance(value, fractions.Fraction):
        return ["fraction", [hex(value.numerator), hex(value.denominator)]]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", [value.days, value.seconds, value.microseconds]]
    for when in _TIMES:
        if isinstance(value, when):
            return [when.__name__, when.isoformat(value)]
    return None


def _bounded(items: Any) -> Iterator[Any]:
    for number, item in enumerate(items):
        if number == MOST_ITEMS:
            raise ValueError(f"an iterator gives more than {MOST_ITEMS} items")
        yield item


_FORMS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda parts: range(*(int(part, 16) for part in parts)),
    "ellipsis": lambda nothing: ...,
    "decimal": decimal.Decimal,
    "fraction": lambda parts: fractions.Fraction(*(int(part, 16) for part in parts)),
    "timedelta": lambda parts: datetime.timedelta(*parts),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
}
_OF_ITEMS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "iterator": iter,
    "keys": lambda items: dict.fromkeys(items).keys(),
}
_OF_PAIRS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "Counter": lambda pairs: collections.Counter(dict(pairs)),
    "OrderedDict": collections.OrderedDict,
    "items": lambda pairs: dict(pairs).items(),
}


def decode(node: Any, fetch: Callable[[Any], Any]) -> Any:
    """The value that `encode` wrote.

    Args:
        node: from JSON.
        fetch: called with what stands for a value that was kept.

    Raises:
        Exception: ``node`` was not written by `encode`.
    """
    if node is None or isinstance(node, bool | str):
        return node
    form, body = node
    if form in _FORMS:
        return _FORMS[form](body)
    if form in _OF_ITEMS:
        return _OF_ITEMS[form]([decode(item, fetch) for item in body])
    if form in _OF_PAIRS:
        return _OF_PAIRS[form]([(decode(key, fetch), decode(item, fetch)) for key, item in body])
    if form == "kept":
        return fetch(body)
    raise ValueError(f"no value is called {form!r}")


def renew(old: Any, new: Any) -> Any:
    """``old`` changed in place to hold what ``new`` holds, as far as it can be; else ``new``.

    Objects inside stay the same ones wherever they still fit, so that whoever holds one sees the
    change.
    """
    form = type(old)
    if form is not type(new):
        return new
    if form is list and len(old) == len(new):
        old[:] = [renew(*pair) for pair in zip(old, new, strict=True)]
    elif form in (list, bytearray):
        old[:] = new
    elif form is tuple and len(old) == len(new):
        kept = tuple(renew(*pair) for pair in zip(old, new, strict=True))
        return old if all(a is b for a, b in zip(old, kept, strict=True)) else kept
    elif form in (dict, collections.OrderedDict, collections.Counter):
        inside = {key: renew(old[key], item) if key in old else item for key, item in new.items()}
        old.clear()
        old.update(inside)
    elif form is set:
        old.clear()
        old.update(new)
    elif form is collections.deque:
        old.clear()
        old.extend(new)
    else:
        return new
    return old
