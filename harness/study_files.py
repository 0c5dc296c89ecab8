"""The directory of a study: what was asked, on which data, and the records; opened and reopened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from harness.errors import UserError
from harness.line_writers import LineWriter
from harness.reading import num_torn_bytes, open_regular, read_text
from harness.run_files import cut_torn_line
from harness.same_run import first_difference
from harness.study import Arm, Study
from harness.study_facts import StudyFacts
from harness.study_records import (
    SCHEMA_VERSION,
    Finished,
    Measurement,
    StudyRecord,
    read_study_records,
    to_json,
)
from harness.typed_json import typed, versioned
from harness.whole_file import write_json

_LOCK = "study.lock"


@dataclass(frozen=True, slots=True)
class StudyFiles:
    """Paths of one study."""

    directory: Path

    @property
    def study(self) -> Path:
        """What was asked, on which data, and where it ran."""
        return self.directory / "study.json"

    @property
    def records(self) -> Path:
        """What happened."""
        return self.directory / "records.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Trained drafters, one directory an arm."""
        return self.directory / "checkpoints"

    @property
    def snapshots(self) -> Path:
        """Trainings that are not finished."""
        return self.directory / "snapshots"

    @property
    def claims(self) -> Path:
        """Which process is at which of them."""
        return self.directory / "claims"

    def claim(self, company: str) -> FileLock:
        """Held by the process that trains these arms; let go when it dies.

        Entering it raises `filelock.Timeout` at once where another has it.
        """
        self.claims.mkdir(exist_ok=True)
        return FileLock(self.claims / f"{company}.lock", timeout=0)

    def lock(self) -> FileLock:
        """Held while a file of the study is changed; others wait."""
        return FileLock(self.directory / _LOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResults:
    """What a study directory holds."""

    name: str
    facts: StudyFacts
    measurements: tuple[Measurement, ...]
    finished: dict[Arm, Finished]
    torn: bool
    """Whether a last line that was cut off was left out."""


class StudyWriter(LineWriter):
    """Appends records of a study, of several processes to one file."""

    go_on = "call harness study again"

    def __init__(self, files: StudyFiles) -> None:
        super().__init__(files.records)
        self.files = files

    def append(self, record: StudyRecord) -> None:
        """Write one record; raises as `write`."""
        with self.files.lock():
            cut_torn_line(self.files.records)  # of a process that was killed
            self.write(to_json(record))


def is_study(directory: Path) -> bool:
    """Whether a directory is one of a study."""
    return StudyFiles(directory).study.is_file()


def prepare(directory: Path) -> StudyFiles:
    """Make the directory of a study where there is none, with an empty file of records to lock.

    Raises:
        UserError: it holds something else, or cannot be written.
    """
    files = StudyFiles(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in directory.iterdir()} - {files.records.name, _LOCK}
        if others and not files.study.exists():
            raise UserError(f"{directory} holds no study, but {min(others)}; name another place.")
        files.records.touch()
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror}.") from error
    return files


@contextmanager
def working_on(
    files: StudyFiles,
    study: Study,
    sources: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
) -> Iterator[None]:
    """Be one of the processes that work on a study; opens it, see `open_study`."""
    with open_regular(files.records) as file:
        with (
            files.lock()
        ):  # one at a time: nobody comes in between who was here and what is written
            open_study(files, study, sources, environment, alone=_is_alone(file))
        yield


def _is_alone(file: IO[bytes]) -> bool:
    """Whether nobody else holds ``file``, which is held from now on until it is closed."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    except OSError:  # a file system without locks
        return True
    fcntl.flock(file, fcntl.LOCK_SH)
    return alone


def open_study(
    files: StudyFiles,
    study: Study,
    sources: Mapping[str, Mapping[str, Any]],
    environment: Mapping[str, Any],
    *,
    alone: bool = True,
) -> None:
    """Begin a study in its directory, go on with it, or join those who work on it.

    Objectives, seeds, budgets and other arms may have been added since; nothing else may differ,
    unless nothing was made yet and nobody else is at it (``alone``).

    Raises:
        UserError: the directory holds another study, or cannot be read or written.
    """
    asked = json.loads(json.dumps({**study.describe(), "sources": sources}))
    bench: dict[str, Any] = {}
    sessions: list[Mapping[str, Any]] = []
    made = files.records.stat().st_size > 0 or files.snapshots.exists() or not alone
    if made and files.study.exists():
        found = read_facts(files)
        _refuse_change(files.directory, found, asked)
        bench, sessions = dict(found.bench), list(found.sessions)
    try:
        _write(files, {**asked, "bench": bench, "sessions": [*sessions, environment]})
        cut_torn_line(files.records)
    except OSError as error:
        raise UserError(f"{files.directory} cannot be written: {error.strerror}.") from error


def note_bench(files: StudyFiles, responses: str, facts: Mapping[str, Any]) -> None:
    """Write down target and data, or check that they are still the same.

    Raises:
        UserError: they are not.
    """
    with files.lock():
        _note_bench(files, responses, facts)


def _note_bench(files: StudyFiles, responses: str, facts: Mapping[str, Any]) -> None:
    found = read_facts(files)
    if responses in found.bench:
        if change := first_difference(found.bench[responses], json.loads(json.dumps(facts))):
            field, began, now = change
            raise UserError(
                f"study {files.directory} was begun where {field} was {began}, and it is now "
                f"{now}; put it back, or begin a new study with --output-dir."
            )
        return
    body = versioned(read_text(files.study), SCHEMA_VERSION)
    try:
        _write(files, {**body, "bench": {**body["bench"], responses: facts}})
    except OSError as error:
        raise UserError(f"{files.study} cannot be written: {error.strerror}.") from error


def read_facts(files: StudyFiles) -> StudyFacts:
    """What ``study.json`` says.

    Raises:
        UserError: it cannot be read, or is none of this harness.
    """
    try:
        body = versioned(read_text(files.study), SCHEMA_VERSION)
        return typed(StudyFacts, body)
    except OSError as error:
        raise UserError(f"{files.study} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(
            f"{files.study} is no record of a study ({error}); restore it or begin a new one."
        ) from error


def load_results(directory: Path) -> StudyResults:
    """Read a study, finished or not.

    Raises:
        UserError: a file is missing or damaged, or the records are another study's.
    """
    files = StudyFiles(directory)
    facts = read_facts(files)
    try:
        records = read_study_records(files.records)
        torn = num_torn_bytes(files.records) > 0
    except OSError as error:
        raise UserError(f"{files.records} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{error}; restore the file, or measure again.") from error
    known = set(facts.arms)
    for record in records:
        if record.arm not in known:
            raise UserError(f"{files.records} holds an arm that study.json does not list.")
    return StudyResults(
        name=directory.resolve().name,
        facts=facts,
        measurements=tuple(item for item in records if isinstance(item, Measurement)),
        finished={item.arm: item for item in records if isinstance(item, Finished)},
        torn=torn,
    )


def _refuse_change(directory: Path, began: StudyFacts, asked: Mapping[str, Any]) -> None:
    since = {
        name: value
        for name, value in asked["train"].items()
        if value is None and name not in began.train
    }
    before = {
        "train": {**began.train, **since},  # flags that came later, and are not used
        "measure": began.measure,
        "sources": began.sources,
        "objectives": began.objectives,
    }
    now = {
        **{name: asked[name] for name in ("train", "measure", "sources")},
        "objectives": {
            name: row for name, row in asked["objectives"].items() if name in began.objectives
        },
    }
    change = first_difference(before, now)
    kept = {typed(Arm, arm) for arm in asked["arms"]}
    lost = next((arm for arm in began.arms if arm not in kept), None)
    if change is None and lost is not None:
        words = f"{lost.recipe.objective}, seed {lost.seed}, {lost.recipe.steps} steps"
        change = ("arms", words, "not there")
    if change is not None:
        field, old, new = change
        raise UserError(
            f"{directory} holds another study: {field} was {old} and is now {new}; arms may be "
            "added, nothing else changed: put it back, or name another --output-dir."
        )


def _write(files: StudyFiles, body: Mapping[str, Any]) -> None:
    write_json(files.study, {"schema_version": SCHEMA_VERSION, **body})
