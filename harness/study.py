"""A study: trainings that are compared, and how they are measured. Importing it needs no torch."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.objectives import OBJECTIVES, Objective

Responses = Literal["target", "reference"]

_POSITIONAL, _FOCAL, _CHAIN = (OBJECTIVES[name] for name in ("positional", "focal", "chain"))
FACTORIAL: dict[str, Objective] = {
    "uniform": OBJECTIVES["uniform"],
    "positional": _POSITIONAL,
    "focal": _FOCAL,
    "chain": _CHAIN,
    "positional+focal": Objective(gamma=_POSITIONAL.gamma, alpha_focal=_FOCAL.alpha_focal),
    "positional+chain": Objective(gamma=_POSITIONAL.gamma, alpha_chain=_CHAIN.alpha_chain),
    "focal+chain": Objective(alpha_focal=_FOCAL.alpha_focal, alpha_chain=_CHAIN.alpha_chain),
    "combined": OBJECTIVES["combined"],
}
"""Every combination of the three interventions: the rows that ``factorial`` stands for."""

NOT_SHARED = {
    "drafter": "arms.objectives",
    "seed": "arms.seeds",
    "steps": "arms.steps",
    "output_dir": "--output-dir",
}
"""Fields of `TrainConfig` that differ between arms, and where they are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that trainings with different seeds have in common."""

    objective: str
    steps: int
    """The budget; learning rates end with it."""
    block_size: int
    learning_rate: float
    responses: Responses = "target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One training of a study."""

    recipe: Recipe
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arms:
    """The table ``[arms]``: each list is an axis, and every combination is trained."""

    objectives: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    steps: tuple[int, ...]
    block_size: tuple[int, ...] = ()
    learning_rate: tuple[float, ...] = ()
    responses: tuple[Responses, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The table ``[measure]``: what is replayed."""

    held_back: int = 128
    """Held-back training prompts whose recorded greedy answers are replayed."""
    horizons: tuple[int, ...] = ()
    """Block sizes in use, beside the trained one."""
    runs: tuple[Path, ...] = ()
    """Run directories whose answers of ``ar_loop`` are replayed, task by task."""
    data_dir: Path | None = None
    """Where the prompts of those runs are, as for ``harness run``."""
    max_new_tokens: int = 128
    """Answers are cut to this."""
    draft_vocab: Literal["full", "trained"] = "full"
    """Tokens that are drafted: all, or those of the training softmax, which is faster."""
    curve_points: int = 8
    """Measurements over a training."""

    def __post_init__(self) -> None:
        for name, least in (("held_back", 1), ("max_new_tokens", 2), ("curve_points", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if any(size < 2 for size in self.horizons):
            raise ValueError("horizons are block sizes, 2 or more")
        for name in ("horizons", "runs"):
            require_distinct(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study with every name resolved."""

    train: TrainConfig
    """Shared by all arms."""
    objectives: Mapping[str, Objective]
    arms: tuple[Arm, ...]
    measure: Measure = field(default_factory=Measure)

    def config(self, arm: Arm) -> TrainConfig:
        """What an arm is trained with."""
        recipe = arm.recipe
        return dataclasses.replace(
            self.train,
            steps=recipe.steps,
            seed=arm.seed,
            drafter=recipe.objective,
            block_size=recipe.block_size,
            learning_rate=recipe.learning_rate,
            responses=recipe.responses,
        )

    def name(self, arm: Arm) -> str:
        """Name of an arm's checkpoint directory; other arms in the study do not change it."""
        return f"{arm.recipe.objective}-{self.company(arm)}"

    def company(self, arm: Arm) -> str:
        """The same for all arms that differ in their objective alone: they train in step."""
        recipe = arm.recipe
        parts = [f"seed{arm.seed}", f"steps{recipe.steps}"]
        if recipe.block_size != self.train.block_size:
            parts.append(f"block{recipe.block_size}")
        if recipe.learning_rate != self.train.learning_rate:
            parts.append(f"lr{recipe.learning_rate:g}")
        if recipe.responses != "target":
            parts.append(recipe.responses)
        return "-".join(parts)

    def describe(self) -> dict[str, Any]:
        """JSON-ready: what of the file matters."""
        return {
            "train": {
                key: str(value) if isinstance(value, Path) else value
                for key, value in dataclasses.asdict(self.train).items()
                if key not in (*NOT_SHARED, "save_every", "device")
            },
            "objectives": {name: row_facts(row) for name, row in self.objectives.items()},
            "arms": [dataclasses.asdict(arm) for arm in self.arms],
            "measure": {
                **dataclasses.asdict(self.measure),
                "runs": [str(path) for path in self.measure.runs],
                "data_dir": self.measure.data_dir and str(self.measure.data_dir),
                "horizons": list(self.measure.horizons),
            },
        }


def row_facts(row: Objective) -> dict[str, Any]:
    """The numbers of an objective; JSON has no infinity, and null is "no decay"."""
    facts = dataclasses.asdict(row)
    del facts["description"]
    return {key: None if value == math.inf else value for key, value in facts.items()}


def require_distinct(where: str, values: Sequence[Any]) -> None:
    """Raise `ValueError` where a list holds something twice."""
    twice = [value for value, times in Counter(values).items() if times > 1]
    if twice:
        raise ValueError(f"{where} holds {twice[0]} twice")
