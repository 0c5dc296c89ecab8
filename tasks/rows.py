"""Rows of the upstream data files, each knowing its place, so that a bad one can be named."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.reading import open_regular, read_bytes
from harness.typed_json import parse_json
from tasks.base import SourceKind

_LONGEST = 2**29
"""Bytes of a line; a small archive can unpack to one that fills the memory."""
_BLANK = b" \t\r\n"
"""What JSON calls white space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One object of a data file."""

    body: Mapping[str, Any]
    """Keys and values as upstream wrote them."""
    index: int
    """Position in the whole set, from 0."""
    place: str
    """File and line, for error messages."""
    kind: SourceKind
    """What kind of source the file belongs to."""

    def text(self, key: str) -> str:
        """The string under ``key``.

        Raises:
            UserError: the key is missing or holds no string.
        """
        value = self.body.get(key)
        if not isinstance(value, str):
            raise self.error(f"{key!r} should be a string and is {_describe(value)}")
        return value

    def optional_text(self, key: str) -> str:
        """The string under ``key``; empty where there is none.

        Raises:
            UserError: the key holds something else.
        """
        return "" if self.body.get(key) is None else self.text(key)

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings of the list under ``key``.

        Raises:
            UserError: the key is missing or holds no list of strings.
        """
        value = self.body.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key!r} should be a list of strings and is {_describe(value)}")
        return tuple(value)

    def identifier(self, key: str) -> str:
        """Upstream's own id, a string or a whole number, as a string.

        Raises:
            UserError: the key is missing or holds something else.
        """
        value = self.body.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(f"{key!r} should be an id and is {_describe(value)}")
        return str(value)

    def index_id(self, task: str, split: str) -> str:
        """An id from the row's position, for sets whose rows carry none.

        The position counts from 0 in the file that was read, so ids of an excerpt differ from
        ids of the whole split; samples say so in place of the split.
        """
        return f"{task}/{'samples' if self.kind == 'samples' else split}/{self.index}"

    def error(self, complaint: str) -> UserError:
        """The error to raise for this row."""
        return UserError(f"{self.place}: {complaint}; correct the row or take it out.")


def read_rows(paths: tuple[Path, ...], kind: SourceKind) -> Iterator[Row]:
    """Rows of JSONL, gzipped JSONL, JSON-array or Parquet files, one file after another.

    Files are streamed where the format allows it: some LiveCodeBench lines take megabytes. Lines of
    nothing but white space are passed over, and so is a byte order mark.

    Raises:
        UserError: a file that is unreadable, empty or malformed.
    """
    index = 0
    for path in paths:
        start = index
        for place, body in _read_file(path):
            if not isinstance(body, dict):
                raise _broken(place, f"a row should be a JSON object and is {_describe(body)}")
            yield Row(body=body, index=index, place=place, kind=kind)
            index += 1
        if index == start:
            raise _broken(str(path), "the file holds no rows")


def _read_file(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of each row; the name's ending decides the format."""
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".json":
            yield from _read_array(path)
        else:
            yield from _read_lines(path)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _broken(str(path), f"the file cannot be read ({error})") from error


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    with contextlib.ExitStack() as files:
        lines: BufferedReader | gzip.GzipFile = files.enter_context(open_regular(path))
        if path.suffix == ".gz":
            lines = files.enter_context(gzip.open(lines))
        for number, line in enumerate(iter(lambda: lines.readline(_LONGEST + 1), b""), start=1):
            place = f"{path}, line {number}"
            if len(line) > _LONGEST:
                raise _broken(place, f"the line is longer than {_LONGEST} bytes")
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if text := text.strip(_BLANK):
                yield place, _parse(text, place)


def _read_array(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse(read_bytes(path, _LONGEST).removeprefix(codecs.BOM_UTF8), str(path))
    if not isinstance(rows, list):
        raise _broken(str(path), f"the file should be a JSON array and is {_describe(rows)}")
    for number, row in enumerate(rows, start=1):
        yield f"{path}, item {number}", row


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    with open_regular(path) as file:
        try:
            rows = parquet.read_table(file).to_pylist()
        except Exception as error:  # of a damaged file it raises a dozen kinds
            raise ValueError(str(error) or type(error).__name__) from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _parse(data: bytes, place: str) -> Any:
    try:
        return parse_json(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _broken(place, f"byte {error.start + 1} is not UTF-8") from error
    except json.JSONDecodeError as error:
        if error.lineno > 1:
            place = f"{place}, line {error.lineno}"
        if error.msg == "Extra data":
            raise _broken(
                place,
                "a second value follows the first; rows are one a line in a .jsonl file, or "
                "items of one array in a .json file",
            ) from error
        raise _broken(place, f"the JSON is broken or cut off ({error.msg})") from error
    except ValueError as error:
        raise _broken(place, f"the JSON cannot be used ({error})") from error


def _broken(place: str, complaint: str) -> UserError:
    return UserError(f"{place}: {complaint}; download the file again or correct it.")


def _describe(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
