"""Raw facts of a study: one JSON line a finished training or a measurement, checking itself.

A record that would be wrong cannot be built. Numbers are derived in `harness.study_metrics`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from harness.records import read_lines
from harness.study import Arm
from harness.typed_json import typed, versioned
from harness.waste import Slots

SCHEMA_VERSION = 1

HELD_BACK = "held_back"
"""What stands for the task of answers to held-back training prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One recorded answer, as a drafter would have drafted it; never timed."""

    task: str
    """`HELD_BACK`, or the task of a run."""
    prompt_id: str
    """The conversation; its turns and answers belong together in an interval."""
    turn: int
    num_tokens: int
    """Of the answer as far as it was replayed, the prefill's token included."""
    accepted: tuple[int, ...]
    """Draft tokens accepted by each round, before cutting at the end of the answer."""
    depths: tuple[int, ...]
    """Draft tokens offered by each round."""
    slots: Slots
    """What became of the slots of all rounds."""
    rewards: tuple[float | None, ...] | None = None
    """Chain reward of each round's block (arXiv 2606.11552, Eq. 12), None for a block that reaches
    over the end of the answer; None as a whole where it was not asked for."""

    def __post_init__(self) -> None:
        _require(self.turn >= 1 and self.num_tokens >= 1, "an answer has a turn and a token")
        _require(
            len(self.accepted) == len(self.depths)
            and all(0 <= a <= d for a, d in zip(self.accepted, self.depths, strict=True)),
            "0 ≤ accepted ≤ depth does not hold for every round",
        )
        whole = sum(self.accepted) + len(self.accepted)
        cut = whole - (self.num_tokens - 1)
        last = self.accepted[-1] if self.accepted else 0
        _require(
            0 <= cut <= last,
            f"the rounds commit {whole} tokens, and the answer has {self.num_tokens}",
        )
        slots = self.slots
        _require(
            min(dataclasses.astuple(slots)) >= 0
            and slots.accepted + slots.bonus == self.num_tokens - 1
            and slots.judged + slots.behind_end == sum(self.depths) + len(self.depths),
            "slots and rounds disagree",
        )
        if self.rewards is not None:
            _require(
                len(self.rewards) == len(self.accepted)
                and all(r is None or 0 <= r <= 1 for r in self.rewards),
                "a chain reward a round, between 0 and 1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One arm at one step, replayed with one block size."""

    arm: Arm
    step: int
    horizon: int
    """Tokens of a block in use, the pending one included."""
    loss: float | None
    """Training loss on the batches since the measurement before; None where not asked for."""
    train_time_tau: float | None
    """On held-back prompts at fixed anchors, over the training vocabulary; None as above."""
    replayed: tuple[Replayed, ...]

    def __post_init__(self) -> None:
        _require(0 <= self.step <= self.arm.recipe.steps, f"step {self.step} is none of the arm")
        _require(self.horizon >= 2, f"a horizon of {self.horizon} drafts nothing")
        _require(bool(self.replayed), "nothing was replayed")
        for name in ("loss", "train_time_tau"):
            value = getattr(self, name)
            _require(value is None or math.isfinite(value), f"{name} = {value} is no number")
        names = {(item.task, item.prompt_id, item.turn) for item in self.replayed}
        _require(len(names) == len(self.replayed), "an answer was replayed twice")
        _require(
            all(max(item.depths, default=0) < self.horizon for item in self.replayed),
            "a round is deeper than the block",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One arm whose checkpoint and measurements are all there; its last line."""

    arm: Arm
    checkpoint: str
    """Directory below the study's."""
    weights_sha256: str
    num_sequences: int
    """Trained on."""
    train_s: float
    """Seconds in optimiser steps; arms trained in step share batches, not steps."""
    num_parameters: int
    initial_weights: str

    def __post_init__(self) -> None:
        _require(math.isfinite(self.train_s) and self.train_s >= 0, "train_s is no duration")
        _require(self.num_sequences >= 1 and self.num_parameters >= 1, "counts start at 1")


StudyRecord = Measurement | Finished

_KINDS: dict[str, type[Measurement] | type[Finished]] = {
    "measurement": Measurement,
    "finished": Finished,
}


def to_json(record: StudyRecord) -> str:
    """One JSON line, without the newline."""
    kind = "measurement" if isinstance(record, Measurement) else "finished"
    body = {"schema_version": SCHEMA_VERSION, "kind": kind, **dataclasses.asdict(record)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def from_json(line: str) -> StudyRecord:
    """The record in one JSON line.

    Raises:
        ValueError: not JSON, another schema version, missing or unknown keys, or a record that
            contradicts itself.
    """
    body = versioned(line, SCHEMA_VERSION)
    kind = body.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind {kind!r} cannot be read")
    return typed(_KINDS[kind], body, kind)


def read_study_records(path: Path) -> list[StudyRecord]:
    """Records of a study; a torn last line is left out.

    A measurement that was made twice (a training was killed behind it and went on from before it)
    counts once, the later one.

    Raises:
        OSError: the file cannot be read.
        ValueError: a malformed line; the message names file and line.
    """
    return list({key_of(record): record for record in read_lines(path, from_json)}.values())


def key_of(record: StudyRecord) -> tuple[Arm, int, int]:
    """What names a record: arm, step and horizon; a finished arm has neither step nor horizon."""
    if isinstance(record, Finished):
        return record.arm, -1, -1
    return record.arm, record.step, record.horizon


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
