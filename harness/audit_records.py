"""Raw facts of the losslessness audit: one line of ``audit.jsonl`` an answer.

Verdicts are derived in `harness.verdicts` alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.bounds import Count
from harness.findings import read_findings, tokens_sha256
from harness.records import Generation, Key, RecordKey, key_of
from harness.typed_json import typed, versioned

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """A committed token that is not the reference's argmax."""

    position: Count
    """In the answer, from 0."""
    margin: float
    """Reference's best logit minus the token's; above 0."""
    noise: float
    """Largest difference of a logit between the run's dtype and the reference here, in one pass
    over the answer, and where that did not explain the token in one-token passes, too."""

    def __post_init__(self) -> None:
        _require(self.position >= 0, f"position {self.position} is before the answer")
        _require(math.isfinite(self.margin) and self.margin > 0, f"margin = {self.margin}")
        _require(math.isfinite(self.noise) and self.noise >= 0, f"noise = {self.noise}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(Key):
    """One answer, re-scored."""

    tokens_sha256: str
    """Of this answer's tokens and ``ar_loop``'s; other tokens need another audit."""
    num_tokens: Count
    """Tokens of the answer, every one of them looked at."""
    num_ar_loop_tokens: Count
    """Tokens of ``ar_loop``'s answer to the same prompt, turn and repeat."""
    first_divergence: int | None
    """First position where the two answers differ, the shorter one's end included; None where
    they are equal."""
    deviations: tuple[Deviation, ...]
    """In order of position."""
    promised: bool = False
    """Whether the run was in exact mode, which promises ``ar_loop``'s tokens."""
    wrong_end: str = ""
    """How its end breaks the rules of stopping; empty where it does not, and in older audits, which
    did not look."""
    dtype: str | None = None
    """The run's, which says how much noise is rounding; None in older audits."""

    def __post_init__(self) -> None:
        shorter = min(self.num_tokens, self.num_ar_loop_tokens)
        _require(shorter >= 1, "an answer holds at least one token")
        if self.first_divergence is None:
            _require(
                self.num_tokens == self.num_ar_loop_tokens,
                f"{self.num_tokens} and {self.num_ar_loop_tokens} tokens cannot be equal answers",
            )
        else:
            _require(
                0 <= self.first_divergence <= shorter,
                f"answers cannot first differ at {self.first_divergence} of {shorter}",
            )
            _require(
                self.first_divergence < shorter or self.num_tokens != self.num_ar_loop_tokens,
                "answers of one length cannot first differ behind their end",
            )
        places = [item.position for item in self.deviations]
        _require(places == sorted(set(places)), f"positions {places} do not ascend")
        _require(
            not places or places[-1] < self.num_tokens,
            f"position {places[-1:]} is past {self.num_tokens} tokens",
        )


def make_audit(
    generation: Generation,
    ar_loop: Generation,
    deviations: Sequence[Deviation],
    *,
    exact: bool = False,
    wrong_end: str = "",
    dtype: str | None = None,
) -> Audit:
    """The record of ``generation``, compared with the answer of ``ar_loop``.

    An ``exact`` run promises nothing of a foreign baseline.
    """
    own, other = generation.new_tokens, ar_loop.new_tokens
    pairs = zip(own, other, strict=False)
    differing = (place for place, (a, b) in enumerate(pairs) if a != b)
    divergence = None if own == other else next(differing, min(len(own), len(other)))
    return Audit(
        task=generation.task,
        prompt_id=generation.prompt_id,
        turn=generation.turn,
        method=generation.method,
        repeat=generation.repeat,
        tokens_sha256=tokens_sha256(generation, ar_loop),
        num_tokens=len(own),
        num_ar_loop_tokens=len(other),
        first_divergence=divergence,
        deviations=tuple(deviations),
        promised=exact and generation.rounds is not None,
        wrong_end=wrong_end,
        dtype=dtype,
    )


def ar_loop_of(
    generation: Generation, answers: Mapping[RecordKey, Generation]
) -> Generation | None:
    """``ar_loop``'s answer to the same prompt, turn and repeat; None where it has none."""
    item = generation
    return answers.get((item.task, item.prompt_id, item.turn, "ar_loop", item.repeat))


def to_json(audit: Audit) -> str:
    """One JSON line, without the newline."""
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(audit)}, ensure_ascii=False
    )


def from_json(line: str) -> Audit:
    """The audit in one JSON line.

    Raises:
        ValueError: not JSON, another schema version, missing or unknown keys, or facts that
            contradict each other.
    """
    return typed(Audit, versioned(line, SCHEMA_VERSION), "audit")


def read_audits(path: Path, generations: Sequence[Generation]) -> dict[RecordKey, Audit]:
    """Audits of the tokens that ``generations`` hold, as `harness.findings.read_findings` has it.

    Those of ``ar_loop`` beside an answer must be the same, too.
    """
    answers = {key_of(item): item for item in generations}

    def belongs(audit: Audit, generation: Generation) -> bool:
        ar_loop = ar_loop_of(generation, answers)
        return ar_loop is not None and audit.tokens_sha256 == tokens_sha256(generation, ar_loop)

    return read_findings(path, from_json, generations, belongs)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
