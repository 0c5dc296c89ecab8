"""Lines appended to the files of a run, one flushed line at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from harness import audit_records, draws, score_records
from harness.audit_records import Audit
from harness.draws import Draws
from harness.errors import UserError
from harness.records import Record, to_json
from harness.score_records import Score


class LineWriter:
    """Appends lines; each is on the disk before the next one is made."""

    go_on = "go on with --resume"

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error

    def write(self, text: str) -> None:
        """Write one line and wait for the disk.

        Raises:
            UserError: the disk is full or gone; what was written before stays.
        """
        try:
            # An error may name a file whose name is not UTF-8.
            line = text.encode(errors="replace") + b"\n"
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"a record could not be written ({error.strerror}); what was written before "
                f"stays: make room and {self.go_on}."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()


class RecordWriter(LineWriter):
    """Appends records of generations."""

    def append(self, record: Record) -> None:
        """Write one record; raises as `write`."""
        self.write(to_json(record))


class AuditWriter(LineWriter):
    """Appends audits."""

    go_on = "call harness verify on the run"

    def append(self, found: Audit | Draws) -> None:
        """Write one audit of either kind; raises as `write`."""
        self.write(
            draws.to_json(found) if isinstance(found, Draws) else audit_records.to_json(found)
        )


class ScoreWriter(LineWriter):
    """Appends scores."""

    go_on = "call harness score on the run"

    def append(self, score: Score) -> None:
        """Write one score; raises as `write`."""
        self.write(score_records.to_json(score))
