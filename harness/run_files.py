"""The files of one run directory: written once and whole, or one flushed line at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.reading import num_torn_bytes, open_regular, read_text
from harness.records import Generation, Record, RecordKey, key_of, read_records, to_json
from harness.same_run import machine, plugins, refuse_difference, settings
from harness.typed_json import parse_json, typed
from harness.whole_file import write_json, write_text


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

    def records_of(self, rank: int) -> Path:
        """What happened in one process of several, until `merge`."""
        return self.directory / f"records.rank{rank}.jsonl"

    @property
    def parts(self) -> list[Path]:
        """Records of processes that are not merged yet."""
        return sorted(self.directory.glob("records.rank*.jsonl"))

    @property
    def stages(self) -> Path:
        """How long a round's parts take."""
        return self.directory / "stages.json"

    @property
    def audit(self) -> Path:
        """Whether it was still the target's output."""
        return self.directory / "audit.jsonl"

    @property
    def draws(self) -> Path:
        """The same above temperature 0: where each token stood in the target's distribution."""
        return self.directory / "draws.jsonl"

    @property
    def scores(self) -> Path:
        """Whether the answers are right."""
        return self.directory / "scores.jsonl"

    @property
    def scoring(self) -> Path:
        """How that was found out."""
        return self.directory / "scoring.json"


def create(output_dir: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> RunFiles:
    """Make a run directory, named by UTC time and a digest of ``config``, and write both files.

    Raises:
        UserError: the directory cannot be written.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z-{digest[:8]}"
    files = RunFiles(output_dir / run_id)
    begun = RunFiles(output_dir / f".{run_id}")
    try:
        begun.directory.mkdir(parents=True)
        write_json(begun.config, {**config, "run_id": run_id})
        write_json(begun.environment, environment)
        begun.records.touch()
        begun.directory.rename(files.directory)  # a run is there whole or not at all
    except OSError as error:
        shutil.rmtree(begun.directory, ignore_errors=True)
        raise UserError(f"{files.directory} cannot be written: {error.strerror}.") from error
    return files


@contextlib.contextmanager
def alone(files: RunFiles) -> Iterator[None]:
    """Keep other processes from working on a run meanwhile; see `locked`."""
    with locked(files.config, f"run {files.run_id}"):
        yield


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keep other processes from working on something, where the system has such locks.

    Args:
        path: a file of it that is never replaced, so everyone locks the same.
        what: its name.

    Raises:
        UserError: another works on it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open_regular(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process works on {what}; wait for its end, or stop it."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


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
        began = typed(dict[str, Any], parse_json(read_text(files.config)))
        where = typed(dict[str, Any], parse_json(read_text(files.environment)))
        before = typed(list[Any], where.get("resumed", []), "resumed")
        now = json.loads(json.dumps(config))
        refuse_difference(settings(began), settings(now), "configuration")
        refuse_difference(machine(where), machine(environment), "environment")
        if "plugins" in where:  # not in older runs
            refuse_difference(plugins(where), plugins(environment), "plug-in")
        records = read_all(files)  # first: only a file of records may be cut
        torn = sum(cut_torn_line(path) for path in (files.records, *files.parts))
    except (OSError, ValueError) as error:
        raise UserError(f"run {files.run_id} cannot be resumed: {error}.") from error
    save_json(files.environment, {**where, "resumed": [*before, environment]})
    return records, torn


def read_all(files: RunFiles) -> list[Record]:
    """Records of the run, and those of its processes that are not merged yet.

    Raises:
        OSError: a file cannot be read.
        ValueError: a malformed line.
    """
    parts = files.parts
    records = list(read_records(files.records))
    merged = set(records) if parts else set()
    for path in parts:
        records += [record for record in read_records(path) if record not in merged]
    return records


def merge(files: RunFiles, order: Sequence[RecordKey]) -> None:
    """Put all records into one file in ``order``, failures before answers.

    That is the file of an uninterrupted run of one process. Stopped anywhere, it can be done again.

    Raises:
        UserError: the disk is full or gone.
    """
    places = {key: place for place, key in enumerate(order)}
    parts = files.parts
    records = read_all(files)
    ordered = sorted(
        records,
        key=lambda item: (places.get(key_of(item), len(order)), isinstance(item, Generation)),
    )
    if parts or ordered != records:
        save_text(files.records, "".join(f"{to_json(record)}\n" for record in ordered))
    for path in parts:
        path.unlink()


def cut_torn_line(path: Path) -> int:
    """Truncate ``path`` behind its last newline; the number of bytes removed."""
    torn = num_torn_bytes(path)
    if torn:
        os.truncate(path, path.stat().st_size - torn)
    return torn


def save_text(path: Path, text: str) -> None:
    """Write a file of a run whole or not at all.

    Raises:
        UserError: the disk is full or gone.
    """
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}); what was measured stays: make room "
            "and go on with --resume."
        ) from error


def save_json(path: Path, body: Mapping[str, Any]) -> None:
    """`save_text` of indented JSON."""
    save_text(path, json.dumps(body, indent=2, ensure_ascii=False) + "\n")
