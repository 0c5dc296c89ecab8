"""Training in two processes is training in one: the same curve, the same weights."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_model import write_model, write_prompts


def start(flags: list[str], cache: Path, rank: int, size: int, port: int) -> subprocess.Popen[str]:
    """One process of ``size``, as a launcher starts it."""
    world = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = {"HARNESS_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **world, **place, **meeting, **own},
    )


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each printed, when all have ended well."""
    ended = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, ended, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in ended]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    model = write_model(tmp_path / "model")
    prompts = write_prompts(tmp_path / "prompts.jsonl", 18)
    sizes = {"steps": 8, "batch-size": 3, "num-anchors": 6, "block-size": 4, "num-layers": 1}
    sizes |= {"num-features": 2, "train-vocab-size": 0, "max-new-tokens": 16, "save-every": 3}
    numbers = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    return [
        *("train", "--drafter", "uniform,combined", "--target", str(model)),
        *("--data", str(prompts), "--dtype", "float32", "--device", "cpu", *numbers),
    ]


def outcome(
    root: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, list[float]], dict[str, Any]]:
    """Weights, curves and record of the combined drafter."""
    body = json.loads((root / "combined" / "training.json").read_text())
    names = body["measured"][0].keys()
    curves = {name: [entry[name] for entry in body["measured"]] for name in names}
    return load_file(root / "combined" / "model.safetensors"), curves, body


def test_two_processes_train_as_one(flags: list[str], tmp_path: Path) -> None:
    """Shares of two and one, and of one and none: an epoch is 3 + 3 + 3 + 3 + 3 + 1."""
    alone = [*flags, "--output-dir", str(tmp_path / "alone")]
    finish([start(alone, tmp_path / "cache1", 0, 1, free_port())])
    port = free_port()
    both = [*flags, "--output-dir", str(tmp_path / "both")]
    first, second = finish([start(both, tmp_path / "cache2", rank, 2, port) for rank in (0, 1)])
    assert "combined" in first and second == ""
    weights, curves, record = outcome(tmp_path / "both")
    expected, expected_curves, expected_record = outcome(tmp_path / "alone")
    assert (record["num_processes"], expected_record["num_processes"]) == (2, 1)
    assert record["data"]["num_sequences"] == 16
    for name, values in expected_curves.items():
        np.testing.assert_allclose(curves[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
