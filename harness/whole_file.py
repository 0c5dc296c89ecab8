"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UserError


def require_directory(path: Path) -> None:
    """Refuse, before hours of work, a place where no directory can be made or written.

    Raises:
        UserError: it, or what it would lie in, is no directory or may not be written.
    """
    place = next(item for item in (path.absolute(), *path.absolute().parents) if _is_there(item))
    if not place.is_dir():
        raise UserError(f"{path} cannot be a directory: {place} is none; name another place.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {place} does not allow it; name another place.")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, or one above that may not be entered
        return False


def write_text(path: Path, text: str) -> None:
    """Write a file; whoever reads it meanwhile sees the older one.

    Raises:
        OSError: the disk is full or gone; the older file is as it was.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        # Somebody else's link or pipe of that name is not what is to be written.
        partial.unlink(missing_ok=True)
        # An argument may name a file whose name is not UTF-8.
        with partial.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(body, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A directory to fill; it takes the place of ``directory`` when the block ends well."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    try:
        yield scratch
        # Temporary directories, and what safetensors writes, are their owner's alone.
        scratch.chmod(0o755)
        for file in scratch.iterdir():
            file.chmod(0o644)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(scratch, directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
