"""What a task is, and where its prompts came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.run_facts import SourceFacts

SourceKind = Literal["directory", "hub", "samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a task's rows came from; part of every record."""

    kind: SourceKind
    location: str
    """File path relative to the data directory, hub id, or sample file name."""
    revision: str | None
    """Resolved hub commit; None for files."""
    digest: str
    """SHA-256 of the file's bytes (directory, samples) or of the rows in order (hub)."""
    num_rows: int
    note: str = ""
    """What sets the texts apart from those the benchmark is known by; empty where nothing does."""

    def facts(self) -> SourceFacts:
        """The same as JSON; a note only where there is one."""
        facts: SourceFacts = {
            "kind": self.kind,
            "location": self.location,
            "revision": self.revision,
            "digest": self.digest,
            "num_rows": self.num_rows,
        }
        if self.note:
            facts["note"] = self.note
        return facts

    @property
    def is_benchmark(self) -> bool:
        """Whether results may be called by the benchmark's name."""
        return self.kind != "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One conversation: user turns, and what is needed to score it."""

    task: str
    prompt_id: str
    turns: tuple[str, ...]
    reference: Mapping[str, Any] = field(default_factory=dict)
    """Answer, tests, entry point …; never shown to target or drafter."""


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The chosen prompts of one task, in a stable order."""

    prompts: tuple[Prompt, ...]
    source: Source


class Task(Protocol):
    """A set of prompts; one whose answers are scored has a ``grader`` too (`tasks.grading`)."""

    name: str

    def load(self, data_dir: Path | None, limit: int | None) -> PromptSet:
        """Choose prompts: from ``data_dir``, else the hub, else the project's samples.

        Args:
            data_dir: directory with the upstream files; a task missing there is an error.
            limit: number of conversations, None for all.

        Raises:
            UserError: a file that is missing, unreadable or malformed (file and line are named).
        """
