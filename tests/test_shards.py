"""One run on several processes: the same records as one, whatever becomes of the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_directories import config, generation, write_run
from timeless import OF_THE_MOMENT, timeless_records

from harness import metrics, registry, shards
from harness.cli import main
from harness.config import RunConfig
from harness.errors import UserError
from harness.plan import Plan, make_plan
from harness.records import Failure
from harness.runner import run
from harness.shards import Place, Ring
from reports.leaderboard import Comparison, notes
from reports.run import comparable_groups, conditions, load_run

NUM_RECORDS = 15
LAUNCHED = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def flags(toy_plugin: Path) -> list[str]:
    return [
        *("--target", "toy", "--tasks", "counting", "--device", "cpu", "--baseline", "ar_loop"),
        *("--max-new-tokens", "12", "--drafter", "oracle,fool", "--plugin", str(toy_plugin)),
    ]


@pytest.fixture
def whole(toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of one process."""
    registry.load_plugin(toy_plugin)
    settings: dict[str, Any] = {"target": "toy", "tasks": ("counting",), "device": "cpu"}
    config = RunConfig(
        baseline=("ar_loop",),
        max_new_tokens=12,
        drafter=("oracle", "fool"),
        output_dir=tmp_path / "whole",
        **settings,
    )
    result = run(make_plan(config), ["run"])
    return result.files.directory


def plan_of(toy_plugin: Path) -> Plan:
    registry.load_plugin(toy_plugin)
    settings: dict[str, Any] = {"target": "toy", "tasks": ("counting",), "device": "cpu"}
    return make_plan(RunConfig(drafter=("oracle",), **settings))


def start(flags: list[str], output_dir: Path, rank: int, port: int) -> subprocess.Popen[str]:
    """One of two processes, as a launcher starts it."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *flags, "--output-dir", str(output_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **place, **world, **meeting, "TOY_PAUSE_S": "0.3"},
    )


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shards.place() == Place()
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert shards.place() == Place(rank=3, size=4, local_rank=1, local_size=2)
    monkeypatch.delenv("LOCAL_RANK")
    assert shards.place() == Place()


@given(count=st.integers(0, 20), local_size=st.integers(1, 8))
def test_processes_of_a_host_have_gpus_of_their_own(count: int, local_size: int) -> None:
    shares = [
        Place(local_rank=rank, local_size=local_size).gpus(count) for rank in range(local_size)
    ]
    given_out = [gpu for share in shares for gpu in share]
    assert given_out == list(range(count - count % local_size))
    assert {len(share) for share in shares} == {count // local_size}


def test_a_process_takes_the_first_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert shards.gpus("cuda") == (4, 5, 6, 7)
    assert shards.gpus("cuda:1") == shards.gpus("cpu") == ()
    shards._take_device(shards.place(), "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    shards._take_device(shards.place(), "cuda")
    assert taken == [4, 1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="2 processes were started here, but there are 1 GPUs"):
        shards._take_device(shards.place(), "cuda")


def test_shares_are_a_partition(toy_plugin: Path) -> None:
    plan = plan_of(toy_plugin)

    @given(size=st.integers(min_value=1, max_value=6))
    def check(size: int) -> None:
        shares = [Place(rank=rank, size=size).share(plan) for rank in range(size)]
        asked = [
            (task, prompt.prompt_id)
            for share in shares
            for task, chosen in share.tasks.items()
            for prompt in chosen.prompts
        ]
        assert sorted(asked) == [("counting", f"p{number}") for number in range(4)]
        assert sum(share.num_generations for share in shares) == plan.num_generations
        assert all(chosen.prompts for share in shares for chosen in share.tasks.values())

    check()


def test_only_answers_are_signed() -> None:
    place = Place(rank=3, size=4, local_rank=1, local_size=2)
    failure = Failure(task="a", prompt_id="0", turn=1, method="m", repeat=0, error="E")
    signed = place.sign(generation(accepted=[1]))
    assert (signed.process, signed.num_processes) == (1, 2)  # type: ignore[union-attr]
    assert place.sign(failure) is failure
    with pytest.raises(ValueError, match="process 2 is none of 2"):
        generation(accepted=[1], process=2, num_processes=2)


def test_times_come_from_one_process_a_host_and_tau_from_all(tmp_path: Path) -> None:
    def answers(method: str, seconds: tuple[float, float], accepted: int) -> Iterator[Any]:
        for process in (0, 1):
            yield generation(
                method=method,
                prompt_id=str(process),
                accepted=[accepted + process],
                decode_s=seconds[process],
                process=process,
                num_processes=2,
            )

    slow, fast = list(answers("ar_loop", (2.0, 9.0), 0)), list(answers("combined", (2.0, 1.0), 3))
    assert metrics.tau(fast) == (4 + 5) / 2
    assert metrics.tokens_per_s(fast) == 4 / 2.0
    assert metrics.speedup(slow, fast) == (4 / 2.0) / (1 / 2.0)
    assert metrics.speedup_end_to_end(slow, fast) == 1.0
    assert metrics.seconds_per_round(fast) == 2.0
    run = load_run(write_run(tmp_path / "run", [*slow, *fast], config()))
    (group,) = comparable_groups([run])
    text = " ".join(notes(Comparison.of(group)))
    assert "2 processes at work on a host" in text and "(2 of 4 answers)" in text
    assert conditions(run)["processes a host"] == "2"


def test_processes_must_be_alike() -> None:
    ring = Ring(Place(rank=0, size=1), "cpu")
    assert ring.exchange({"a": 1}) == [{"a": 1}]
    ring.place = Place(rank=1, size=2)
    ring.require_alike([{"a": 1, "directory": "x"}, {"a": 1, "directory": None}])
    with pytest.raises(UserError, match="process 1 is not like process 0: a is 2, there 1"):
        ring.require_alike([{"a": 1, "directory": "x"}, {"a": 2, "directory": None}])


def test_training_first_is_for_one_process(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert main(["run", *flags, "--train-if-missing"]) == 2
    assert "call harness train first" in capsys.readouterr().err


def test_two_processes_write_the_records_of_one(
    flags: list[str], whole: Path, tmp_path: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = subprocess.run(
        [sys.executable, *launcher, "-m", "harness", "run", *flags, "--output-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    summary = json.loads(found.stdout.splitlines()[-1])
    assert found.stdout.count('"run_id"') == 1
    assert (summary["num_generations"], summary["num_failures"]) == (NUM_RECORDS, 0)
    directory = Path(summary["run_dir"])
    assert timeless_records(directory) == timeless_records(whole)
    lines = (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["process"] for line in lines} == {0, 1}
    assert not list(directory.glob("records.rank*"))


def test_a_process_that_dies_ends_the_others_and_nothing_is_lost(
    flags: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "runs"
    port = 20000 + os.getpid() % 10000
    first, second = (start(flags, output_dir, rank, port) for rank in (0, 1))
    while not any(path.stat().st_size for path in output_dir.glob("[!.]*/records.rank1.jsonl")):
        assert second.poll() is None, second.communicate()
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    out, err = first.communicate(timeout=60)
    second.communicate()
    assert first.returncode == 2
    sentence = "error: process 0 stops: another process of this run ended early"
    assert err.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in err and out == ""
    (config_path,) = output_dir.glob("[!.]*/config.json")
    directory = config_path.parent
    measured = list(load_run(directory).generations)
    assert {item.process for item in measured} == {0, 1}
    resumed = ["run", *flags, "--output-dir", str(output_dir), "--resume", directory.name]
    assert main(resumed) == 0
    assert f"resuming with {len(measured)} of {NUM_RECORDS}" in capsys.readouterr().err
    assert timeless_records(directory) == timeless_records(whole)
    assert set(measured) <= set(load_run(directory).generations)


def test_fields_of_the_moment_are_fields_of_a_generation() -> None:
    known = set(generation(accepted=[1]).__dataclass_fields__)
    assert known >= OF_THE_MOMENT - {"other_load"}
