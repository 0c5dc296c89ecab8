"""A task read row by row: from a directory, else the hub, else the project's samples."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import UserError
from harness.reading import open_regular
from tasks.base import Prompt, PromptSet, Source
from tasks.grading import Grader
from tasks.hub import HUB, HubFiles, Snapshot
from tasks.rows import Row, read_rows

_LOG = logging.getLogger(__name__)

SAMPLES = Path(__file__).parent / "samples"

_ORDER_SALT = "prompt order 1:"
"""Fixed for good: another salt is another subset, and results stop being comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTask:
    """One benchmark: where its files are, and what a row of them asks."""

    name: str
    files: tuple[str, ...]
    """Glob patterns below a data directory; the first that matches is read."""
    hub: HubFiles
    parse: Callable[[Row], Prompt | None]
    """None leaves a row out that belongs to another split."""
    grader: Grader | None = None
    """None where no answer is the right one."""
    note: Callable[[Sequence[Prompt]], str] = lambda prompts: ""
    """What a reader should know of prompts that are not samples, in a few words; empty: nothing."""

    def load(self, data_dir: Path | None, limit: int | None) -> PromptSet:
        """Choose prompts; see `tasks.base.Task.load`.

        Prompts come in a fixed pseudo-random order that depends on their ids alone, so a smaller
        limit is a prefix of a larger one.
        """
        if limit is not None and limit < 1:
            raise UserError(f"a limit of {limit} leaves no prompts; give 1 or more, or none.")
        found = self._from_hub() if data_dir is None else self._from_directory(data_dir)
        if found is None:
            found = self._from_files((SAMPLES / f"{self.name}.jsonl",), "samples", SAMPLES)
        return PromptSet(tuple(sorted(found.prompts, key=_rank)[:limit]), found.source)

    def files_in(self, data_dir: Path) -> tuple[Path, ...]:
        """The files `load` would read there; empty where there are none."""
        for pattern in self.files:
            # By length first: test.jsonl, test2.jsonl, ... as upstream numbers them.
            matches = sorted(data_dir.glob(pattern), key=lambda path: (len(path.name), path.name))
            if paths := tuple(path for path in matches if path.is_file()):
                return paths
        return ()

    def _from_directory(self, data_dir: Path) -> PromptSet:
        if paths := self.files_in(data_dir):
            return self._from_files(paths, "directory", data_dir)
        raise UserError(
            f"no data for {self.name} under {data_dir}; put one of {', '.join(self.files)} there "
            f"or leave {self.name} out."
        )

    def _from_files(
        self, paths: tuple[Path, ...], kind: Literal["directory", "samples"], root: Path
    ) -> PromptSet:
        prompts = self._prompts(read_rows(paths, kind))
        source = Source(
            kind=kind,
            location=", ".join(path.relative_to(root).as_posix() for path in paths),
            revision=None,
            digest=_digest_of_files(paths),
            num_rows=len(prompts),
            note="" if kind == "samples" else self.note(prompts),
        )
        return PromptSet(prompts, source)

    def _from_hub(self) -> PromptSet | None:
        snapshot = HUB.snapshot(self.hub)
        if snapshot is None:
            return None
        try:
            return self._from_snapshot(snapshot)
        except (UserError, ImportError) as error:
            # The user cannot mend the hub's files, and a run on samples is marked as one.
            _LOG.warning("%s from the hub cannot be used: %s", self.hub.repo, error)
            return None

    def _from_snapshot(self, snapshot: Snapshot) -> PromptSet:
        hasher = hashlib.sha256()
        prompts = self._prompts(_hashed(read_rows(snapshot.paths, "hub"), hasher))
        source = Source(
            kind="hub",
            location=self.hub.repo,
            revision=snapshot.commit,
            digest=hasher.hexdigest(),
            num_rows=len(prompts),
            note=self.note(prompts),
        )
        return PromptSet(prompts, source)

    def _prompts(self, rows: Iterable[Row]) -> tuple[Prompt, ...]:
        prompts: dict[str, Prompt] = {}
        for row in rows:
            prompt = self.parse(row)
            if prompt is None:
                continue
            if prompt.prompt_id in prompts:
                raise row.error(f"the id {prompt.prompt_id!r} was used before")
            prompts[prompt.prompt_id] = prompt
        if not prompts:
            raise UserError(f"no row belongs to {self.name}; give upstream's file of its split.")
        return tuple(prompts.values())


def _rank(prompt: Prompt) -> str:
    return hashlib.sha256(f"{_ORDER_SALT}{prompt.prompt_id}".encode()).hexdigest()


def _hashed(rows: Iterable[Row], hasher: Any) -> Iterator[Row]:
    """The same rows; ``hasher`` takes in the canonical JSON of each as it passes."""
    for row in rows:
        hasher.update(json.dumps(row.body, sort_keys=True).encode() + b"\n")
        yield row


def _digest_of_files(paths: Iterable[Path]) -> str:
    """SHA-256 of the files' bytes, one after another."""
    hasher = hashlib.sha256()
    for path in paths:
        with open_regular(path) as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()
