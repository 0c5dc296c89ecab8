"""Training prompts: of the file or directory given, else of the hub, else the project's own."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from targets.digest import file_digest
from tasks.hub import HUB, HubFiles
from tasks.rows import Row, read_rows

_LOG = logging.getLogger(__name__)

HUB_FILES = (
    HubFiles("databricks/databricks-dolly-15k", ("databricks-dolly-15k.jsonl",)),
    HubFiles("openai/gsm8k", ("main/train-*.parquet",)),
)
"""What is trained on where no file is named; neither holds a benchmark's test split."""

OWN = Path(__file__).with_name("prompts.jsonl")
"""Written for this project, so that training runs offline."""

PROMPT_KEYS = ("prompt", "instruction", "question", "text")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One training prompt, with the response where it was already generated."""

    prompt: str
    response_ids: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class PromptFile:
    """A file that prompts were read from."""

    location: str
    """File name, below the data set's id for one from the hub."""
    revision: str | None
    """Resolved hub commit; None for files on disk."""
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPrompts:
    """Distinct prompts and where they came from."""

    rows: tuple[PromptRow, ...]
    kind: Literal["directory", "hub", "own"]
    name: str
    """File or directory name, or the data sets' ids."""
    files: tuple[PromptFile, ...]

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts for ``training.json``."""
        return {"kind": self.kind, "files": [dataclasses.asdict(file) for file in self.files]}


def training_prompts(path: Path | None) -> TrainingPrompts:
    """Prompts of a JSONL file or of every one in a directory; None takes the default.

    The default is `HUB_FILES`, all of them, where they can be had, else the project's own prompts.
    A row gives its prompt as ``prompt``, ``instruction`` (with ``input`` or ``context``),
    ``question`` or ``text``, and may give ``response_ids``. Where a prompt is met again, a row
    with a response wins, else the first.

    Raises:
        UserError: ``path`` holds nothing to read, or a malformed line.
    """
    if path is not None:
        return _from_directory(path)
    return _from_hub() or _own()


def in_stable_order(rows: Iterable[PromptRow]) -> list[PromptRow]:
    """Rows sorted by a hash of the prompt, so that any prefix is a fair and stable sample."""
    return sorted(rows, key=lambda row: _hash(row.prompt))


def is_held_back(row: PromptRow, share: float) -> bool:
    """Whether a prompt is kept out of training; depends on the prompt alone."""
    return int(_hash("held back\n" + row.prompt)[:8], 16) < share * 2**32


def _from_directory(path: Path) -> TrainingPrompts:
    paths = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"{path} holds no .jsonl file; give a file or directory of prompts.")
    return TrainingPrompts(
        rows=_distinct(read_rows(tuple(paths), "directory")),
        kind="directory",
        name=path.name,
        files=_described(paths),
    )


def _from_hub() -> TrainingPrompts | None:
    """All of the sets or none: which drafter comes out must not depend on a passing fault."""
    rows: list[Row] = []
    files: list[PromptFile] = []
    for wanted in HUB_FILES:
        snapshot = HUB.snapshot(wanted)
        if snapshot is None:
            return None
        try:
            rows += read_rows(snapshot.paths, "hub")
        except (UserError, ImportError) as error:
            _LOG.warning("%s from the hub cannot be used: %s", wanted.repo, error)
            return None
        files += _described(snapshot.paths, f"{wanted.repo}/", snapshot.commit)
    return TrainingPrompts(
        rows=_distinct(rows),
        kind="hub",
        name=", ".join(wanted.repo for wanted in HUB_FILES),
        files=tuple(files),
    )


def _own() -> TrainingPrompts:
    rows = _distinct(read_rows((OWN,), "samples"))
    _LOG.warning(
        "training on the project's own %d prompts, which are too few for a good drafter; "
        "name more with --data FILE or --data DIRECTORY.",
        len(rows),
    )
    return TrainingPrompts(rows=rows, kind="own", name=OWN.name, files=_described((OWN,)))


def _described(
    paths: Sequence[Path], prefix: str = "", revision: str | None = None
) -> tuple[PromptFile, ...]:
    return tuple(PromptFile(prefix + path.name, revision, file_digest(path)) for path in paths)


def _distinct(rows: Iterable[Row]) -> tuple[PromptRow, ...]:
    found: dict[str, PromptRow] = {}
    for row in map(_parse, rows):
        if row.prompt not in found or found[row.prompt].response_ids is None:
            found[row.prompt] = row
    return tuple(found.values())


def _parse(row: Row) -> PromptRow:
    key = next((key for key in PROMPT_KEYS if isinstance(row.body.get(key), str)), None)
    if key is None:
        raise row.error(f"a training prompt needs a string under one of {', '.join(PROMPT_KEYS)}")
    prompt = row.text(key)
    addition = row.body.get("input") or row.body.get("context")
    if key == "instruction" and addition:
        prompt = f"{prompt}\n\nInput:\n{addition}"
    ids = row.body.get("response_ids")
    try:
        return PromptRow(prompt, None if ids is None else tuple(int(i) for i in ids))
    except (TypeError, ValueError) as error:
        raise row.error(f"'response_ids' should be a list of token ids ({error})") from error


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
