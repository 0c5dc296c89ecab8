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
from harness.records import Generation, Record, RecordKey, key_of, read_records, to_json
from harness.typed_json import parse_json, typed
from harness.whole_file import write_json, write_text

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
    with path.open("rb") as file:
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
        began = typed(dict[str, Any], parse_json(files.config.read_text(encoding="utf-8")))
        where = typed(dict[str, Any], parse_json(files.environment.read_text(encoding="utf-8")))
        before = typed(list[Any], where.get("resumed", []), "resumed")
        began.pop("run_id", None)
        refuse_difference(began, json.loads(json.dumps(config)), "configuration")
        refuse_difference(machine(where), machine(environment), "environment")
        torn = sum(cut_torn_line(path) for path in (files.records, *files.parts))
        records = read_all(files)
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


def refuse_difference(began: Any, now: Any, what: str) -> None:
    """Raise `UserError` naming the first field in which two JSON values differ."""
    found = first_difference(began, now)
    if found is not None:
        field, old, new = found
        raise UserError(
            f"cannot resume: {what} field {field} was {old} and is now {new}; repeat the flags "
            "the run began with, or start a new run."
        )


def first_difference(first: Any, second: Any) -> tuple[str, str, str] | None:
    """Dotted name of the first field in which two JSON values differ, and what each says."""
    found = _difference(first, second, "")
    return found and (found[0], _short(found[1]), _short(found[2]))


def cut_torn_line(path: Path) -> int:
    """Truncate ``path`` behind its last newline; the number of bytes removed."""
    data = path.read_bytes()
    keep = data.rfind(b"\n") + 1
    if keep < len(data):
        os.truncate(path, keep)
    return len(data) - keep


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


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment may not change within a run."""
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
