"""Run directories: whole files, flushed records, and what resuming refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import run_files
from harness.errors import UserError
from harness.line_writers import RecordWriter
from harness.records import Failure, read_records

CONFIG = {
    **{"schema_version": 1, "seed": 0, "target": {"name": "toy"}},
    **{"tasks": [{"task": "a"}], "methods": []},
}
ENVIRONMENT: dict[str, Any] = {
    "versions": {"torch": "2", "transformers": "5"},
    "hardware": {"cpu": "x", "gpu": None, "num_threads": 1},
}


def failure(number: int) -> Failure:
    return Failure(
        task="a", prompt_id=str(number), turn=1, method="m", repeat=0, error="E: ü\n".strip()
    )


def test_run_ids_sort_by_time_and_name_the_config(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    other = run_files.create(tmp_path, {**CONFIG, "seed": 1}, ENVIRONMENT)
    assert re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z-[0-9a-f]{8}", files.run_id)
    assert files.run_id[-8:] != other.run_id[-8:]
    assert json.loads(files.config.read_text()) == {**CONFIG, "run_id": files.run_id}
    assert json.loads(files.environment.read_text()) == ENVIRONMENT
    assert not list(files.directory.glob("*.partial"))


def test_an_output_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written"):
        run_files.create(tmp_path / "file", CONFIG, ENVIRONMENT)


def test_runs_are_found_by_id_and_by_directory(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    assert run_files.find(files.run_id, tmp_path) == files
    assert run_files.find(str(files.directory), Path("elsewhere")) == files
    with pytest.raises(UserError, match=r"no run to resume at 'nope'"):
        run_files.find("nope", tmp_path)


def test_each_record_is_on_the_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        for number in range(3):
            writer.append(failure(number))
            assert len(list(read_records(path))) == number + 1


def test_a_full_disk_is_one_sentence() -> None:
    with (
        RecordWriter(Path("/dev/full")) as writer,
        pytest.raises(UserError, match=r"No space left on device.*--resume"),
    ):
        writer.append(failure(0))


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=400))
def test_a_file_cut_anywhere_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "records.jsonl"
    with RecordWriter(path) as writer:
        for number in range(3):
            writer.append(failure(number))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    removed = run_files.cut_torn_line(path)
    left = list(read_records(path))
    assert left == [failure(number) for number in range(whole[:cut].count(b"\n"))]
    assert path.stat().st_size + removed == min(cut, len(whole))
    with RecordWriter(path) as writer:
        writer.append(failure(9))
    assert list(read_records(path)) == [*left, failure(9)]


def test_reopening_returns_records_and_notes_the_resumption(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    with RecordWriter(files.records) as writer:
        writer.append(failure(0))
    with files.records.open("a", encoding="utf-8") as file:
        file.write('{"torn')
    records, torn = run_files.reopen(files, CONFIG, {**ENVIRONMENT, "commit": "now"})
    assert (records, torn) == ([failure(0)], 6)
    resumed = json.loads(files.environment.read_text())["resumed"]
    assert [item["commit"] for item in resumed] == ["now"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "configuration field seed was 0 and is now 1"),
        ({"target": {"name": "b"}}, 'field target.name was "toy" and is now "b"'),
        ({"tasks": [{"task": "b"}]}, r"field tasks\[0\].task"),
        ({"tasks": []}, "field tasks was"),
        ({"more": "x" * 99}, 'field more was null and is now "xxx.*\\.\\.\\.'),
    ],
)
def test_another_configuration_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    with pytest.raises(UserError, match=message):
        run_files.reopen(files, {**CONFIG, **change}, ENVIRONMENT)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    moved = {**ENVIRONMENT, "hardware": {**ENVIRONMENT["hardware"], "num_threads": 8}}
    with pytest.raises(UserError, match=r"environment field hardware\.num_threads was 1"):
        run_files.reopen(files, CONFIG, moved)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([{"name": "a.py", "sha256": "2"}], r'plug-in field a\.py was "1" and is now "2"'),
        ([], r'plug-in field a\.py was "1" and is now null'),
        ([{"name": n, "sha256": "1"} for n in ("a.py", "b.py")], r"b\.py was null and is now"),
    ],
)
def test_another_plug_in_is_refused(
    tmp_path: Path, now: list[dict[str, str]], message: str
) -> None:
    environment = {**ENVIRONMENT, "plugins": [{"name": "a.py", "sha256": "1"}]}
    files = run_files.create(tmp_path, CONFIG, environment)
    with pytest.raises(UserError, match=message):
        run_files.reopen(files, CONFIG, {**ENVIRONMENT, "plugins": now})
    assert run_files.reopen(files, CONFIG, environment) == ([], 0)


def test_runs_from_before_plug_ins_and_turns_were_recorded_go_on(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    turns = {**CONFIG, "tasks": [{"task": "a", "num_turns": [1, 2]}]}
    plugins = [{"name": "a.py", "sha256": "1"}]
    assert run_files.reopen(files, turns, {**ENVIRONMENT, "plugins": plugins}) == ([], 0)


@pytest.mark.parametrize(
    ("file", "body"),
    [
        ("config.json", {**CONFIG, "tasks": None}),
        ("config.json", {**CONFIG, "tasks": ["a"]}),
        ("environment.json", {**ENVIRONMENT, "plugins": [{"name": "a.py"}]}),
        ("environment.json", {**ENVIRONMENT, "plugins": None}),
    ],
)
def test_damaged_facts_are_one_sentence(tmp_path: Path, file: str, body: dict[str, Any]) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    (files.directory / file).write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(UserError, match="cannot be resumed: "):
        run_files.reopen(files, CONFIG, {**ENVIRONMENT, "plugins": []})


def test_a_damaged_run_is_one_sentence(tmp_path: Path) -> None:
    files = run_files.create(tmp_path, CONFIG, ENVIRONMENT)
    files.records.write_text("not a record\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be resumed: .*line 1"):
        run_files.reopen(files, CONFIG, ENVIRONMENT)
