"""JSON that may be damaged: parsed, and checked against the types the code gives it.

Whatever is wrong is a `ValueError` that names the place.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from harness.bounds import Between

T = TypeVar("T")


_WHOLE = 2**64
"""Larger whole numbers are no count, token, seed or size, and overflow what computes with them."""


_DEEPEST = 64
"""Lists and objects in one another; what works on a value may call itself for each."""
_MOST_DIGITS = 300


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, one key twice in an object, a number that is none or too large, nested
            too deeply, or text that UTF-8 cannot hold.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_float=_finite,
            parse_constant=_no_number,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if text.count("[") + text.count("{") > _DEEPEST:
        _refuse_depth(value)
    if "\\u" in text or not text.isascii():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no text") from None
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(n for n in names if names.count(n) > 1)!r} twice")
    return made


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("it holds a number that is too large")
    return number


def _whole(digits: str) -> int:
    # One that no float can hold; `typed` knows more, and names the place.
    if len(digits) > _MOST_DIGITS:
        raise ValueError("it holds a number that is too large")
    return int(digits)


def _no_number(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _refuse_depth(value: Any) -> None:
    level: list[Any] = [[value]]
    for _ in range(_DEEPEST + 1):
        inside = (item.values() if type(item) is dict else item for item in level)
        level = [item for items in inside for item in items if type(item) in (dict, list)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def versioned(text: str, version: int) -> dict[str, Any]:
    """The object in a JSON text, without its ``schema_version``, which must be ``version``.

    Raises:
        ValueError: as `parse_json`, no object, or another version.
    """
    body = parse_json(text)
    if not isinstance(body, dict):
        raise ValueError("it should be a JSON object")
    found = body.pop("schema_version", None)
    if found != version:
        raise ValueError(f"schema_version {found!r} cannot be read")
    return body


def typed(form: type[T], value: Any, where: str = "it") -> T:
    """``value`` as a ``form``: dataclasses are built, lists become tuples where one is asked for.

    A ``TypedDict`` may hold other keys besides its own; a dataclass may not.

    Args:
        form: a plain type, one with bounds (`harness.bounds`), ``Any``, ``Literal``, a union, or a
            tuple, list, dict, dataclass or ``TypedDict`` of those.
        value: what `parse_json` returned.
        where: the place, for the message.

    Raises:
        ValueError: a key is missing or unknown, a value is of another type, or a dataclass
            refuses its fields.
    """
    made: T = _typed(form, value, where)
    return made


def _typed(form: Any, value: Any, where: str) -> Any:
    if form is Any:
        return value
    if type(form) is _Bounded:
        return form.checked(value, where)
    if form in (str, bool, int, float, type(None)):
        return _plain(form, value, where)
    if dataclasses.is_dataclass(form):
        return _dataclass(form, value, where)
    if is_typeddict(form):
        return _typed_dict(form, value, where)
    origin, arguments = get_origin(form), get_args(form)
    if origin is Annotated:
        return _Bounded(*arguments).checked(value, where)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if origin in (Union, types.UnionType):
        return _union(arguments, value, where)
    if origin in (tuple, list):
        return _items(origin, arguments[0], value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {key: _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{form} is no type that JSON can be checked against")


def _plain(form: Any, value: Any, where: str) -> Any:
    if type(value) is not form and not (form is float and type(value) is int):
        raise _wrong(where, "null" if form is type(None) else form.__name__, value)
    if type(value) is int and not -_WHOLE < value < _WHOLE:
        raise ValueError(f"{where} is too large a number")
    return value


class _Bounded:
    """A number's type with its bounds, taken apart once: there are many numbers."""

    __slots__ = ("bounds", "plain")

    def __init__(self, plain: Any, bounds: Between) -> None:
        self.plain, self.bounds = plain, bounds

    def checked(self, value: Any, where: str) -> Any:
        _plain(self.plain, value, where)
        if not self.bounds.least <= value <= self.bounds.most:
            raise ValueError(
                f"{where} should be from {self.bounds.least:,} to {self.bounds.most:,}"
            )
        return value


def _union(forms: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in forms:
        return None
    rest = [form for form in forms if form is not type(None)]
    if len(rest) == 1:  # its own message says more
        return _typed(rest[0], value, where)
    for form in rest:
        try:
            return _typed(form, value, where)
        except ValueError:
            continue
    raise _wrong(where, " or ".join(str(getattr(form, "__name__", form)) for form in forms), value)


def _items(origin: Any, form: Any, value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _wrong(where, "a list", value)
    if (
        form is int
        and set(map(type, value)) <= {int}
        and (not value or -_WHOLE < min(value) <= max(value) < _WHOLE)
    ):
        return origin(value)  # tokens: there are many
    return origin(_typed(form, item, f"{where}[{place}]") for place, item in enumerate(value))


def _dataclass(form: Any, value: Any, where: str) -> Any:
    fields, required = _hints(form), _required(form)
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}")
    _require_keys(required, value, where)
    return form(**{key: _typed(fields[key], item, f"{where}.{key}") for key, item in value.items()})


def _typed_dict(form: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    _require_keys([key for key in _hints(form) if key in form.__required_keys__], value, where)
    known = {
        key: _typed(item, value[key], f"{where}.{key}")
        for key, item in _hints(form).items()
        if key in value
    }
    return {**value, **known}


def _require_keys(required: Sequence[str], value: Mapping[str, Any], where: str) -> None:
    if missing := [key for key in required if key not in value]:
        raise ValueError(f"{where} lacks {', '.join(missing)}")


@functools.cache
def _required(form: Any) -> tuple[str, ...]:
    """Names of a dataclass's fields that have no default."""
    none = dataclasses.MISSING
    fields = dataclasses.fields(form)
    return tuple(f.name for f in fields if f.default is none and f.default_factory is none)


@functools.cache
def _hints(form: Any) -> dict[str, Any]:
    hints = get_type_hints(form, include_extras=True)
    return {name: _unwrapped(hint) for name, hint in hints.items()}


def _unwrapped(hint: Any) -> Any:
    if get_origin(hint) in (NotRequired, Required):
        return _unwrapped(get_args(hint)[0])
    return _Bounded(*get_args(hint)) if get_origin(hint) is Annotated else hint


def _wrong(where: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{where} should be {expected} and is {_describe(value)}")


def _describe(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
