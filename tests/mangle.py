"""Strategies that damage good files: bytes as a disk or an editor would, JSON as a person would."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

DEEP = 100_000
"""Nested brackets that no recursive parser survives."""

texts = st.one_of(
    st.sampled_from(
        ["", "..", "../../etc/passwd", "/", "a/../b", "\0", "NaN", "1e999", "ü\n", "x"]
    ),
    st.text(st.characters(), max_size=8),
    st.text(st.characters(categories=["Cs", "Cc"]), min_size=1, max_size=3),
)
numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400]),
    st.integers(-100, 100),
    st.floats(),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)

_JUNK = (
    b"",
    b"\0",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xed\xa0\x80",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b'"',
)
_LONG = (b"[" * DEEP, b'{"a":' * DEEP, b"9" * 5000, b"\n\n\n", b"NaN", b"-Infinity", b"null")


@st.composite
def mangled_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """One to three of: cut, overwrite, insert, repeat, delete, replace all."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.one_of(st.just(0), st.just(len(data)), st.integers(0, len(data))))
        end = min(len(data), begin + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "put", "insert", "repeat", "delete", "replace"]))
        junk = draw(st.one_of(st.sampled_from(_JUNK + _LONG), st.binary(max_size=6)))
        if kind == "cut":
            data = data[:begin]
        elif kind == "put":
            data = data[:begin] + junk + data[begin + len(junk) :]
        elif kind == "insert":
            data = data[:begin] + junk + data[begin:]
        elif kind == "repeat":
            data = data[:end] + data[begin:end] + data[end:]
        elif kind == "delete":
            data = data[:begin] + data[end:]
        else:
            data = junk
    return data


@st.composite
def mangled_json(draw: st.DrawFn, whole: Any) -> Any:
    """One to three of: a value replaced, a key or item dropped, added or doubled."""
    box = [copy.deepcopy(whole)]
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(box)))
        kind = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "double"]))
        if kind == "drop" and holder is not box:
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(texts)] = draw(json_values)
        elif kind == "double" and isinstance(holder, list) and holder is not box:
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = draw(json_values)
    return box[0]


@st.composite
def mangled_object(draw: st.DrawFn, whole: Any) -> bytes:
    """A JSON file damaged either way."""
    if draw(st.booleans()):
        return json.dumps(draw(mangled_json(whole))).encode()
    return draw(mangled_bytes(json.dumps(whole).encode()))


@st.composite
def mangled_lines(draw: st.DrawFn, lines: list[Any]) -> bytes:
    """A JSONL file damaged either way; lines may also change places."""
    if draw(st.booleans()):
        return draw(mangled_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    body = draw(mangled_json(lines))
    rows = draw(st.permutations(body)) if isinstance(body, list) else [body]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Container and key of every value inside; long lists by their first three items."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    else:
        inside = list(enumerate(value))[:3] if isinstance(value, list) else []
    for key, item in inside:
        found += [(value, key), *_places(item)]
    return found
