"""A study of a tiny model end to end: trained in step, stopped anywhere, replayed as decoded."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drafters.block_diffusion import trainer
from drafters.block_diffusion.drafter import build
from drafters.options import DrafterOptions
from harness import registry
from harness.cli import main
from harness.decode import generate
from harness.sampling import Sampling
from harness.study_files import StudyFiles, StudyWriter
from harness.study_records import Finished, Measurement, key_of, read_study_records
from targets.base import TargetOptions
from targets.load import load_target
from tests.tiny_model import write_model, write_prompts

PLUGIN = Path(__file__).parent / "plugins" / "my_counter.py"

STUDY = """
[train]
target = "{model}"
data = "{data}"
batch_size = 2
num_anchors = 4
block_size = 4
num_layers = 1
num_features = 2
train_vocab_size = 0
max_new_tokens = 20
held_back = 0.3
dtype = "float32"
device = "cpu"
save_every = 2
[arms]
objectives = ["uniform", "combined"]
seeds = [0, 1]
steps = [3, 6]
[measure]
held_back = 5
horizons = [6]
runs = [{runs}]
max_new_tokens = 16
curve_points = 3
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Responses and features, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(cache: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(cache))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    torch.set_num_threads(1)


def decode(tiny: Path, place: Path, dtype: str) -> Path:
    """A greedy run on the toy task; its directory."""
    arguments = [
        *("run", "--plugin", str(PLUGIN), "--target", str(tiny), "--tasks", "counting"),
        *("--drafter", "ngram", "--baseline", "ar_loop", "--dtype", dtype),
        *("--device", "cpu", "--max-new-tokens", "18", "--output-dir", str(place)),
    ]
    assert main(arguments) == 0
    (directory,) = place.iterdir()
    return directory


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, with a registry that forgets it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_PLUGINS", {kind: {} for kind in registry.KINDS})
        directory = decode(tiny, tmp_path_factory.mktemp("runs"), "float32")
    del sys.modules["my_counter"]
    return directory


def my_counter():
    return sys.modules["my_counter"]


@pytest.fixture
def file(tiny: Path, tmp_path: Path, run: Path) -> Path:
    path = tmp_path / "toy.toml"
    data = write_prompts(tmp_path / "prompts.jsonl")
    path.write_text(STUDY.format(model=tiny, data=data, runs=f'"{run}"'), encoding="utf-8")
    return path


def study(file: Path, place: Path) -> int:
    return main(["study", "--plugin", str(PLUGIN), str(file), "--output-dir", str(place)])


def records(place: Path) -> dict[object, object]:
    """What a study found, less what the clock says."""
    found = read_study_records(StudyFiles(place).records)
    return {
        key_of(item): dataclasses.replace(item, train_s=0.0) if isinstance(item, Finished) else item
        for item in found
    }


def test_a_study_end_to_end(
    file: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(file, tmp_path / "s") == 0
    out = capsys.readouterr().out
    page = Path(json.loads(out.splitlines()[-1])["study_md"])
    assert page == tmp_path / "s" / "study.md"
    assert "## Gain over uniform against budget" in page.read_text(encoding="utf-8")
    found = read_study_records(StudyFiles(tmp_path / "s").records)
    done = [item for item in found if isinstance(item, Finished)]
    assert [(d.arm.recipe.objective, d.arm.seed, d.arm.recipe.steps) for d in done] == [
        (name, seed, steps)
        for steps in (3, 6)
        for seed in (0, 1)
        for name in ("uniform", "combined")
    ]
    assert len({d.weights_sha256 for d in done}) == len(done)
    measured = [item for item in found if isinstance(item, Measurement)]
    # Two points on the way, and the end at both block sizes.
    assert len(measured) == 8 * (2 + 2)
    ends = [item for item in measured if item.step == item.arm.recipe.steps]
    for item in ends:
        assert {answer.task for answer in item.replayed} == {"held_back", "counting"}
        assert sum(answer.task == "counting" for answer in item.replayed) == 5
        trained = item.horizon == 4
        assert (item.loss is not None) == (item.train_time_tau is not None) == trained
        assert all((answer.rewards is not None) == trained for answer in item.replayed)
    assert not (tmp_path / "s" / "snapshots").exists()
    losses_are_the_trainings_own(tmp_path / "s", done, measured)
    replayed_as_decoded(tiny, tmp_path / "s", done, ends)


def replayed_as_decoded(
    tiny: Path, place: Path, done: list[Finished], ends: list[Measurement]
) -> None:
    """In float32 the checkpoints decode in the very rounds that were replayed."""
    target = load_target(TargetOptions(name=str(tiny), dtype="float32"))
    prompts = my_counter().TASK.load(None, None).prompts
    compared = 0
    for item in done[-2:]:
        options = DrafterOptions(name="combined", argument=str(place / item.checkpoint))
        drafter = build(target, options)
        (end,) = [m for m in ends if m.arm == item.arm and m.horizon == 4]
        answers = {a.prompt_id: a for a in end.replayed if (a.task, a.turn) == ("counting", 1)}
        for prompt in prompts:
            ids = target.encode_chat([{"role": "user", "content": prompt.turns[0]}])
            found = generate(target, drafter, ids, sampling=Sampling(), max_new_tokens=16)
            answer = answers[prompt.prompt_id]
            assert answer.num_tokens == len(found.new_tokens)
            assert answer.depths == tuple(r.depth for r in found.rounds)
            # What was accepted behind a stop token a replay cannot know.
            assert answer.accepted[:-1] == tuple(r.accepted for r in found.rounds)[:-1]
            compared += len(found.rounds)
    assert compared > 20


def losses_are_the_trainings_own(
    place: Path, done: list[Finished], measured: list[Measurement]
) -> None:
    for item in done:
        path = place / item.checkpoint / "training.json"
        history = json.loads(path.read_text(encoding="utf-8"))["measured"]
        points = [
            (m.step, m.loss, m.train_time_tau)
            for m in measured
            if m.arm == item.arm and m.horizon == 4
        ]
        assert points == [(h["step"], h["loss"], h["train_time_tau"]) for h in history]


def test_in_bfloat16_over_part_of_the_vocabulary(
    file: Path,
    tiny: Path,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The features that were kept for training serve the replay; those of a run are kept too."""
    text = file.read_text(encoding="utf-8")
    for before, after in (
        ("float32", "bfloat16"),
        ("train_vocab_size = 0", "train_vocab_size = 30"),
        ("seeds = [0, 1]", "seeds = [0]"),
        ("steps = [3, 6]", "steps = [3]"),
        ("curve_points = 3", 'curve_points = 1\ndraft_vocab = "trained"'),
    ):
        text = text.replace(before, after)
    file.write_text(text, encoding="utf-8")
    assert study(file, tmp_path / "s") == 2
    assert "whose dtype was float32, and the study's has bfloat16" in capsys.readouterr().err
    own = decode(tiny, tmp_path / "runs", "bfloat16")
    file.write_text(text.replace(str(run), str(own)), encoding="utf-8")
    assert study(file, tmp_path / "s") == 0
    found = read_study_records(StudyFiles(tmp_path / "s").records)
    ends = [item for item in found if isinstance(item, Measurement)]
    assert len(ends) == 4 and all(len(item.replayed) == 5 + 5 for item in ends)


class Killed(BaseException):
    """What no code catches."""


def kill_at_step(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    step, calls = trainer._step, []

    def dying(*args: object) -> None:
        calls.append(None)
        if len(calls) == count:
            raise Killed
        step(*args)

    monkeypatch.setattr(trainer, "_step", dying)


def begun(file: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study that was killed before its first step."""
    with monkeypatch.context() as patch:
        kill_at_step(patch, 1)
        with pytest.raises(Killed):
            study(file, place)
    return place


def kill_at_record(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Dies in the middle of a line."""
    write, calls = StudyWriter.write, []

    def dying(self: StudyWriter, text: str) -> None:
        calls.append(None)
        if len(calls) == count:
            self._file.write(text[: len(text) // 2].encode())
            raise Killed
        write(self, text)

    monkeypatch.setattr(StudyWriter, "write", dying)


def test_stopped_anywhere_it_ends_the_same(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study(file, tmp_path / "whole") == 0
    place = tmp_path / "stopped"
    for kill, count in (
        (kill_at_step, 4),
        (kill_at_record, 2),
        (kill_at_record, 5),
        (kill_at_step, 9),
        (kill_at_record, 9),
    ):
        with monkeypatch.context() as patch:
            kill(patch, count)
            with pytest.raises(Killed):
                study(file, place)
    before = records(place)
    assert any(isinstance(item, Finished) for item in before.values())
    assert study(file, place) == 0
    whole, resumed = records(tmp_path / "whole"), records(place)
    assert resumed == whole
    for item in whole.values():
        if isinstance(item, Finished):
            weights = [
                load_file(root / item.checkpoint / "model.safetensors")
                for root in (tmp_path / "whole", place)
            ]
            assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    pages = [(root / "study.md").read_text("utf-8") for root in (tmp_path / "whole", place)]
    assert "Sessions: 6" in pages[1] and "Sessions: 1" in pages[0]


def test_what_is_done_is_left_alone_and_arms_may_be_added(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = file.read_text(encoding="utf-8").replace("steps = [3, 6]", "steps = [3]")
    file.write_text(text.replace("seeds = [0, 1]", "seeds = [0]"), encoding="utf-8")
    place = tmp_path / "s"
    assert study(file, place) == 0
    first = records(place)
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("checkpoints/*/*")}
    with monkeypatch.context() as patch:
        kill_at_step(patch, 1)  # nothing is trained again
        assert study(file, place) == 0
    file.write_text(text, encoding="utf-8")
    assert study(file, place) == 0
    both = records(place)
    assert {key: both[key] for key in first} == first and len(both) == 2 * len(first)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("batch_size = 2", "batch_size = 3"), "train.batch_size was 2 and is now 3"),
        (("held_back = 5", "held_back = 4"), "measure.held_back was 5 and is now 4"),
        (("seeds = [0, 1]", "seeds = [1]"), "uniform, seed 0, 3 steps"),
    ],
)
def test_another_study_is_refused(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, str],
    words: str,
) -> None:
    with monkeypatch.context() as patch:
        kill_at_record(patch, 2)
        with pytest.raises(Killed):
            study(file, tmp_path / "s")
    file.write_text(file.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    capsys.readouterr()
    assert study(file, tmp_path / "s") == 2
    assert words in capsys.readouterr().err


def test_what_was_asked_wrongly_may_be_put_right(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("prompts.jsonl", "nothing.jsonl"), encoding="utf-8")
    capsys.readouterr()
    assert study(file, tmp_path / "s") == 2
    assert "nothing.jsonl" in capsys.readouterr().err
    file.write_text(text.replace("seeds = [0, 1]", "seeds = [1]"), encoding="utf-8")
    assert study(file, tmp_path / "s") == 0


def test_other_data_is_refused(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        kill_at_record(patch, 2)
        with pytest.raises(Killed):
            study(file, tmp_path / "s")
    data = tmp_path / "prompts.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(lines[1:]), encoding="utf-8")
    capsys.readouterr()
    assert study(file, tmp_path / "s") == 2
    assert "was begun where data." in capsys.readouterr().err


def test_a_directory_of_something_else_is_left_alone(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    assert study(file, place) == 2
    assert "holds no study, but notes.txt" in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def test_processes_share_the_arms_of_a_study(file: Path, tmp_path: Path) -> None:
    assert study(file, tmp_path / "alone") == 0
    place = tmp_path / "shared"
    command = [sys.executable, "-m", "harness", "study", "--plugin", str(PLUGIN), str(file)]
    workers = [
        subprocess.Popen(
            [*command, "--output-dir", str(place)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], told
    assert records(place) == records(tmp_path / "alone")
    lines = StudyFiles(place).records.read_text().splitlines()
    assert len(lines) == len(records(place))  # nothing was made twice
    assert len(json.loads(StudyFiles(place).study.read_text())["sessions"]) == 2
    names = {path.name for path in place.iterdir()} - {"study.lock"}
    assert names == {"study.json", "records.jsonl", "checkpoints", "study.md", "study.html"}


def test_arms_that_another_process_has_are_left_to_it(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = begun(file, tmp_path / "s", monkeypatch)
    files = StudyFiles(place)
    with files.claim("seed0-steps3"), files.claim("seed1-steps6"):
        assert study(file, place) == 0
        assert "4 arms are with other processes" in capsys.readouterr().err
        found = read_study_records(files.records)
        assert {(item.arm.seed, item.arm.recipe.steps) for item in found} == {(1, 3), (0, 6)}
    assert study(file, place) == 0
    assert len({item.arm for item in read_study_records(files.records)}) == 8


def test_a_joining_process_may_not_change_the_study(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though nothing was made yet."""
    place = begun(file, tmp_path / "s", monkeypatch)
    shutil.rmtree(StudyFiles(place).snapshots, ignore_errors=True)
    with StudyFiles(place).records.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        file.write_text(file.read_text().replace("batch_size = 2", "batch_size = 3"))
        assert study(file, place) == 2
    assert "train.batch_size was 2 and is now 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runs", "words"),
    [('"nowhere"', "nowhere/config.json cannot be read"), ("RUN, RUN", "holds .* twice")],
)
def test_a_run_that_cannot_be_replayed_is_told_before_training(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    runs: str,
    words: str,
) -> None:
    text = file.read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("runs")]
    own = line.partition("[")[2].rstrip("]")
    changed = text.replace(line, f"runs = [{runs.replace('RUN', own)}]")
    file.write_text(changed, encoding="utf-8")
    capsys.readouterr()
    assert study(file, tmp_path / "s") == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "s").exists()


def test_a_study_begun_before_there_was_a_flag_goes_on(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(file.read_text().replace("steps = [3, 6]", "steps = [3]"))
    place = tmp_path / "s"
    assert study(file, place) == 0
    path = StudyFiles(place).study
    body = json.loads(path.read_text())
    assert body["train"].pop("start_from") is None
    path.write_text(json.dumps(body))
    assert study(file, place) == 0
    data = 'data = "'
    file.write_text(file.read_text().replace(data, f'start_from = "elsewhere"\n{data}'))
    assert study(file, place) == 2
    assert "train.start_from was null and is now" in capsys.readouterr().err
