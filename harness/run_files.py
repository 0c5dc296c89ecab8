"""The files of one run directory: written once and whole, or one flushed line at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import audit_records
from harness.audit_records import Audit
from harness.errors import UserError
from harness.records import Record, read_records, to_json
from harness.typed_json import parse_json, typed

_MACHINE = ("cpu", "gpu", "num_threads")
"""Hardware facts that may not change within a run."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Paths of one run."""

    directory: Path

    @property
    def run_id(self) -> str:
        """Name of the directory."""
        return self.directory.name

    @property
    def config(self) -> Path:
        """What was asked, resolved."""
        return self.directory / "config.json"

    @property
    def environment(self) -> Path:
        """Where it ran."""
        return self.directory / "environment.json"

    @property
    def records(self) -> Path:
        """What happened."""
        return self.directory / "records.jsonl"

    @property
    def stages(self) -> Path:
        """How long a round's parts take."""
        return self.directory / "stages.json"

    @property
    def audit(self) -> Path:
        """Whether it was still the target's output."""
        return self.directory / "audit.jsonl"


def create(output_dir: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> RunFiles:
    """Make a run directory, named by UTC time and a digest of ``config``, and write both files.

    Raises:
        UserError: the directory cannot be written.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{digest[:8]}"
    files = RunFiles(output_dir / run_id)
    try:
        files.directory.mkdir(parents=True)
        write_json(files.config, {**config, "run_id": run_id})
        write_json(files.environment, environment)
        files.records.touch()
    except OSError as error:
        raise UserError(f"{files.directory} cannot be written: {error.strerror}.") from error
    return files


def find(resume: str, output_dir: Path) -> RunFiles:
    """The run called ``resume``: a directory, or a run id under ``output_dir``.

    Raises:
        UserError: no such run.
    """
    for directory in (Path(resume), output_dir / resume):
        if (directory / "config.json").is_file():
            return RunFiles(directory.resolve())
    raise UserError(f"no run to resume at {resume!r}: neither a run directory nor a run id.")


def reopen(
    files: RunFiles, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> tuple[list[Record], int]:
    """Check that a run may go on here, cut a torn last line off, and note the resumption.

    Returns:
        The records there are, and the bytes of torn line removed.

    Raises:
        UserError: another configuration or machine (the field is named), or unreadable files.
    """
    try:
        began = typed(dict[str, Any], parse_json(files.config.read_text(encoding="utf-8")))
        where = typed(dict[str, Any], parse_json(files.environment.read_text(encoding="utf-8")))
        before = typed(list[Any], where.get("resumed", []), "resumed")
        began.pop("run_id", None)
        refuse_difference(began, json.loads(json.dumps(config)), "configuration")
        refuse_difference(_machine(where), _machine(environment), "environment")
        torn = cut_torn_line(files.records)
        records = list(read_records(files.records))
    except (OSError, ValueError) as error:
        raise UserError(f"run {files.run_id} cannot be resumed: {error}.") from error
    write_json(files.environment, {**where, "resumed": [*before, environment]})
    return records, torn


def refuse_difference(began: Any, now: Any, what: str) -> None:
    """Raise `UserError` naming the first field in which two JSON values differ."""
    found = _difference(began, now, "")
    if found is not None:
        field, old, new = found
        raise UserError(
            f"cannot resume: {what} field {field} was {_short(old)} and is now {_short(new)}; "
            "repeat the flags the run began with, or start a new run."
        )


def cut_torn_line(path: Path) -> int:
    """Truncate ``path`` behind its last newline; the number of bytes removed."""
    data = path.read_bytes()
    keep = data.rfind(b"\n") + 1
    if keep < len(data):
        os.truncate(path, keep)
    return len(data) - keep


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Write ``body`` whole or not at all."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


class RecordWriter(LineWriter):
    """Appends records of generations."""

    def append(self, record: Record) -> None:
        """Write one record; raises as `write`."""
        self.write(to_json(record))


class AuditWriter(LineWriter):
    """Appends audits."""

    go_on = "call harness verify on the run"

    def append(self, audit: Audit) -> None:
        """Write one audit; raises as `write`."""
        self.write(audit_records.to_json(audit))


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        part: typed(dict[str, Any], environment.get(part), part)
        for part in ("hardware", "versions")
    }
    return {
        "hardware": {name: found["hardware"].get(name) for name in _MACHINE},
        "versions": {name: found["versions"].get(name) for name in ("torch", "transformers")},
    }


def _difference(began: Any, now: Any, field: str) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first difference, depth first."""
    if isinstance(began, dict) and isinstance(now, dict):
        keys = [*began, *(key for key in now if key not in began)]
        pairs = [(f"{field}.{key}".lstrip("."), began.get(key), now.get(key)) for key in keys]
    elif isinstance(began, list) and isinstance(now, list) and len(began) == len(now):
        pairs = [
            (f"{field}[{index}]", *pair) for index, pair in enumerate(zip(began, now, strict=True))
        ]
    else:
        return None if began == now else (field, began, now)
    return next((found for n, a, b in pairs if (found := _difference(a, b, n))), None)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
