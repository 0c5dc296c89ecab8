"""Text of others, shown: what would steer a terminal or turn a line around is spelled out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and line end
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # directions of text
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # line ends of other kinds, marks
    "\ud800-\udfff"  # bytes of a name that is not UTF-8
    "]"
)


def visible(text: str) -> str:
    r"""``text`` with control characters as escapes, such as ``\x1b``; tabs and line ends stay."""
    return _HIDDEN.sub(_escape, text)


def put(text: str, file: TextIO | None = None) -> None:
    """Print `visible` text, by default on stdout."""
    print(visible(text), file=file or sys.stdout)


def put_json(body: Mapping[str, Any]) -> None:
    """Print an object for programs, on one line of ASCII."""
    print(json.dumps(body).replace("\x7f", "\\u007f"))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
