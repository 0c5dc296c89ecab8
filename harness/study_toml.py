"""A study file, read and checked: every mistake is a sentence that names the key."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.objectives import Objective
from harness import registry
from harness.errors import UserError
from harness.reading import TOML_BYTES, read_text
from harness.study import (
    FACTORIAL,
    NOT_SHARED,
    Arm,
    Arms,
    Measure,
    Recipe,
    Study,
    require_distinct,
    row_facts,
)
from harness.typed_json import typed

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""Names of objectives become names of directories."""
_MOST_ARMS = 10_000
"""Every combination of the axes is one."""


def read_study(path: Path) -> Study:
    """Read and check a study file; paths in it are relative to the working directory.

    Raises:
        UserError: it cannot be read, or something in it is unknown, missing or impossible; the
            message names the key.
    """
    try:
        body = tomllib.loads(read_text(path, TOML_BYTES))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}.") from error
    try:
        return _study(body)
    except ValueError as error:
        end = "" if str(error).endswith("?") else "."
        raise UserError(f"{path}: {error}{end}") from error


def _study(body: dict[str, Any]) -> Study:
    _refuse_unknown("the study", body, ("train", "arms", "objectives", "measure"))
    tables = {name: _subtable(body, name) for name in ("train", "arms", "objectives", "measure")}
    for key, place in NOT_SHARED.items():
        if key in tables["train"]:
            raise ValueError(f"train.{key} differs between arms; write it as {place}")
    train = _build(TrainConfig, tables["train"], "train")
    axes = _build(Arms, tables["arms"], "arms")
    for name in ("objectives", "seeds", "steps", "block_size", "learning_rate", "responses"):
        if name in tables["arms"] and not getattr(axes, name):
            raise ValueError(f"arms.{name} is empty; give it a value or leave it out")
        require_distinct(f"arms.{name}", getattr(axes, name))
    _refuse_many(axes)
    objectives = _objectives(axes.objectives, tables["objectives"])
    study = Study(
        train=train,
        objectives=objectives,
        arms=_arms(axes, train, tuple(objectives)),
        measure=_build(Measure, tables["measure"], "measure"),
    )
    for arm in study.arms:
        study.config(arm)  # refuses what cannot be trained
    return study


def _refuse_many(axes: Arms) -> None:
    sizes = [len(getattr(axes, item.name)) or 1 for item in dataclasses.fields(axes)]
    if math.prod(sizes) > _MOST_ARMS:
        raise ValueError(
            f"arms asks for {math.prod(sizes):,} trainings; {_MOST_ARMS:,} are the most"
        )


def _arms(axes: Arms, train: TrainConfig, objectives: Sequence[str]) -> tuple[Arm, ...]:
    """Every combination: small budgets first, arms that can be trained in step together."""
    combinations = itertools.product(
        sorted(axes.steps),
        axes.responses or (getattr(train, "responses", "target"),),
        axes.block_size or (train.block_size,),
        axes.learning_rate or (train.learning_rate,),
        axes.seeds,
        objectives,
    )
    for seed in axes.seeds:
        if seed < 0:
            raise ValueError(f"arms.seeds must be at least 0, not {seed}")
    for rate in (train.learning_rate, *axes.learning_rate):
        if not 0 < rate < math.inf:
            raise ValueError(f"learning_rate must be above 0, not {rate:g}")
    return tuple(
        Arm(
            recipe=Recipe(
                objective=objective,
                steps=steps,
                block_size=block_size,
                learning_rate=float(learning_rate),
                responses=responses,
            ),
            seed=seed,
        )
        for steps, responses, block_size, learning_rate, seed, objective in combinations
    )


def _objectives(names: Sequence[str], own: Mapping[str, Any]) -> dict[str, Objective]:
    """The rows that are trained, by name."""
    rows: dict[str, Objective] = {}
    known = registry.table("objectives")
    for name, body in own.items():
        if not _NAME.fullmatch(name) or name == "factorial":
            raise ValueError(f"objectives.{name!r} is no name; use letters, digits and _ . + -")
        if name in known or name in FACTORIAL:
            raise ValueError(f"objectives.{name} is taken: that name always means its own numbers")
        if name not in names:
            raise ValueError(f"objectives.{name} is in no arm; name it in arms.objectives")
        if not isinstance(body, dict):
            raise ValueError(f"objectives.{name} should be a table of numbers")
        rows[name] = _build(Objective, body, f"objectives.{name}")
    chosen: dict[str, Objective] = {}
    for name in names:
        if name == "factorial":
            chosen.update(FACTORIAL)
        elif name in rows or name in FACTORIAL:
            chosen[name] = rows.get(name) or FACTORIAL[name]
        elif name in known:
            chosen[name] = registry.load("objectives", name)
        else:
            near = registry.near_misses(name, ["factorial", *known, *own])
            raise ValueError(f"arms.objectives holds the unknown {name!r}; {near.rstrip('.')}")
    for (first, row), (second, other) in itertools.combinations(chosen.items(), 2):
        if row_facts(row) == row_facts(other):
            raise ValueError(f"objectives {first} and {second} are the same numbers")
    return chosen


def _build(form: type[T], body: Mapping[str, Any], where: str) -> T:
    """A dataclass from a table."""
    hints = get_type_hints(form)
    fields = {item.name: item for item in dataclasses.fields(form)}  # type: ignore[arg-type]
    _refuse_unknown(where, body, tuple(fields))
    for name, item in fields.items():
        if name not in body and item.default is item.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name} is missing")
    values = {key: _value(hints[key], value, f"{where}.{key}") for key, value in body.items()}
    try:
        return form(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _value(form: Any, value: Any, where: str) -> Any:
    """A value as its field wants it; TOML has no paths."""
    if form is Path or Path in get_args(form):
        if get_args(form)[-1:] == (...,):
            return tuple(Path(text) for text in typed(tuple[str, ...], value, where))
        return Path(typed(str, value, where))
    made = typed(form, value, where)
    for number in made if isinstance(made, tuple) else (made,):
        if isinstance(number, float) and math.isnan(number):
            raise ValueError(f"{where} is no number")
    return made


def _subtable(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = body.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name} should be a table; write [{name}]")
    if name == "arms" and not table:
        raise ValueError("[arms] is missing; it lists objectives, seeds and steps")
    return table


def _refuse_unknown(where: str, body: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in body:
        if key not in known:
            near = registry.near_misses(key, known).rstrip(".")
            raise ValueError(f"{where} has no key {key!r}; {near}")
