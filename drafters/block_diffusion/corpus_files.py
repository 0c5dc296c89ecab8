"""The files of a training corpus: rows appended one by one, the manifest last."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.line_writers import LineWriter
from harness.reading import read_text
from harness.records import read_lines
from harness.run_files import cut_torn_line
from harness.same_run import first_difference
from harness.typed_json import parse_json, typed, versioned
from harness.whole_file import write_json, write_text
from targets.digest import file_digest

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRow:
    """One response to one prompt; a line of ``corpus.jsonl``."""

    prompt: str
    source: str
    """File name without its ending, or data set id."""
    licence: str | None
    """None where nobody said."""
    response_ids: tuple[int, ...]
    finished: bool
    """Whether the response ends in a stop token."""
    generator: str | None
    """``target`` or the server that generated it; None where it came with the prompt."""
    sampling: dict[str, Any] | None
    """Temperature, top_p, top_k and seed; None where the response came with the prompt and nothing
    was said of it."""
    sample: int
    """Which of the prompt's responses, from 0."""
    reference_ids: tuple[int, ...] | None
    """The answer its data set has for the prompt, with a stop token; None where it has none."""

    def to_json(self) -> str:
        """One line without its end."""
        body = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(body, ensure_ascii=False)


def row_from_json(line: str) -> CorpusRow:
    """The row of a line.

    Raises:
        ValueError: it is malformed.
    """
    return typed(CorpusRow, parse_json(line))


class RowWriter(LineWriter):
    """Appends rows."""

    go_on = "call harness data again with the same flags"

    def append(self, row: CorpusRow) -> None:
        """Write one row; raises as `write`."""
        self.write(row.to_json())


@dataclass(frozen=True, slots=True)
class CorpusFiles:
    """Paths of one corpus."""

    directory: Path

    @property
    def config(self) -> Path:
        """What was asked, resolved; never replaced."""
        return self.directory / "config.json"

    @property
    def removed(self) -> Path:
        """Prompts that a task asks too, by hash."""
        return self.directory / "removed.jsonl"

    @property
    def rows(self) -> Path:
        """The responses."""
        return self.directory / "corpus.jsonl"

    @property
    def manifest(self) -> Path:
        """What the corpus is; there only when it is finished."""
        return self.directory / "corpus.json"

    @property
    def has_rows(self) -> bool:
        """Whether there is anything to go on with."""
        return self.rows.is_file() and self.rows.stat().st_size > 0

    def begin(self) -> None:
        """Make the directory, with an empty ``config.json`` to lock.

        Raises:
            UserError: it cannot be written, or holds something else.
        """
        try:
            rows, config = (
                path.stat().st_size if path.exists() else None for path in (self.rows, self.config)
            )
            # Ended before there was a row, it may hold an empty file and an old configuration.
            if rows != 0 and bool(rows) != bool(config):
                raise UserError(
                    f"{self.directory} holds something else than a corpus of harness data; name "
                    "another --output-dir."
                )
            self.directory.mkdir(parents=True, exist_ok=True)
            if config is None:
                self.config.touch()
        except OSError as error:
            raise UserError(f"{self.directory} cannot be written: {error.strerror}.") from error

    def settle(self, asked: Mapping[str, Any]) -> None:
        """Write ``config.json``; where there are rows, check that this is what was asked for them.

        Raises:
            UserError: something else was, or the file is damaged.
        """
        now = json.loads(json.dumps(asked))
        try:
            if not self.has_rows:
                body = {"schema_version": SCHEMA_VERSION, **now}
                self.rows.touch()
                # In place: other processes lock this very file.
                self.config.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
                return
            before = versioned(read_text(self.config), SCHEMA_VERSION)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.config} cannot be used ({error}); build the corpus in another --output-dir."
            ) from error
        if (found := first_difference(before, now)) is not None:
            field, old, new = found
            raise UserError(
                f"the corpus in {self.directory} was begun with {field} {old}, and now it is "
                f"{new}; repeat the flags it began with, or name another --output-dir."
            )

    def read_rows(self) -> tuple[list[CorpusRow], int]:
        """Rows there are, after a torn last line was cut off, and the bytes of that line.

        Raises:
            UserError: a line is malformed.
        """
        try:
            torn = cut_torn_line(self.rows)
            rows = list(read_lines(self.rows, row_from_json))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{error}; correct the line, or build the corpus in another --output-dir."
            ) from error
        return rows, torn

    def finish(self, rows: Sequence[CorpusRow], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Write all rows in their order, then the manifest with their digest; returns it."""
        write_text(self.rows, "".join(f"{row.to_json()}\n" for row in rows))
        body = {
            "schema_version": SCHEMA_VERSION,
            **manifest,
            "sha256": file_digest(self.rows),
        }
        write_json(self.manifest, body)
        return body

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest, where there is one and it describes the rows there are."""
        try:
            body = versioned(read_text(self.manifest), SCHEMA_VERSION)
        except (OSError, ValueError):
            return None
        return body if body.get("sha256") == file_digest(self.rows) else None

    def require_finished(self) -> None:
        """Check that ``corpus.jsonl`` is the finished one that the manifest describes.

        Raises:
            UserError: it is not.
        """
        if self.read_manifest() is None:
            raise UserError(
                f"the corpus in {self.directory} is not finished, or was changed since; call "
                f"harness data again with the same flags, or name {self.rows} to take it as it is."
            )
