"""SHA-256 of weight files, remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.reading import open_regular
from harness.user_cache import user_cache


def weights_digest(files: Sequence[Path]) -> str:
    """One digest for a set of weight files: the file's own when there is only one.

    Raises:
        ValueError: no file.
    """
    if not files:
        raise ValueError("a digest needs at least one weight file")
    digests = {path.name: file_digest(path) for path in sorted(files)}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hex SHA-256 of a file; read once, looked up while path, size and time of change stay."""
    facts = path.resolve().stat()
    key = hashlib.sha256(f"{path.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    remembered = user_cache() / "digests" / key.hexdigest()
    if remembered.is_file():
        return remembered.read_text(encoding="ascii")
    with open_regular(path) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _remember(remembered, digest)
    return digest


def _remember(path: Path, digest: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(digest)
        os.replace(name, path)
    except OSError:
        return  # A cache that cannot be written only costs time at the next start.
