"""Training in two processes is training in one: the same curve, the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.sittings import Sitting
from tests.tiny_model import write_model, write_prompts

Curves = dict[str, list[float]]


def train(root: Path, num_processes: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Train three variants into ``root``; returns what the last process printed."""
    sizes = {"steps": 8, "batch-size": 3, "num-anchors": 6, "block-size": 4, "num-layers": 1}
    sizes |= {"num-features": 2, "train-vocab-size": 0, "max-new-tokens": 16, "save-every": 3}
    numbers = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    model = write_model(root / "model")
    prompts = write_prompts(root / "prompts.jsonl", 18)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(root / "cache"))
    arguments = [
        *("train", "--drafter", "uniform,combined,vp", "--target", str(model)),
        *("--data", str(prompts), "--output-dir", str(root / "out")),
        *("--dtype", "float32", "--device", "cpu", *numbers),
    ]
    sitting = Sitting(arguments, root / "log", num_processes)
    assert sitting.wait(120)
    assert sitting.statuses == [0] * num_processes, (root / "log.err0").read_text()
    return (root / f"log.out{num_processes - 1}").read_text()


def outcome(root: Path, name: str) -> tuple[dict[str, torch.Tensor], Curves, dict[str, Any]]:
    """Weights, curves and record of one drafter."""
    directory = root / "out" / name
    body = json.loads((directory / "training.json").read_text())
    names = body["measured"][0].keys()
    curves = {name: [entry[name] for entry in body["measured"]] for name in names}
    return load_file(directory / "model.safetensors"), curves, body


def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of two and one, and of one and none: an epoch is 3 + 3 + 3 + 3 + 3 + 1."""
    assert "combined" in train(tmp_path / "alone", 1, monkeypatch)
    assert train(tmp_path / "both", 2, monkeypatch) == ""
    for drafter in ("combined", "vp"):
        weights, curves, record = outcome(tmp_path / "both", drafter)
        expected, expected_curves, expected_record = outcome(tmp_path / "alone", drafter)
        assert (record["num_processes"], expected_record["num_processes"]) == (2, 1)
        assert record["data"]["num_sequences"] == 16
        for name, values in expected_curves.items():
            np.testing.assert_allclose(curves[name], values, rtol=1e-4, atol=1e-6, err_msg=name)
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
