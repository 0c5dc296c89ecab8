"""Raw facts of the audit above temperature 0: one line of ``draws.jsonl`` an answer.

What they mean is judged in `harness.distribution` alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.findings import read_findings, tokens_sha256
from harness.records import Generation, Key, RecordKey
from harness.typed_json import typed, versioned

SCHEMA_VERSION = 1

_ROUNDING = 1e-4
"""Sums of float32 probabilities may pass 1 by this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws(Key):
    """Where each token of one answer stood in the target's distribution at its place.

    The distribution is the one tokens are drawn from: after temperature, top-k and top-p.
    """

    tokens_sha256: str
    """Of the prompt and the answer's tokens; other tokens need another audit."""
    above: tuple[float, ...]
    """Probability of all tokens before this one, the most probable first, equals by their id."""
    given: tuple[float, ...]
    """Probability of the token."""
    top: tuple[float, ...]
    """Probability of the most probable token."""
    num_edge: int = 0
    """Tokens that top-p or top-k leave out, but hardly: rounding may have done it."""

    def __post_init__(self) -> None:
        if not len(self.above) == len(self.given) == len(self.top) >= 1:
            raise ValueError("above, given and top need one number for every token")
        if not 0 <= self.num_edge <= sum(share == 0 for share in self.given):
            raise ValueError(f"{self.num_edge} tokens cannot be at the edge")
        for above, given, top in zip(self.above, self.given, self.top, strict=True):
            if not (0 <= above <= 1 + _ROUNDING and 0 <= given <= top <= 1 + _ROUNDING):
                raise ValueError(f"above {above}, given {given}, top {top} are no probabilities")
            if above + given > 1 + _ROUNDING:
                raise ValueError(f"above {above} and given {given} are more than 1 together")


def to_json(draws: Draws) -> str:
    """One JSON line, without the newline."""
    return json.dumps(
        {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(draws)}, ensure_ascii=False
    )


def from_json(line: str) -> Draws:
    """The draws in one JSON line.

    Raises:
        ValueError: not JSON, another schema version, missing or unknown keys, or no probabilities.
    """
    return typed(Draws, versioned(line, SCHEMA_VERSION), "draws")


def read_draws(path: Path, generations: Sequence[Generation]) -> dict[RecordKey, Draws]:
    """Draws of the tokens that ``generations`` hold, as `harness.findings.read_findings` has it."""

    def belongs(draws: Draws, generation: Generation) -> bool:
        return draws.tokens_sha256 == tokens_sha256(generation)

    return read_findings(path, from_json, generations, belongs)
