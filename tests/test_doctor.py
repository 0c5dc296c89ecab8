from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from harness import probes as probing
from harness.cli import main
from harness.doctor import Diagnosis, diagnose
from harness.errors import UserError
from harness.probes import Gpu, Probes, TargetProbe
from harness.registry import Entry

GB = 10**9

WELL = Probes(
    python="3.11.9",
    packages={"torch": "2.13.0", "transformers": "5.23.0"},
    broken={},
    cpu="Example CPU",
    num_cores=8,
    num_threads=4,
    bf16_features=("AMX",),
    packs=True,
    memory_bytes=32 * GB,
    memory_free_bytes=20 * GB,
    cache_dir="/cache",
    cache_writable=True,
    cache_free_bytes=50 * GB,
    hub_free_bytes=50 * GB,
    gpus=(),
    gpu_error="",
    targets=(
        TargetProbe(name="embedded", state="here", needs_bytes=GB),
        TargetProbe(name="far", state="download", needs_bytes=8 * GB),
    ),
    drafters={"embedded": ("combined", "uniform"), "far": ()},
    data_dir="/data",
    data_dir_exists=True,
    task_files={"gsm8k": 1, "mbpp": 2},
    sandbox={"memory": True, "file_size": True},
    sandbox_error="",
    load_share=0.02,
)


def seen(**changes: Any) -> Diagnosis:
    return diagnose(dataclasses.replace(WELL, **changes))


def line(found: Diagnosis, name: str) -> str:
    """The one line of this name, its mark included."""
    lines = [f"{item.mark} {item.text}" for item in found.lines if item.name == name]
    assert len(lines) == 1
    return lines[0]


def test_a_good_machine_has_no_problem() -> None:
    found = diagnose(WELL)
    assert found.can_run and found.facts["problems"] == []
    assert found.facts["targets"] == ["embedded", "far"]
    assert {item.mark for item in found.lines} == {"ok", "--"}
    assert line(found, "cpu") == "ok Example CPU, 8 cores, torch uses 4 threads"
    assert line(found, "target embedded") == "ok ready, about 0.9 GiB of weights"
    assert line(found, "target far").startswith("-- would fit; --target far downloads it")
    assert line(found, "data") == "ok gsm8k, mbpp in /data"
    assert json.loads(json.dumps(found.facts))["probes"]["num_cores"] == 8


@pytest.mark.parametrize(
    ("changes", "name", "expected"),
    [
        (
            {"broken": {"torch": "no libcudart"}},
            "torch",
            "!! cannot be imported (no libcudart); run",
        ),
        ({"bf16_features": ()}, "bfloat16", "-- no matrix instructions found"),
        ({"packs": False}, "packed weights", "-- not on this CPU or torch"),
        ({"gpu_error": "driver too old"}, "gpu", "!! torch cannot use it (driver too old); check"),
        ({"gpus": (Gpu(name="H100", free_bytes=2**30, total_bytes=2**32),)}, "gpu", "ok H100, 1.0"),
        ({"cache_writable": False}, "user cache", "!! /cache cannot be written; point HARNESS_CAC"),
        ({"cache_free_bytes": GB // 10}, "user cache", "!! 0.1 GiB free at /cache; converting"),
        ({"memory_free_bytes": 5 * GB}, "target far", "-- needs about 7.5 GiB in bfloat16 and 4.7"),
        ({"hub_free_bytes": 5 * GB}, "target far", "-- is a download of about 7.5 GiB and 4.7 GiB"),
        (
            {"gpus": (Gpu(name="small", free_bytes=4 * GB, total_bytes=8 * GB),)},
            "target far",
            "-- needs about 7.5 GiB in bfloat16 and 3.7 GiB of the GPU are free",
        ),
        ({"data_dir": None}, "data", "-- HARNESS_DATA_DIR is not set: prompts come from the hub"),
        ({"data_dir_exists": False}, "data", "!! HARNESS_DATA_DIR is /data, which is no directory"),
        ({"task_files": {"gsm8k": 0}}, "data", "!! no files of gsm8k in /data; add them, or"),
        ({}, "generated code", "ok held back in memory, file size"),
        (
            {"sandbox": {"memory": True, "file_size": False}},
            "generated code",
            "-- not held back here: file size; score it in",
        ),
        ({"sandbox": {}, "sandbox_error": "no uid"}, "generated code", "-- no uid"),
        ({"load_share": 0.5}, "load", "!! other processes use 50 % of the cores; timings would"),
        ({"load_share": 0.1}, "load", "ok other processes use 10 % of the cores"),
    ],
)
def test_what_each_finding_says(changes: dict[str, Any], name: str, expected: str) -> None:
    if "broken" in changes:
        changes["packages"] = {}
    assert line(seen(**changes), name).startswith(expected)


def test_tasks_without_files_name_the_others() -> None:
    found = seen(task_files={"gsm8k": 1, "mbpp": 0})
    texts = [f"{item.mark} {item.text}" for item in found.lines if item.name == "data"]
    assert texts[0] == "ok gsm8k in /data"
    assert texts[1].startswith("!! no files of mbpp in /data; run with --tasks gsm8k, or add them")


def test_nothing_can_be_run_without_torch_or_a_target() -> None:
    assert not seen(broken={"torch": "absent"}, packages={}).can_run
    missing = TargetProbe(name="embedded", state="missing", needs_bytes=GB, complaint="install it")
    found = seen(targets=(missing,))
    assert not found.can_run
    assert line(found, "target embedded") == "!! install it"
    assert not seen(memory_free_bytes=1).can_run


def test_every_line_begins_with_a_mark() -> None:
    assert all(str(item)[:4] in ("ok  ", "--  ", "!!  ") for item in diagnose(WELL).lines)


def test_doctor_looks_at_this_machine_without_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("doctor opened a socket")

    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").touch()
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "deep" / "cache"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(probing, "_LOAD_WINDOW_S", 0.05)
    status = main(["doctor"])
    out = capsys.readouterr().out.splitlines()
    facts = json.loads(out[-1])
    assert status == (0 if facts["can_run"] else 1)
    assert all(text[:4] in ("ok  ", "--  ", "!!  ") for text in out[:-1])
    probes = facts["probes"]
    assert probes["task_files"]["gsm8k"] == 1 and probes["task_files"]["mbpp"] == 0
    assert set(probes["packages"]) == {"torch", "transformers"}
    assert set(probes["drafters"]["smollm2"]) >= {"combined", "uniform"}
    assert bool(probes["sandbox"]) != bool(probes["sandbox_error"])
    assert probes["cache_writable"] and 0 <= probes["load_share"] <= 1
    assert not (tmp_path / "deep").exists()


def test_doctor_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--zzz"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_broken_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    packages, broken = probing._imports()
    assert list(packages) == ["transformers"] and "torch" in broken["torch"]


def test_the_size_of_a_target_that_is_not_here_is_in_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probing, "_cached_bytes", lambda model: None)

    def needs(model: str) -> int | None:
        return probing._target("x", Entry("a:b", "", {"model": model})).needs_bytes

    assert needs("Qwen/Qwen3-4B") == 8 * GB
    assert needs("meta-llama/Meta-Llama-3-8B-Instruct") == 16 * GB
    assert needs("a/Model-0.6b") == math.floor(1.2 * GB)
    assert needs("a/Base-model") is None
    assert probing._target("x", Entry("a:b", "")).state == "unknown"


def test_the_embedded_target_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise UserError("the weights are missing; run pip.")

    monkeypatch.setattr("targets.smollm2.gguf_file", absent)
    found = probing._target("smollm2", Entry("targets.smollm2:load", ""))
    assert (found.state, found.complaint) == ("missing", "the weights are missing; run pip.")


def test_only_a_whole_download_counts_as_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def cached(model: str, name: str) -> str | None:
        path = tmp_path / name
        return str(path) if path.exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert probing._cached_bytes("a/b") is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
    assert probing._cached_bytes("a/b") == 10
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"u": "one", "v": "two"}}))
    (tmp_path / "one").write_bytes(b"x" * 5)
    assert probing._cached_bytes("a/b") is None
    (tmp_path / "two").write_bytes(b"x" * 7)
    assert probing._cached_bytes("a/b") == 12
    index.write_text("{oops")
    assert probing._cached_bytes("a/b") is None


def test_own_work_is_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """All cores busy, and this process is all of it; then half of it."""
    cores = probing.os.cpu_count() or 1
    clock = iter([0.0, 1.0, 0.0, 1.0])
    used = iter([(0.0, 0.0), (cores - 0.5, 0.5), (0.0, 0.0), (cores / 2, 0.0)])

    class Own:
        def cpu_times(self) -> SimpleNamespace:
            user, system = next(used)
            return SimpleNamespace(user=user, system=system)

    monkeypatch.setattr(psutil, "Process", Own)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 100.0)
    monkeypatch.setattr(probing.time, "perf_counter", lambda: next(clock))
    assert probing._load_share() == pytest.approx(0.0)
    assert probing._load_share() == pytest.approx(0.5)
