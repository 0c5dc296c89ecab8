"""Training prompts: of the file or corpus given, else of the hub, else the project's own."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from drafters.block_diffusion.conversations import has_conversation, opening
from drafters.block_diffusion.corpus_files import CorpusFiles
from harness.errors import UserError
from harness.typed_json import typed
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
REFERENCE_KEYS = ("answer", "response", "output", "code")

Responses = Literal["target", "reference"]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One training prompt, with what is known to follow it."""

    prompt: str
    response_ids: tuple[int, ...] | None = None
    """The target's, where it was already generated."""
    reference: str | None = None
    """The answer its data set has for it."""
    reference_ids: tuple[int, ...] | None = None
    """The same as tokens of a target, with the stop token."""
    source: str | None = None
    """Data set, where the row itself says so."""
    licence: str | None = None
    """As the row itself says."""
    sampling: Mapping[str, Any] | None = None
    """How the response was drawn, as the row itself says."""
    is_cut: bool = False
    """Whether it is the beginning of a longer conversation, or stood below a system's message."""


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


def training_prompts(path: Path | None, responses: Responses = "target") -> TrainingPrompts:
    """Prompts of a JSONL file, of every one in a directory, or of a corpus; None: the default.

    The default is `HUB_FILES`, all of them, where they can be had, else the project's own prompts.
    A row gives its prompt as ``prompt``, ``instruction`` (with ``input`` or ``context``),
    ``question`` or ``text``, and may give ``response_ids``; or it holds a conversation, of which
    the first question is taken (see `conversations`). Where a prompt is met again, rows with a
    response win, each that differs; else the first.

    Args:
        path: file or directory.
        responses: what to train on. ``reference`` keeps the rows with ``reference_ids``, which
            take the place of the responses.

    Raises:
        UserError: ``path`` holds nothing to read, a malformed line or no reference, or is a corpus
            that was not finished.
    """
    found = _from_directory(path) if path is not None else _from_hub() or _own()
    warn_of_cuts(found.rows, found.name)
    if responses == "reference":
        rows = [replace(row, response_ids=row.reference_ids) for row in found.rows]
        rows = [row for row in rows if row.response_ids]
        if len(rows) < len(found.rows):
            without = len(found.rows) - len(rows)
            _LOG.warning("%d rows of %s have no reference and are left out", without, found.name)
        found = replace(found, rows=_distinct(rows))
        if not found.rows:
            raise UserError(
                f"{found.name} holds no reference_ids; build a corpus with `harness data` from "
                "prompts that come with answers, or leave --responses reference out."
            )
    return found


def check_prompts(path: Path) -> None:
    """Read every row of a file or directory once, and keep nothing.

    Raises:
        UserError: as `training_prompts`.
    """
    _from_directory(path)


def in_stable_order(rows: Iterable[PromptRow], most: int | None = None) -> list[PromptRow]:
    """Rows of the first ``most`` prompts by a hash of the prompt: a fair and stable sample."""
    ordered = sorted(rows, key=lambda row: prompt_hash(row.prompt))
    kept = set(list(dict.fromkeys(row.prompt for row in ordered))[:most])
    return [row for row in ordered if row.prompt in kept]


def is_held_back(row: PromptRow, share: float) -> bool:
    """Whether a prompt is kept out of training; depends on the prompt alone."""
    return int(prompt_hash("held back\n" + row.prompt)[:8], 16) < share * 2**32


def prompt_files(path: Path) -> list[Path]:
    """``path`` itself, or the files of a directory; of a corpus its rows alone.

    Raises:
        UserError: it is not there, the directory holds none, or it is a corpus that was not
            finished or was changed.
    """
    if not path.is_dir():
        if not path.exists():
            raise UserError(f"there is no {path}; give a file or directory of prompts.")
        return [path]
    if (corpus := CorpusFiles(path)).rows.exists():
        corpus.require_finished()
        return [corpus.rows]
    paths = sorted(path.glob("*.jsonl"))
    if not paths:
        raise UserError(f"{path} holds no .jsonl file; give a file or directory of prompts.")
    return paths


def warn_of_cuts(rows: Sequence[PromptRow], name: str) -> None:
    """Say how many conversations were read in part."""
    if num_cut := sum(row.is_cut for row in rows):
        _LOG.warning(
            "%d of %d rows of %s are conversations of more than a question and its reply; "
            "the first question and its reply alone are used",
            num_cut,
            len(rows),
            name,
        )


def _from_directory(path: Path) -> TrainingPrompts:
    paths = prompt_files(path)
    return TrainingPrompts(
        rows=_distinct(map(parse_row, read_rows(tuple(paths), "directory"))),
        kind="directory",
        name=path.name,
        files=described(paths),
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
        files += described(snapshot.paths, f"{wanted.repo}/", snapshot.commit)
    return TrainingPrompts(
        rows=_distinct(map(parse_row, rows)),
        kind="hub",
        name=", ".join(wanted.repo for wanted in HUB_FILES),
        files=tuple(files),
    )


def _own() -> TrainingPrompts:
    rows = _distinct(map(parse_row, read_rows((OWN,), "samples")))
    _LOG.warning(
        "training on the project's own %d prompts, which are too few for a good drafter; "
        "name more with --data FILE or --data DIRECTORY.",
        len(rows),
    )
    return TrainingPrompts(rows=rows, kind="own", name=OWN.name, files=described((OWN,)))


def described(
    paths: Sequence[Path], prefix: str = "", revision: str | None = None
) -> tuple[PromptFile, ...]:
    """Names and digests of files."""
    return tuple(PromptFile(prefix + path.name, revision, file_digest(path)) for path in paths)


def _distinct(rows: Iterable[PromptRow]) -> tuple[PromptRow, ...]:
    found: dict[str, dict[tuple[int, ...] | None, PromptRow]] = {}
    for row in rows:
        found.setdefault(row.prompt, {}).setdefault(row.response_ids, row)
    for known in found.values():
        if len(known) > 1:
            known.pop(None, None)
    return tuple(row for known in found.values() for row in known.values())


def parse_row(row: Row) -> PromptRow:
    """A prompt in any of the forms of `training_prompts`.

    Raises:
        UserError: none of them; file and line are named.
    """
    prompt, reply, is_cut = _asked(row)
    sampling = row.body.get("sampling")
    return PromptRow(
        prompt,
        response_ids=_ids(row, "response_ids"),
        reference=reply or _string(row, *REFERENCE_KEYS),
        reference_ids=_ids(row, "reference_ids"),
        source=_string(row, "source"),
        licence=_string(row, "licence", "license"),
        sampling=sampling if isinstance(sampling, Mapping) else None,
        is_cut=is_cut,
    )


def _asked(row: Row) -> tuple[str, str | None, bool]:
    """The prompt, the reply of a conversation, and whether that goes on."""
    key = next((key for key in PROMPT_KEYS if isinstance(row.body.get(key), str)), None)
    if key is None:
        if has_conversation(row):
            return opening(row)
        raise row.error(
            f"a training prompt needs a string under one of {', '.join(PROMPT_KEYS)}, "
            "or a list of messages under messages or conversations"
        )
    prompt = row.text(key)
    if key != "instruction":
        return prompt, None, False
    addition = row.optional_text("input") or row.optional_text("context")
    return (f"{prompt}\n\nInput:\n{addition}" if addition else prompt), None, False


def _string(row: Row, *keys: str) -> str | None:
    """The first of the keys under which there is text."""
    values = (row.body.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _ids(row: Row, key: str) -> tuple[int, ...] | None:
    value = row.body.get(key)
    if value is None:
        return None
    try:
        ids = typed(tuple[int, ...], value, repr(key))
    except ValueError as error:
        raise row.error(f"{error}; token ids are whole numbers") from error
    if ids and min(ids) < 0:
        raise row.error(f"{key!r} should be a list of token ids ({min(ids)} is none)")
    return ids


def prompt_hash(text: str) -> str:
    """SHA-256 of a prompt's text."""
    return hashlib.sha256(text.encode()).hexdigest()
