"""What a run survives: full disks, broken plug-ins, Ctrl-C, and being killed at any moment."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from timeless import timeless_records

from harness import registry
from harness.cli import main
from harness.records import Failure, Generation, read_records
from reports.terminal import Published

NUM_TURNS = 5


@pytest.fixture
def flags(toy_plugin: Path, tmp_path: Path) -> list[str]:
    registry.load_plugin(toy_plugin)
    return [
        *("run", "--target", "toy", "--tasks", "counting", "--device", "cpu"),
        *("--baseline", "ar_loop", "--max-new-tokens", "8", "--drafter", "broken,oracle"),
        *("--plugin", str(toy_plugin), "--output-dir", str(tmp_path / "runs")),
    ]


@pytest.fixture
def toy(flags: list[str]) -> Any:
    """The plug-in's module; its ``BrokenDrafter`` works until a test breaks it."""
    module = sys.modules["my_counter"]
    del module.BrokenDrafter.start
    return module


def run_directory(tmp_path: Path) -> Path:
    (config,) = (tmp_path / "runs").glob("[!.]*/config.json")
    return config.parent


def failures(tmp_path: Path) -> list[Failure]:
    records = read_records(run_directory(tmp_path) / "records.jsonl")
    return [record for record in records if isinstance(record, Failure)]


def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the page, which takes longer than the run."""

    def write(runs: Any, output_dir: Path, *, whole: bool) -> Published:
        path = output_dir / "leaderboard.md"
        path.write_text("", encoding="utf-8")
        return Published(text="", markdown=path, html=path)

    monkeypatch.setattr("reports.terminal.publish_leaderboard", write)


def raiser(error: BaseException) -> Callable[..., Any]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise error

    return refuse


@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("start", torch.OutOfMemoryError("full")),
        ("propose", ValueError("a\nb")),
        ("propose", MemoryError()),
        ("observe", SystemExit(0)),
        ("reset", RuntimeError()),
    ],
    ids=str,
)
def test_a_drafter_that_always_raises_is_failures(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    error: BaseException,
) -> None:
    monkeypatch.setattr(toy.BrokenDrafter, verb, raiser(error), raising=False)
    without_page(monkeypatch)
    assert main(flags) == 1
    captured = capsys.readouterr()
    found = failures(tmp_path)
    assert [item.method for item in found] == ["broken"] * NUM_TURNS
    assert all(item.error.startswith(type(error).__name__) for item in found)
    assert json.loads(captured.out.splitlines()[-1])["num_generations"] == 2 * NUM_TURNS
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("garbage", [None, [1, 2], torch.zeros(2, 2)], ids=type)
def test_a_proposal_of_a_wrong_type_is_a_failure(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    garbage: object,
) -> None:
    without_page(monkeypatch)
    monkeypatch.setattr(toy.BrokenDrafter, "propose", lambda *rest: garbage, raising=False)
    assert main(flags) == 1
    assert len(failures(tmp_path)) == NUM_TURNS


@pytest.mark.parametrize(
    "error", [ValueError("no\nweights"), SystemExit(0)], ids=lambda error: type(error).__name__
)
def test_a_drafter_that_cannot_be_built_is_one_sentence(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    monkeypatch.setattr(toy.BrokenDrafter, "__init__", raiser(error))
    assert main(flags) == 2
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last.startswith(f"error: drafter broken cannot be built: {type(error).__name__}")
    assert "test_survival.py, line" in last and "Traceback" not in captured.err
    assert not (tmp_path / "runs").exists()


def test_a_template_that_raises_fails_its_prompt_alone(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encode = toy.ToyTarget.encode_chat

    def refuse_x(self: Any, messages: Any) -> Any:
        if "X" in messages[0]["content"]:
            raise ValueError("no X")
        return encode(self, messages)

    monkeypatch.setattr(toy.ToyTarget, "encode_chat", refuse_x)
    assert main(flags) == 1
    assert {(item.prompt_id, item.error) for item in failures(tmp_path)} == {
        ("p2", "no prompt for turn 1: ValueError: no X")
    }
    monkeypatch.setattr(toy.ToyTarget, "encode_chat", raiser(ValueError("never")))
    assert main([*flags, "--output-dir", str(tmp_path / "other")]) == 1
    assert "no generation succeeded" in capsys.readouterr().err


def test_a_target_that_cannot_score_keeps_the_report(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toy.ToyTarget, "score", raiser(RuntimeError("lost")), raising=False)
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert "cannot be audited: RuntimeError: lost" in captured.err.splitlines()[-1]
    assert json.loads(captured.out.splitlines()[-1])["num_mismatches"] is None
    assert (run_directory(tmp_path) / "leaderboard.html").is_file()


def test_ctrl_c_inside_a_drafter_keeps_what_is_there(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []
    propose = toy.ToyDrafter.propose

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 12:
            # The drafter's own clean-up may fail then; that must not hide the Ctrl-C.
            monkeypatch.setattr(toy.BrokenDrafter, "reset", raiser(ValueError()), raising=False)
            raise KeyboardInterrupt
        return propose(self, *arguments)

    monkeypatch.setattr(toy.BrokenDrafter, "propose", interrupted, raising=False)
    monkeypatch.setattr(toy.ToyDrafter, "max_nodes", 1)
    assert main(flags) == 130
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert 0 < summary["num_generations"] < 3 * NUM_TURNS
    assert summary["num_failures"] == 0
    assert Path(summary["leaderboard_md"]).is_file()
    assert "--resume" in captured.err


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Names of files for which there is no room."""
    full: set[str] = set()
    fsync = os.fsync

    def refuse(number: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{number}")).name in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    monkeypatch.setattr(os, "fsync", refuse)
    yield full


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files by /proc")
@pytest.mark.parametrize(
    "name", ["records.jsonl", "stages.json.partial", "audit.jsonl", "leaderboard.md.partial"]
)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    disk: set[str],
    name: str,
) -> None:
    def score(self: Any, prompt_ids: Any, new_tokens: Any) -> Iterator[torch.Tensor]:
        yield self._logits(torch.tensor([prompt_ids[-1], *new_tokens[:-1]]))

    monkeypatch.setattr(toy.ToyTarget, "score", score, raising=False)
    if name != "leaderboard.md.partial":
        without_page(monkeypatch)
    assert main([*flags, "--output-dir", str(tmp_path / "whole")]) == 0
    (whole,) = (tmp_path / "whole").iterdir()
    disk.add(name)
    assert main(flags) == 2
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err
    directory = run_directory(tmp_path)
    assert not list(directory.glob("*.partial"))
    disk.clear()
    assert main([*flags, "--resume", directory.name]) == 0
    assert timeless_records(directory) == timeless_records(whole)
    assert {path.name for path in directory.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files by /proc")
def test_a_disk_full_from_the_start_leaves_no_half_run(
    flags: list[str], toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], disk: set[str]
) -> None:
    disk.add("environment.json.partial")
    assert main(flags) == 2
    assert "cannot be written: No space left" in capsys.readouterr().err.splitlines()[-1]
    assert list((tmp_path / "runs").iterdir()) == []


def test_data_that_vanish_after_the_start_are_not_missed(
    flags: list[str], toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data" / "gsm8k"
    data.mkdir(parents=True)
    rows = [{"question": f"{number}?", "answer": f"#### {number}"} for number in range(3)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = toy.ToyTarget.start

    def vanish(self: Any, *arguments: Any) -> None:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        start(self, *arguments)

    monkeypatch.setattr(toy.ToyTarget, "start", vanish)
    without_page(monkeypatch)
    own = [flag.replace("counting", "gsm8k") for flag in flags]
    assert main([*own, "--data-dir", str(tmp_path / "data")]) == 0
    assert not data.exists()
    assert len(list(read_records(run_directory(tmp_path) / "records.jsonl"))) == 9


def test_a_run_directory_that_vanishes_is_one_sentence(
    flags: list[str],
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        toy.BrokenDrafter,
        "start",
        lambda *rest: shutil.rmtree(tmp_path / "runs", ignore_errors=True),
        raising=False,
    )
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.splitlines()[-1].startswith("error: ")


def test_runs_killed_at_random_moments_end_like_one_that_was_not() -> None:
    command = [
        *(sys.executable, "-m", "tests.bench.kill_and_resume", "--kills", "6", "--processes", "2"),
        *("--target", "toy", "--drafter", "oracle,fool", "--baseline", "ar_loop"),
    ]
    root = Path(__file__).parent.parent
    paths = os.pathsep.join([str(root), str(root / "tests")])
    found = subprocess.run(
        command,
        cwd=root,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "TOY_PAUSE_S": "0.01",
            "PYTHONPATH": paths,
        },
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    summary = json.loads(found.stdout.splitlines()[-1])
    assert summary["kills"] == 6 and summary["equal"]


def test_a_report_survives_a_cut_within_a_character(
    flags: list[str], toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 0
    directory = run_directory(tmp_path)
    with (directory / "records.jsonl").open("ab") as file:
        file.write("ü".encode()[:1])
    assert main(["report", str(directory), "--markdown"]) == 0
    assert "cut off mid-write" in capsys.readouterr().out
    records = list(read_records(directory / "records.jsonl"))
    assert all(isinstance(record, Generation) for record in records)
