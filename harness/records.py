"""Raw facts of a run: frozen, self-checking records, and their JSONL form.

A record that would be wrong cannot be built. Numbers are derived in `harness.metrics` and its
siblings alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from harness.bounds import Between, Count, Depth, Seconds, Small
from harness.reading import decoded, read_whole_lines
from harness.typed_json import parse_json, typed

T = TypeVar("T")

SCHEMA_VERSION = 1

FinishReason = Literal["stop", "stop_string", "length", "context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One proposal and what the target made of it."""

    depth: Depth
    """Depth of the longest path offered."""
    nodes: Small
    """Draft tokens in the whole tree."""
    accepted: Depth
    """Draft tokens on the accepted path, before cutting at stop or limit; no bonus."""
    committed: Small
    """Tokens that reached the output, bonus included, cut at stop and limit."""
    draft_tokens: tuple[int, ...]
    """Tokens of the longest (or top) path as offered."""

    def __post_init__(self) -> None:
        # There are many rounds, and a message is only made for a wrong one.
        if not 0 <= self.accepted <= self.depth <= self.nodes:
            found = f"{self.accepted}, {self.depth}, {self.nodes}"
            raise ValueError(f"0 ≤ accepted ≤ depth ≤ nodes does not hold for {found}")
        if not 1 <= self.committed <= self.accepted + 1:
            found = f"{self.committed}, {self.accepted}"
            raise ValueError(f"1 ≤ committed ≤ accepted + 1 does not hold for {found}")
        if len(self.draft_tokens) != self.depth:
            found = f"{len(self.draft_tokens)} draft_tokens"
            raise ValueError(f"{found} and a depth of {self.depth} disagree")

    @property
    def is_tree(self) -> bool:
        """Whether more than one path was offered, of which `draft_tokens` holds one."""
        return self.nodes != self.depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What names a record: no two of one run share it."""

    task: str
    prompt_id: str
    turn: Small
    method: str
    repeat: Small


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation(Key):
    """One answer of one method, and how it came about."""

    seed: int
    source: str
    """``directory``, ``hub`` or ``samples``."""
    source_digest: str
    prompt_sha256: str
    """Of the token ids the target read, so that methods can be paired."""
    num_prompt_tokens: Count
    new_tokens: tuple[int, ...]
    """The prefill's token and the stop token included."""
    text: str
    rounds: tuple[Round, ...] | None
    """None for a foreign baseline, which shows none."""
    prefill_s: Seconds
    """Start to the first token on the host."""
    decode_s: Seconds
    """First token to last; the drafter's start and first draft included."""
    finish_reason: FinishReason
    batch_size: Small = 1
    peak_memory_bytes: Count | None = None
    """Device memory on a GPU, None elsewhere."""
    other_load: Annotated[float, Between(0, 2**16)] | None = None
    """Mean number of cores that other processes kept busy meanwhile; None where not told."""
    elapsed_s: Seconds | None = None
    """The whole call by a second clock, so at least prefill and decoding; None in older records."""
    process: Small = 0
    """Which process of its host asked; the times of process 0 count."""
    num_processes: Small = 1
    """Processes of the run on that host, which disturb each other's times."""

    def __post_init__(self) -> None:
        _require(len(self.new_tokens) >= 1, "a generation holds at least the prefill's token")
        _require(self.num_prompt_tokens >= 1, "a prompt has at least one token")
        _require(self.finish_reason in get_args(FinishReason), f"{self.finish_reason!r} unknown")
        _require(
            0 <= self.process < self.num_processes,
            f"process {self.process} is none of {self.num_processes}",
        )
        for name in ("prefill_s", "decode_s"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, f"{name} = {value} is no duration")
        for name in ("other_load", "elapsed_s"):
            value = getattr(self, name)
            _require(
                value is None or (math.isfinite(value) and value >= 0),
                f"{name} = {value} is below 0 or not finite",
            )
        if self.rounds is None:
            return
        committed = sum(item.committed for item in self.rounds)
        _require(
            1 + committed == len(self.new_tokens),
            f"1 + Σ committed = {1 + committed}, but there are {len(self.new_tokens)} new tokens",
        )
        _require(
            all(item.committed == item.accepted + 1 for item in self.rounds[:-1]),
            "only the last round may commit less than accepted + 1",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Key):
    """A generation that raised; never a number."""

    error: str
    """Type and message, one line."""


Record = Generation | Failure
RecordKey = tuple[str, str, int, str, int]
"""Task, prompt, turn, method, repeat."""

_KINDS: Mapping[str, type[Generation] | type[Failure]] = {
    "generation": Generation,
    "failure": Failure,
}


def to_json(record: Record) -> str:
    """One JSON line, without the newline."""
    kind = "generation" if isinstance(record, Generation) else "failure"
    body = {"schema_version": SCHEMA_VERSION, "kind": kind, **dataclasses.asdict(record)}
    return json.dumps(body, ensure_ascii=False)


def from_json(line: str) -> Record:
    """The record in one JSON line.

    Raises:
        ValueError: not JSON, another schema version, missing or unknown keys, or a record that
            contradicts itself.
    """
    body = parse_json(line)
    if not isinstance(body, dict):
        raise ValueError("a record is a JSON object")
    version, kind = body.pop("schema_version", None), body.pop("kind", None)
    if version != SCHEMA_VERSION or not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"schema_version {version!r}, kind {kind!r} cannot be read")
    return typed(_KINDS[kind], body, kind)


def key_of(record: Key) -> RecordKey:
    """Identity of a record within its run."""
    return (record.task, record.prompt_id, record.turn, record.method, record.repeat)


def read_records(path: Path) -> Iterator[Record]:
    """Records of a JSONL file, as `read_lines` has it."""
    return read_lines(path, from_json)


def read_lines(path: Path, parse: Callable[[str], T]) -> Iterator[T]:
    """What ``parse`` makes of each line of a file; a torn last line (no newline) is left out.

    Raises:
        OSError: the file cannot be read, or is no regular one.
        ValueError: a malformed line; the message names file and line.
    """
    for number, line in read_whole_lines(path):
        try:
            yield parse(decoded(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
