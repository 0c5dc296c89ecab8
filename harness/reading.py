"""Reading files that others made: regular files only, and never more than a bound."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

OBJECT_BYTES = 2**26
"""A file that is read whole: settings, facts, an index."""
TOML_BYTES = 2**20
"""A file that a person writes."""
LINE_BYTES = 2**26
"""A line of a file that is read line by line."""

_BLOCK = 2**20
_IRREGULAR = "not a regular file"


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read, or what a link to one leads to; never wait for a pipe or a device.

    Raises:
        OSError: there is no such file, or it is a directory, pipe, device or socket.
    """
    # Without O_NONBLOCK a pipe is only open when somebody writes to it.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, _IRREGULAR, str(path))
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def require_regular(path: Path) -> None:
    """Raise `OSError` where `open_regular` would: for files that a library opens by name."""
    open_regular(path).close()


def require_regular_files(directory: Path) -> None:
    """Refuse a directory that a library is to read where it holds pipes, devices or sockets.

    Raises:
        OSError: it does, or cannot be listed.
    """
    for path in sorted(directory.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise OSError(errno.EINVAL, _IRREGULAR, str(path))


def read_bytes(path: Path, limit: int = OBJECT_BYTES) -> bytes:
    """A whole file.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is larger than ``limit`` bytes.
    """
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return data


def read_text(path: Path, limit: int = OBJECT_BYTES) -> str:
    """A whole file of UTF-8, without a byte order mark.

    Raises:
        OSError: as `open_regular`.
        ValueError: it is larger than ``limit`` bytes, or no UTF-8.
    """
    return decoded(read_bytes(path, limit).removeprefix(codecs.BOM_UTF8))


def decoded(data: bytes) -> str:
    """UTF-8 as text.

    Raises:
        ValueError: it is no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8") from None


def read_whole_lines(path: Path, limit: int = LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line, its end included; a torn last line (no end) is left out.

    So is a byte order mark.

    Raises:
        OSError: as `open_regular`.
        ValueError: a line is longer than ``limit`` bytes; the message names file and line.
    """
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(limit + 1), b""), start=1):
            if len(line) > limit:
                raise ValueError(f"{path}, line {number}: it is longer than {limit:,} bytes")
            if line.endswith(b"\n"):
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def num_torn_bytes(path: Path) -> int:
    """Bytes behind the last line end of a file; 0 where its last line is whole.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return size - (begin + found + 1)
            end = begin
        return size
