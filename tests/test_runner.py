"""Runs on the toy target: order, records, resuming, failures, and being killed."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness import registry, runner, session
from harness.cli import main
from harness.config import RunConfig
from harness.decode import Decoded
from harness.errors import UserError
from harness.load import OtherLoad
from harness.methods import Method, build_methods
from harness.plan import make_plan
from harness.records import Failure, Generation, Record, key_of, read_records
from harness.runner import RunResult, run
from harness.sampling import Sampling
from harness.stages import read_stages

TOY_FLAGS = "--target toy --tasks counting --device cpu --baseline ar_loop --max-new-tokens 12"
NUM_TURNS = 5
WARM_UP_TOKENS = 16


def measure(toy_plugin: Path, output_dir: Path, **fields: Any) -> RunResult:
    registry.load_plugin(toy_plugin)
    flags: dict[str, Any] = {
        "drafter": ("oracle", "fool"),
        "target": "toy",
        "tasks": ("counting",),
        "device": "cpu",
        "baseline": ("ar_loop",),
        "max_new_tokens": 12,
        "output_dir": output_dir,
        **fields,
    }
    return run(make_plan(RunConfig(**flags)), ["run"])


def records_of(result: RunResult) -> list[Record]:
    return list(read_records(result.files.records))


def generations_of(result: RunResult) -> list[Generation]:
    return [record for record in records_of(result) if isinstance(record, Generation)]


def test_every_method_answers_every_turn(toy_plugin: Path, tmp_path: Path) -> None:
    result = measure(toy_plugin, tmp_path, repeats=2)
    generations = generations_of(result)
    assert (result.num_generations, result.num_failures) == (NUM_TURNS * 3 * 2, 0)
    assert len({key_of(item) for item in generations}) == len(generations) == NUM_TURNS * 3 * 2
    assert {item.turn for item in generations} == {1, 2}
    for item in generations:
        same = [other for other in generations if other.prompt_sha256 == item.prompt_sha256]
        assert {other.method for other in same} == {"ar_loop", "oracle", "fool"}
        assert {other.new_tokens for other in same} == {item.new_tokens}
        assert len(item.new_tokens) == 12


def test_the_second_turn_goes_on_from_the_baseline(toy_plugin: Path, tmp_path: Path) -> None:
    generations = generations_of(measure(toy_plugin, tmp_path))
    first = next(i for i in generations if (i.method, i.prompt_id) == ("ar_loop", "p0"))
    second = [item for item in generations if item.turn == 2]
    assert {item.num_prompt_tokens for item in second} == {len("ABC||DEF") + len(first.text)}


def test_methods_run_back_to_back_in_a_drawn_order(toy_plugin: Path, tmp_path: Path) -> None:
    """The plug-in's drafters first, so that they find no answer to look up, not even in repeats."""
    generations = generations_of(measure(toy_plugin, tmp_path, repeats=3))
    groups = [generations[start : start + 9] for start in range(0, len(generations), 9)]
    for group in groups:
        assert len({(item.prompt_id, item.turn) for item in group}) == 1
        assert len({item.seed for item in group}) == 3
        assert [item.repeat for item in group] == [0, 0, 1, 1, 2, 2, 0, 1, 2]
        assert [item.method for item in group[6:]] == ["ar_loop"] * 3
    assert len({tuple(item.method for item in group[:2]) for group in groups}) > 1
    again = generations_of(measure(toy_plugin, tmp_path, repeats=3))
    assert [key_of(item) for item in again] == [key_of(item) for item in generations]


def test_config_says_what_was_measured(toy_plugin: Path, tmp_path: Path) -> None:
    result = measure(toy_plugin, tmp_path, drafter=("oracle@best",), limit="all", seed=3)
    config = json.loads(result.files.config.read_text(encoding="utf-8"))
    assert config["run_id"] == result.files.run_id
    assert config["methods"][0] == {"method": "ar_loop", "kind": "baseline", "oracle": False}
    drafter = config["methods"][1]
    elsewhere = {
        "file": toy_plugin.name,
        "sha256": hashlib.sha256(toy_plugin.read_bytes()).hexdigest(),
    }
    assert (drafter["oracle"], drafter["remembers"], drafter["foreign"]) == (
        False,
        False,
        elsewhere,
    )
    assert config["target"]["foreign"] == config["tasks"][0]["foreign"] == elsewhere
    assert (drafter["method"], drafter["drafter"]) == ("oracle@best", "oracle")
    assert (drafter["block_size"], drafter["draft"], drafter["checkpoint"]) == (4, "argmax", None)
    assert config["tasks"][0]["prompt_ids"] == ["p0", "p1", "p2", "p3"]
    assert sum(config["tasks"][0]["num_turns"]) == NUM_TURNS
    environment = json.loads(result.files.environment.read_text(encoding="utf-8"))
    digest = hashlib.sha256(toy_plugin.read_bytes()).hexdigest()
    assert environment["plugins"] == [{"name": toy_plugin.name, "sha256": digest}]
    assert config["target"]["name"] == config["target"]["model"] == "toy"
    assert (config["limit"], config["seed"], config["max_new_tokens"]) == (None, 3, 12)


def test_a_run_times_the_parts_of_a_round_once(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = measure(toy_plugin, tmp_path, drafter=("broken", "oracle", "told"))
    stages = read_stages(result.files.stages)
    assert stages is not None
    # An oracle that must be told the answer first has no time of its own.
    assert set(stages.methods) == {"ar_loop", "oracle"}
    assert "broken failed while its parts were timed: RuntimeError" in capsys.readouterr().err
    lengths = [i.num_prompt_tokens + 6 for i in generations_of(result) if i.method == "ar_loop"]
    assert min(lengths) <= stages.num_context_tokens <= max(lengths)
    written = result.files.stages.read_bytes()
    measure(toy_plugin, tmp_path, drafter=("broken", "oracle", "told"), resume=result.files.run_id)
    # What failed is tried again, in case it was mended meanwhile.
    assert "broken failed while its parts were timed" in capsys.readouterr().err
    assert result.files.stages.read_bytes() != written
    sound = measure(toy_plugin, tmp_path, drafter=("oracle", "told"))
    written = sound.files.stages.read_bytes()
    measure(toy_plugin, tmp_path, drafter=("oracle", "told"), resume=sound.files.run_id)
    assert sound.files.stages.read_bytes() == written


def test_a_drafter_that_raises_makes_failures_and_the_run_goes_on(
    toy_plugin: Path, tmp_path: Path
) -> None:
    result = measure(toy_plugin, tmp_path, drafter=("broken", "oracle"))
    failures = [record for record in records_of(result) if isinstance(record, Failure)]
    assert [(item.method, item.prompt_id) for item in failures] == [("broken", "p2")]
    assert failures[0].error == "RuntimeError: no idea at all"
    assert (result.num_generations, result.num_failures) == (NUM_TURNS * 3 - 1, 1)


def test_failures_are_asked_again_when_a_run_is_resumed(
    toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(toy_plugin, tmp_path, drafter=("broken",))
    monkeypatch.delattr(sys.modules["my_counter"].BrokenDrafter, "start")
    again = measure(toy_plugin, tmp_path, drafter=("broken",), resume=first.files.run_id)
    assert (first.num_failures, again.num_failures) == (1, 0)
    assert again.num_generations == first.num_generations + 1 == NUM_TURNS * 2


def test_a_turn_without_history_is_a_failure_of_every_method(
    toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load_plugin(toy_plugin)

    def refuse(self: Any, prompt_ids: Any) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(sys.modules["my_counter"].ToyTarget, "prefill", refuse)
    result = measure(toy_plugin, tmp_path, drafter=("oracle",), limit=1)
    errors = [(i.turn, i.error) for i in records_of(result) if isinstance(i, Failure)]
    assert [turn for turn, _ in errors] == [1, 1, 2, 2]
    assert "ar_loop failed at turn 1" in errors[-1][1]
    assert result.num_generations == 0


def test_an_oracle_is_told_the_baselines_answer(toy_plugin: Path, tmp_path: Path) -> None:
    result = measure(toy_plugin, tmp_path, drafter=("told", "oracle"), repeats=2)
    assert result.num_failures == 0
    methods = [item.method for item in generations_of(result)]
    assert methods == ["oracle", "oracle", *["ar_loop", "told"] * 2] * NUM_TURNS
    config = json.loads(result.files.config.read_text(encoding="utf-8"))
    assert [item["oracle"] for item in config["methods"]] == [False, True, False]


def test_resuming_a_finished_run_adds_nothing(toy_plugin: Path, tmp_path: Path) -> None:
    first = measure(toy_plugin, tmp_path)
    before = first.files.records.read_bytes()
    again = measure(toy_plugin, tmp_path, resume=str(first.files.directory))
    assert again.files.records.read_bytes() == before
    assert again.num_generations == first.num_generations


def test_resuming_drops_a_torn_line_and_fills_the_gap(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = measure(toy_plugin, tmp_path)
    whole = records_of(first)
    data = first.files.records.read_bytes()
    first.files.records.write_bytes(data[: len(data) // 2])
    again = measure(toy_plugin, tmp_path, resume=first.files.run_id)
    assert "cut off a torn last record" in capsys.readouterr().err
    assert [key_of(item) for item in records_of(again)] == [key_of(item) for item in whole]


def test_resuming_refuses_another_configuration(
    toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure(toy_plugin, tmp_path)
    for fields, message in (
        ({"seed": 1}, "configuration field seed was 0 and is now 1"),
        ({"max_new_tokens": 8}, "field max_new_tokens was 12 and is now 8"),
        ({"drafter": ("oracle",)}, "field methods was"),
    ):
        with pytest.raises(UserError, match=message):
            measure(toy_plugin, tmp_path, resume=first.files.run_id, **fields)
    monkeypatch.setenv("TOY_REVISION", "2")
    with pytest.raises(UserError, match=r"field target\.revision was null and is now"):
        measure(toy_plugin, tmp_path, resume=first.files.run_id)


@dataclasses.dataclass(frozen=True)
class Call:
    """How a method was called, and under what."""

    method: str
    prompt_ids: tuple[int, ...]
    limit: int
    collects: bool

    @property
    def is_warm_up(self) -> bool:
        return self.limit == WARM_UP_TOKENS


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every call of every method, in order; ask for answers longer than a warm-up's."""
    made: list[Call] = []

    def watched(method: Method) -> Method:
        def generate(prompt_ids: Sequence[int], sampling: Sampling, limit: int) -> Decoded:
            made.append(Call(method.name, tuple(prompt_ids), limit, gc.isenabled()))
            return method.generate(prompt_ids, sampling, limit)

        return dataclasses.replace(method, generate=generate)

    def build(*arguments: Any) -> tuple[Method, ...]:
        return tuple(map(watched, build_methods(*arguments)))

    monkeypatch.setattr(runner, "build_methods", build)
    return made


BOTH_TASKS: dict[str, Any] = {"tasks": ("counting", "spelling"), "max_new_tokens": 20}


def test_the_collector_rests_while_a_method_is_timed(
    toy_plugin: Path, tmp_path: Path, calls: list[Call]
) -> None:
    measure(toy_plugin, tmp_path, max_new_tokens=20)
    timed = [call for call in calls if not call.is_warm_up]
    assert {call.method for call in timed} == {"ar_loop", "oracle", "fool"}
    assert not any(call.collects for call in timed)
    assert gc.isenabled()


def test_every_task_begins_with_a_warm_up_that_no_record_shows(
    toy_plugin: Path, tmp_path: Path, calls: list[Call]
) -> None:
    result = measure(toy_plugin, tmp_path, drafter=("told", "oracle"), **BOTH_TASKS)
    num_asked = NUM_TURNS * 3
    first, second = calls[: 3 + num_asked], calls[3 + num_asked :]
    for task in (first, second):
        assert [call.method for call in task[:3]] == ["ar_loop", "told", "oracle"]
        assert [call.is_warm_up for call in task] == [True] * 3 + [False] * num_asked
        (warm,) = {call.prompt_ids for call in task[:3]}
        assert sorted(warm) == sorted(task[3].prompt_ids)
        assert warm not in {call.prompt_ids for call in task[3:]}
    generations = generations_of(result)
    assert (len(generations), result.num_failures) == (2 * num_asked, 0)
    assert {len(item.new_tokens) for item in generations} == {20}


def test_a_finished_task_is_not_warmed_up_again(
    toy_plugin: Path, tmp_path: Path, calls: list[Call]
) -> None:
    first = measure(toy_plugin, tmp_path, **BOTH_TASKS)
    lines = first.files.records.read_text(encoding="utf-8").splitlines(keepends=True)
    for num_kept, num_warm_ups in ((2 * len(lines) // 3, 3), (len(lines), 0)):
        calls.clear()
        first.files.records.write_text("".join(lines[:num_kept]), encoding="utf-8")
        measure(toy_plugin, tmp_path, resume=first.files.run_id, **BOTH_TASKS)
        assert [call.is_warm_up for call in calls].count(True) == num_warm_ups
        assert len(calls) == num_warm_ups + len(lines) - num_kept
        assert all(call.is_warm_up for call in calls[:num_warm_ups])


def test_a_warm_up_that_fails_is_no_failure_of_the_run(
    toy_plugin: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(*arguments: Any) -> tuple[Method, ...]:
        return tuple(map(cold, build_methods(*arguments)))

    def cold(method: Method) -> Method:
        def generate(prompt_ids: Sequence[int], sampling: Sampling, limit: int) -> Decoded:
            if limit == WARM_UP_TOKENS:
                raise RuntimeError("too cold")
            return method.generate(prompt_ids, sampling, limit)

        return dataclasses.replace(method, generate=generate)

    monkeypatch.setattr(runner, "build_methods", build)
    result = measure(toy_plugin, tmp_path, drafter=("told",), **BOTH_TASKS)
    assert (result.num_generations, result.num_failures) == (NUM_TURNS * 2 * 2, 0)
    said = capsys.readouterr().err
    for task in BOTH_TASKS["tasks"]:
        assert f"warm-up of ar_loop on {task} failed: RuntimeError: too cold" in said
        assert f"warm-up of told on {task} failed: RuntimeError: ar_loop failed here" in said


def test_an_answer_tells_how_busy_others_were(
    toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(self: OtherLoad, *raised: object) -> None:
        self.cores = 0.75

    monkeypatch.setattr(OtherLoad, "__exit__", closed)
    loads = {item.other_load for item in generations_of(measure(toy_plugin, tmp_path, limit=1))}
    assert loads == {0.75}


def test_oracles_come_behind_whatever_the_draw() -> None:
    def prepare(prompt_ids: Sequence[int], answer: Sequence[int]) -> None: ...

    def generate(*arguments: Any) -> Any: ...

    methods = [
        Method(name=name, generate=generate, facts={}, prepare=hook)
        for name, hook in (("told", prepare), ("ar_loop", None), ("x", None))
    ]
    orders = {
        tuple(method.name for method in session.shuffled(methods, seed, "t", "p", 1, 0))
        for seed in range(20)
    }
    assert orders == {("ar_loop", "x", "told"), ("x", "ar_loop", "told")}


def test_the_plan_counts_and_fills_in(toy_plugin: Path) -> None:
    registry.load_plugin(toy_plugin)
    plan = make_plan(RunConfig(target="toy", tasks=("counting",), drafter=("oracle",), repeats=3))
    assert plan.methods == ("ar_loop", "hf_generate", "oracle")
    assert plan.num_generations == NUM_TURNS * 3 * 3
    if plan.target.device == "cpu":
        assert (plan.limit, plan.max_new_tokens) == (16, 128)


def start_slow_run(toy_plugin: Path, output_dir: Path, resume: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", *TOY_FLAGS.split(), "--drafter", "oracle"]
    command += ["--plugin", str(toy_plugin), "--output-dir", str(output_dir)]
    command += ["--resume", resume] if resume else []
    pause = {} if resume else {"TOY_PAUSE_S": "0.3"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **pause},
        preexec_fn=heed_ctrl_c,
    )


def heed_ctrl_c() -> None:
    """Undo what shells do to the jobs they put in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_records(process: subprocess.Popen[str], output_dir: Path, number: int) -> Path:
    """The run directory, once ``number`` records are on the disk."""
    while process.poll() is None:
        for path in output_dir.glob("*/records.jsonl"):
            if path.read_bytes().count(b"\n") >= number:
                return path.parent
        time.sleep(0.02)
    raise AssertionError(f"the run ended early: {process.communicate()}")


def test_a_killed_run_can_be_finished(toy_plugin: Path, tmp_path: Path) -> None:
    process = start_slow_run(toy_plugin, tmp_path)
    directory = wait_for_records(process, tmp_path, 2)
    process.kill()
    process.communicate()
    records = directory / "records.jsonl"
    with records.open("a", encoding="utf-8") as file:
        file.write('{"schema_version": 1, "ki')
    kept = list(read_records(records))
    assert 2 <= len(kept) < NUM_TURNS * 2
    result = measure(toy_plugin, tmp_path, drafter=("oracle",), resume=directory.name)
    assert records_of(result)[: len(kept)] == kept
    assert result.num_generations == NUM_TURNS * 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_partial_report(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: signal.Signals
) -> None:
    process = start_slow_run(toy_plugin, tmp_path)
    directory = wait_for_records(process, tmp_path, 3)
    process.send_signal(stop)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--resume {directory.name}" in stderr and "Traceback" not in stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert 3 <= summary["num_generations"] < NUM_TURNS * 2
    assert Path(summary["leaderboard_md"]).is_file()
    flags = [*TOY_FLAGS.split(), "--drafter", "oracle", "--plugin", str(toy_plugin)]
    assert main(["run", *flags, "--resume", str(directory)]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["num_generations"] == NUM_TURNS * 2


def test_the_history_is_the_baselines_even_where_methods_answer_otherwise(
    toy_plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above temperature 0 every method, and every repeat, has an answer of its own."""

    def own_answer(prompt_ids: Sequence[int], sampling: Sampling, most: int, name: str) -> Decoded:
        length = {"ar_loop": 3, "fool": 4, "oracle": 5}[name]
        drawn = [sampling.seed % 30 + 1] * length
        return Decoded(
            new_tokens=tuple(drawn),
            rounds=None,
            prefill_s=1.0,
            decode_s=1.0,
            finish_reason="length",
            peak_memory_bytes=None,
        )

    def built(*arguments: Any) -> tuple[Method, ...]:
        return tuple(
            dataclasses.replace(item, generate=partial(own_answer, name=item.name))
            for item in build_methods(*arguments)
        )

    monkeypatch.setattr(runner, "build_methods", built)
    result = measure(toy_plugin, tmp_path, repeats=2)
    generations = generations_of(result)
    first = next(
        i for i in generations if (i.method, i.prompt_id, i.repeat) == ("ar_loop", "p0", 0)
    )
    second = [item for item in generations if item.turn == 2]
    assert len({item.prompt_sha256 for item in second}) == 1 and len(second) == 6
    assert {item.num_prompt_tokens for item in second} == {len("ABC||DEF") + len(first.text)}


def test_every_answer_is_drawn_by_a_seed_of_its_own(toy_plugin: Path, tmp_path: Path) -> None:
    """Of its task, prompt, turn and repeat; methods of one question share it."""
    result = measure(toy_plugin, tmp_path, repeats=2, tasks=("counting", "spelling"))
    seeds: dict[Any, set[int]] = {}
    for item in generations_of(result):
        seeds.setdefault((item.task, item.prompt_id, item.turn, item.repeat), set()).add(item.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds) == 2 * NUM_TURNS * 2
