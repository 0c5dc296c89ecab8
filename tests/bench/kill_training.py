"""Kills a training at random moments, starts it again, and compares the weights it ends in.

    python -m tests.bench.kill_training --kills 10

A tiny model, float32, on a CPU. A kill is SIGKILL: between two snapshots, while one is written,
while responses or features are made.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from safetensors.torch import load_file

from tests.sittings import Sitting
from tests.tiny_model import write_model, write_prompts

DRAFTERS = ("uniform", "combined")
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often to kill, and what."""

    kills: int = 10
    """Sittings to kill."""
    steps: int = 400
    """Of the training."""
    save_every: int = 7
    """Steps between snapshots."""
    seed: int = 0
    """Of the moments."""


def main() -> int:
    """Train once in peace and once under fire; print where it was hit."""
    options = tyro.cli(Options)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "model")
        write_prompts(root / "prompts.jsonl", 60)
        started = time.perf_counter()
        _finish(_start(root, "peace", options))
        whole_s = time.perf_counter() - started
        steps: list[int] = []
        places = itertools.count()
        while len(steps) < options.kills:
            place = f"fire{next(places)}"
            while True:
                sitting = _start(root, place, options)
                deadly = len(steps) < options.kills
                moment_s = draw.uniform(0, 2 * whole_s / options.kills) if deadly else _PATIENCE_S
                if sitting.wait(moment_s):
                    assert sitting.statuses == [0], sitting.statuses
                    break
                assert deadly, f"a training did not end in {_PATIENCE_S} s"
                sitting.kill([0])
                assert sitting.wait(10)
                steps.append(_last_step(root / place))
            _compare(root / "peace", root / place)
    print(f"snapshots after each kill at steps {', '.join(map(str, steps))} of {options.steps}")
    print(f"{len(steps)} kills; weights of {' and '.join(DRAFTERS)} equal bit for bit")
    return 0


def _compare(peace: Path, fire: Path) -> None:
    for drafter in DRAFTERS:
        expected, found = (
            load_file(place / "out" / drafter / "model.safetensors") for place in (peace, fire)
        )
        for key, value in expected.items():
            assert torch.equal(value, found[key]), f"{drafter}: {key} differs"


def _start(root: Path, place: str, options: Options) -> Sitting:
    sizes = {"steps": options.steps, "save-every": options.save_every, "batch-size": 3}
    sizes |= {"num-anchors": 6, "block-size": 4, "num-layers": 1, "num-features": 2}
    sizes |= {"train-vocab-size": 0, "max-new-tokens": 16}
    numbers = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    os.environ["HARNESS_CACHE_DIR"] = str(root / place / "cache")
    arguments = [
        *("train", "--drafter", ",".join(DRAFTERS), "--target", str(root / "model")),
        *("--data", str(root / "prompts.jsonl"), "--output-dir", str(root / place / "out")),
        *("--dtype", "float32", "--device", "cpu", *numbers),
    ]
    return Sitting(arguments, root / place / "log")


def _finish(sitting: Sitting) -> None:
    assert sitting.wait(_PATIENCE_S) and sitting.statuses == [0], sitting.statuses


def _last_step(place: Path) -> int:
    """Of the snapshots there."""
    found = [torch.load(path)["step"] for path in (place / "cache" / "training").glob("*.pt")]
    return min(found, default=0)


if __name__ == "__main__":
    sys.exit(main())
