"""Findings: lines of a file that say something of a run's answers, one answer a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.errors import UserError
from harness.progress import say
from harness.records import Generation, Key, RecordKey, key_of, read_lines
from harness.run_files import cut_torn_line

T = TypeVar("T", bound=Key)


def read_findings(
    path: Path,
    parse: Callable[[str], T],
    generations: Sequence[Generation],
    belongs: Callable[[T, Generation], bool],
) -> dict[RecordKey, T]:
    """The last finding of each of ``generations``; none where there is no file.

    A torn last line is left out, and so is what does not belong to its answer: the records hold
    another one by now, or it was judged by another rule.

    Raises:
        ValueError: a malformed line; the message names file and line.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return {}
    answers = {key_of(item): item for item in generations}
    found: dict[RecordKey, T] = {}
    for item in read_lines(path, parse):
        generation = answers.get(key_of(item))
        if generation is not None and belongs(item, generation):
            found[key_of(item)] = item
    return found


def found_before(
    path: Path, read: Callable[[], dict[RecordKey, T]], what: str, remedy: str
) -> dict[RecordKey, T]:
    """What ``read`` finds at ``path``, behind whose last whole line more can be appended.

    Args:
        path: may not be there yet.
        read: `read_findings` of it.
        what: a finding's name, for the reader.
        remedy: what to do where the file cannot be read: the end of a sentence.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if path.exists() and (torn := cut_torn_line(path)):
            say(f"cut off a torn last {what} ({torn} bytes)")
        return read()
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; {remedy}") from error


def tokens_sha256(generation: Generation, *others: Generation) -> str:
    """Digest of the tokens that a finding is about: one prompt's, and those of its answers."""
    answers = (item.new_tokens for item in (generation, *others))
    return hashlib.sha256(json.dumps([generation.prompt_sha256, *answers]).encode()).hexdigest()
