"""``study.json`` of a study: what is written, and all that others read of it.

As `harness.run_facts` has it, without postponed annotations for the same reason.
"""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from harness.bounds import Count
from harness.run_facts import Hardware, ObjectiveFacts, Scalar
from harness.study import Arm
from harness.typed_json import typed


class SourceOfTask(TypedDict):
    """The run whose answers are replayed, and where its prompts came from."""

    run_id: str
    num_prompts: Count
    kind: str
    location: NotRequired[str]
    digest: NotRequired[str]


class BenchTarget(TypedDict):
    """The target that drafters were trained for."""

    name: NotRequired[str | None]
    model: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]


class BenchData(TypedDict):
    """What drafters were trained on."""

    name: NotRequired[str | None]
    sha256: NotRequired[str | None]
    num_sequences: NotRequired[Count]


class BenchFacts(TypedDict):
    """Target and data."""

    target: NotRequired[BenchTarget]
    data: NotRequired[BenchData]


class SessionFacts(TypedDict):
    """The environment of one start."""

    commit: NotRequired[str | None]
    dirty: NotRequired[bool | None]
    started_at: NotRequired[str]
    hardware: NotRequired[Hardware]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFacts:
    """``study.json``."""

    train: dict[str, Any]
    objectives: dict[str, dict[str, Scalar]]
    """By name; a gamma of null is infinity."""
    arms: tuple[Arm, ...]
    measure: dict[str, Any]
    sources: dict[str, SourceOfTask]
    """Of every task that is replayed."""
    bench: dict[str, BenchFacts]
    """By whose responses are trained on; empty until they were opened."""
    sessions: tuple[SessionFacts, ...]

    def __post_init__(self) -> None:
        for name, row in self.objectives.items():
            typed(ObjectiveFacts, row, f"objectives.{name}")
        if not self.arms:
            raise ValueError("arms is empty")
        for arm in self.arms:
            if arm.recipe.objective not in self.objectives:
                raise ValueError(f"an arm has the unknown objective {arm.recipe.objective!r}")
