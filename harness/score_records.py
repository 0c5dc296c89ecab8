"""Raw facts of scoring: one line of ``scores.jsonl`` an answer, and ``scoring.json`` for them all.

Shares and tests are derived in `harness.quality` alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, get_args

from harness.errors import UserError
from harness.findings import read_findings
from harness.reading import read_text
from harness.records import Generation, Key, RecordKey, key_of
from harness.run_files import RunFiles
from harness.typed_json import typed, versioned
from tasks.grading import Verdict

if TYPE_CHECKING:
    from tasks.sandbox import Sandbox

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Key):
    """What became of one answer; one that was not run has none."""

    verdict: Verdict
    detail: str
    """Why, in one short line."""
    text_sha256: str
    """Of the text that was scored."""
    rule: str
    """Name and version of the task's rule."""

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict) or self.verdict == "not run":
            raise ValueError(f"{self.verdict!r} is no verdict of an answer that was scored")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRule:
    """How answers of one task are scored."""

    rule: str
    runs_code: bool
    tests_sha256: str
    """Of the references of the run's prompts, in their order."""


class ContainmentFacts(TypedDict):
    """`tasks.sandbox.Containment.facts`, as far as others read it."""

    held: dict[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeFacts:
    """What programs in answers ran under."""

    python: str
    limits: Mapping[str, float]
    containment: ContainmentFacts
    numpy: str | None = None
    """Its version, for LiveCodeBench's programs; None where they had none."""

    @classmethod
    def of(cls, sandbox: Sandbox) -> Self:
        """The facts of a sandbox, as they are read from a file again."""
        facts = {
            "python": platform.python_version(),
            "limits": dataclasses.asdict(sandbox.limits),
            "containment": sandbox.containment.facts(),
            "numpy": sandbox.numpy,
        }
        return typed(cls, json.loads(json.dumps(facts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """What all scores of a run have in common."""

    tasks: Mapping[str, TaskRule]
    """The tasks of the run whose answers can be scored."""
    code: CodeFacts | None
    """None where no program ran."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a run."""

    scoring: Scoring | None
    """None where nothing was ever scored."""
    scores: Mapping[RecordKey, Score]

    def num_not_run(self, generations: Sequence[Generation]) -> int:
        """Answers that have no score and could have one."""
        tasks = self.scoring.tasks if self.scoring else {}
        return sum(i.task in tasks and key_of(i) not in self.scores for i in generations)


def text_sha256(text: str) -> str:
    """Digest of an answer."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def to_json(score: Score) -> str:
    """One JSON line, without the newline."""
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(score)}, ensure_ascii=False
    )


def from_json(line: str) -> Score:
    """The score in one JSON line.

    Raises:
        ValueError: not JSON, another schema version, missing or unknown keys, or no verdict.
    """
    return typed(Score, versioned(line, SCHEMA_VERSION), "score")


def read_scoring(path: Path) -> Scoring | None:
    """What ``scoring.json`` says; None where there is none.

    Raises:
        ValueError: it says nothing that can be read.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        return typed(Scoring, versioned(read_text(path), SCHEMA_VERSION))
    except ValueError as error:
        raise ValueError(f"{path} is not a description of scores: {error}") from error


def scoring_json(scoring: Scoring) -> dict[str, Any]:
    """The body of ``scoring.json``."""
    return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(scoring)}


def read_scores(
    path: Path, scoring: Scoring | None, generations: Sequence[Generation]
) -> dict[RecordKey, Score]:
    """Scores of the texts that ``generations`` hold, by the rules of ``scoring``.

    As `harness.findings.read_findings` has it.
    """
    if scoring is None:
        return {}

    def belongs(score: Score, generation: Generation) -> bool:
        task = scoring.tasks.get(score.task)
        if task is None or score.rule != task.rule:
            return False
        return score.text_sha256 == text_sha256(generation.text)

    return read_findings(path, from_json, generations, belongs)


def read_scored(files: RunFiles, generations: Sequence[Generation]) -> Scored:
    """What a run directory says of its answers.

    Raises:
        UserError: files that cannot be read.
    """
    try:
        scoring = read_scoring(files.scoring)
        return Scored(scoring, read_scores(files.scores, scoring, generations))
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; {remove_both(files)}") from error


def remove_both(files: RunFiles) -> str:
    """Half a sentence for whoever is stuck: one file without the other is no use."""
    return f"remove {files.scores} and {files.scoring} and call harness score on the run."
