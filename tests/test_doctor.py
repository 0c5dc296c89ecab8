from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import inventory, registry
from harness import probes as probing
from harness.cli import main
from harness.doctor import Diagnosis, diagnose
from harness.errors import UserError
from harness.inventory import DrafterProbe, TargetProbe
from harness.load import OtherLoad
from harness.probes import Gpu, Probes
from harness.registry import Entry
from tasks.hub import HUB, HubFiles, Snapshot

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
    hub_answers=True,
    drafters=(
        DrafterProbe(name="combined", target="embedded", state="here"),
        DrafterProbe(name="ngram", target="embedded", state="here"),
        DrafterProbe(name="foreign", target="embedded", state="refused", complaint="name a file."),
        DrafterProbe(name="combined", target="far", state="untrained"),
        DrafterProbe(name="ngram", target="far", state="here"),
        DrafterProbe(name="foreign", target="far", state="refused", complaint="name a file."),
    ),
    data_dir="/data",
    data_dir_exists=True,
    task_files={"gsm8k": 1, "mbpp": 2},
    task_places={},
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
        ({"data_dir": None}, "data", "-- HARNESS_DATA_DIR is not set; it names a directory with"),
        ({}, "hub", "ok answers"),
        ({"hub_answers": False}, "hub", "-- does not answer"),
        ({"hub_answers": False}, "target far", "-- is not here, and the hub does not answer; give"),
        ({"hub_answers": False}, "target embedded", "ok ready, about 0.9 GiB"),
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
        ({"load_share": None}, "load", "-- this system does not tell how busy it is"),
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


def texts(found: Diagnosis, name: str) -> list[str]:
    """All lines of this name."""
    return [f"{item.mark} {item.text}" for item in found.lines if item.name == name]


def test_a_target_that_no_hub_gives_is_not_counted_as_usable() -> None:
    found = seen(hub_answers=False)
    assert found.can_run and found.facts["targets"] == ["embedded"]
    far = (TargetProbe(name="far", state="download", needs_bytes=GB),)
    assert not seen(hub_answers=False, targets=far).can_run


def test_drafters_are_said_by_target_with_what_the_others_lack() -> None:
    assert texts(diagnose(WELL), "drafters") == [
        "ok for embedded: combined, ngram",
        "ok for far: ngram",
        "-- the others first: `python -m harness train --drafter NAME --target NAME`",
        "-- name a file.",
    ]


def test_tasks_are_said_by_the_place_their_prompts_come_from() -> None:
    places = {"gsm8k": "cache", "mbpp": "samples", "alpaca": "hub", "mine": "unknown"}
    assert texts(seen(data_dir=None, task_places=places), "data")[1:] == [
        "ok gsm8k: in the hub's cache",
        "-- alpaca: would be downloaded from the hub",
        "-- mbpp: our samples, which are not the benchmark, for the hub does not answer",
        "-- mine: from outside this project, not looked into",
    ]


def test_nothing_can_be_run_without_torch_or_a_target() -> None:
    assert not seen(broken={"torch": "absent"}, packages={}).can_run
    missing = TargetProbe(name="embedded", state="missing", needs_bytes=GB, complaint="install it")
    found = seen(targets=(missing,))
    assert not found.can_run
    assert line(found, "target embedded") == "!! install it"
    assert not seen(memory_free_bytes=1).can_run


def test_every_line_begins_with_a_mark() -> None:
    assert all(str(item)[:4] in ("ok  ", "--  ", "!!  ") for item in diagnose(WELL).lines)


def test_doctor_looks_at_this_machine_and_asks_the_hub_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("doctor opened a socket of its own")

    asked: list[bool] = []
    monkeypatch.setattr("harness.hub.is_reachable", lambda: asked.append(True))
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").touch()
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "deep" / "cache"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    status = main(["doctor"])
    out = capsys.readouterr().out.splitlines()
    facts = json.loads(out[-1])
    assert status == (0 if facts["can_run"] else 1)
    assert all(text[:4] in ("ok  ", "--  ", "!!  ") for text in out[:-1])
    probes = facts["probes"]
    assert probes["task_files"]["gsm8k"] == 1 and probes["task_files"]["mbpp"] == 0
    assert set(probes["packages"]) == {"torch", "transformers"}
    ready = {item["name"] for item in probes["drafters"] if item["state"] == "here"}
    assert ready >= {"combined", "uniform", "ngram"} and "dpace" not in ready
    assert len(asked) == 1
    assert bool(probes["sandbox"]) != bool(probes["sandbox_error"])
    assert probes["cache_writable"]
    assert probes["load_share"] is None or 0 <= probes["load_share"] <= 1
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
    monkeypatch.setattr(inventory, "_cached_bytes", lambda model: None)

    def needs(model: str) -> int | None:
        return inventory._target("x", Entry("a:b", "", {"model": model})).needs_bytes

    assert needs("Qwen/Qwen3-4B") == 8 * GB
    assert needs("meta-llama/Meta-Llama-3-8B-Instruct") == 16 * GB
    assert needs("a/Model-0.6b") == math.floor(1.2 * GB)
    assert needs("a/Base-model") is None
    assert inventory._target("x", Entry("a:b", "")).state == "unknown"


def test_the_embedded_target_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Path:
        raise UserError("the weights are missing; run pip.")

    monkeypatch.setattr("targets.smollm2.packaged_file", absent)
    found = inventory._target("smollm2", Entry("targets.smollm2:load", ""))
    assert (found.state, found.complaint) == ("missing", "the weights are missing; run pip.")


def test_a_target_that_can_be_fetched_is_said_to_be(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "_cached_bytes", lambda model: None)
    row = registry.resolve("targets", "qwen")
    found = inventory._target("qwen", row)
    assert found.state == "download" and "harness fetch qwen" in found.complaint
    monkeypatch.setattr("targets.qwen.is_fetched", lambda: True)
    assert inventory._target("qwen", row).state == "here"


def test_only_a_whole_download_counts_as_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def cached(model: str, name: str) -> str | None:
        path = tmp_path / name
        return str(path) if path.exists() else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    assert inventory._cached_bytes("a/b") is None
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10)
    assert inventory._cached_bytes("a/b") is None  # no tokenizer
    (tmp_path / "tokenizer.json").write_text("{}")
    assert inventory._cached_bytes("a/b") == 10
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"u": "one", "v": "two"}}))
    (tmp_path / "one").write_bytes(b"x" * 5)
    assert inventory._cached_bytes("a/b") is None
    (tmp_path / "two").write_bytes(b"x" * 7)
    assert inventory._cached_bytes("a/b") == 12
    index.write_text("{oops")
    assert inventory._cached_bytes("a/b") is None


def test_prompts_in_the_hubs_cache_are_told_from_those_to_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cached(files: HubFiles) -> Snapshot | None:
        return Snapshot("0" * 40, ()) if "gsm8k" in files.repo else None

    monkeypatch.setattr(HUB, "cached", cached)
    for answers, place in ((True, "hub"), (False, "samples")):
        found = inventory.task_places(hub_answers=answers)
        assert (found["gsm8k"], found["mbpp"]) == ("cache", place)


def test_a_drafter_is_here_trained_or_refused_with_a_reason() -> None:
    found = {item.name: item for item in inventory.drafters() if item.target == "smollm2"}
    assert found["ngram"].state == "here" and found["dpace"].state == "untrained"
    assert found["dflash"].state == "refused" and "dflash=PATH" in found["dflash"].complaint


def test_the_load_is_a_share_of_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = probing.os.cpu_count() or 1

    def closed(self: OtherLoad, *raised: object) -> None:
        self.cores = found

    monkeypatch.setattr(OtherLoad, "__exit__", closed)
    found: float | None = cores / 4
    assert probing._load_share() == 0.25
    found = None
    assert probing._load_share() is None
