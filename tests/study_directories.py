"""Synthetic studies: answers with chosen accepted lengths, so that every number is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.study import Arm
from harness.study_files import StudyFiles, StudyWriter, note_bench, open_study, prepare
from harness.study_records import HELD_BACK, Finished, Measurement, Replayed
from harness.study_toml import read_study
from harness.waste import Slots

HORIZON = 4
ENVIRONMENT: dict[str, Any] = {
    "commit": "c" * 40,
    "dirty": False,
    "argv": ["study", "x.toml"],
    "versions": {"torch": "2.13.0"},
    "hardware": {"cpu": "Some CPU", "gpu": None, "num_cores": 2, "num_threads": 1},
    "started_at": "2026-11-22T10:00:00+00:00",
}
BENCH = {
    "target": {"name": "smollm2", "model": "a model", "weights_sha256": "a" * 64},
    "data": {"name": "corpus", "sha256": "d" * 64, "num_sequences": 100},
}
ANSWER = 12
"""Tokens that rounds commit in every answer: it divides by 1, 2, 3 and 4."""


def replayed(
    task: str,
    prompt_id: str,
    accepted: Sequence[int],
    rewards: Sequence[float | None] | None = None,
    horizon: int = HORIZON,
) -> Replayed:
    """An answer whose rounds all offer a whole block and throw nothing correct away."""
    depth = horizon - 1
    return Replayed(
        task=task,
        prompt_id=prompt_id,
        turn=1,
        num_tokens=1 + sum(accepted) + len(accepted),
        accepted=tuple(accepted),
        depths=(depth,) * len(accepted),
        slots=Slots(
            accepted=sum(accepted),
            bonus=len(accepted),
            wasted=0,
            wrong=depth * len(accepted) - sum(accepted),
            behind_end=0,
        ),
        rewards=None if rewards is None else tuple(rewards),
    )


def answers(taus: Mapping[str, Sequence[int]], *, rewards: bool = False) -> tuple[Replayed, ...]:
    """By task, the τ of each prompt: 1, 2, 3 or 4."""
    return tuple(
        replayed(
            task,
            f"p{place}",
            [tau - 1] * (ANSWER // tau),
            [tau / 10 + k / 1000 for k in range(ANSWER // tau)] if rewards else None,
        )
        for task, of_prompts in taus.items()
        for place, tau in enumerate(of_prompts)
    )


def measurement(
    arm: Arm,
    taus: Mapping[str, Sequence[int]],
    *,
    step: int | None = None,
    horizon: int = HORIZON,
    loss: float | None = 1.0,
    train_time_tau: float | None = 1.5,
    rewards: bool = False,
) -> Measurement:
    """By task, the τ of each prompt."""
    return Measurement(
        arm=arm,
        step=arm.recipe.steps if step is None else step,
        horizon=horizon,
        loss=loss,
        train_time_tau=train_time_tau,
        replayed=answers(taus, rewards=rewards),
    )


def finished(arm: Arm, name: str) -> Finished:
    """A training that is done."""
    return Finished(
        arm=arm,
        checkpoint=f"checkpoints/{name}",
        weights_sha256="b" * 64,
        num_sequences=100,
        train_s=10.0,
        num_parameters=1000,
        initial_weights="random",
    )


def source(kind: str) -> dict[str, Any]:
    """Where the prompts of a task came from."""
    return {"run_id": "r", "num_prompts": 6, "kind": kind, "location": "x", "digest": "e" * 64}


def write_study(
    directory: Path,
    text: str,
    taus: Callable[[Arm], Mapping[str, Sequence[int]]],
    kind: str = "directory",
) -> StudyFiles:
    """A finished study of a file's ``text``, measured as ``taus`` says, halfway and at the end."""
    path = directory.parent / f"{directory.name}.toml"
    path.write_text(text, encoding="utf-8")
    study = read_study(path)
    files = prepare(directory)
    tasks = [task for task in taus(study.arms[0]) if task != HELD_BACK]
    open_study(files, study, {task: source(kind) for task in tasks}, ENVIRONMENT)
    note_bench(files, "target", BENCH)
    with StudyWriter(files) as writer:
        for arm in study.arms:
            held_back = {"held_back": taus(arm)["held_back"][:4]}
            half = arm.recipe.steps // 2
            writer.append(measurement(arm, held_back, step=half, loss=2.0, train_time_tau=1.2))
            for horizon in dict.fromkeys((arm.recipe.block_size, *study.measure.horizons)):
                writer.append(
                    measurement(arm, taus(arm), horizon=horizon, rewards=horizon == HORIZON)
                )
            writer.append(finished(arm, study.name(arm)))
    return files
