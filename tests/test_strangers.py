"""Run directories of strangers: whatever a field holds, a report or one sentence, at once."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_bodies import make_run_bodies, write_bodies
from study_directories import write_study

from harness import cli
from harness.errors import UserError
from harness.study_files import load_results
from harness.study_toml import read_study
from reports.render import write_leaderboard
from reports.run import load_run

Bodies = dict[str, Any]
"""Files of a directory by name, as JSON values."""
Case = tuple[str, tuple[Any, ...], int]
"""File, keys and indices that lead to a field, and which of `WRONG`."""

GONE = "gone"
WRONG: tuple[Any, ...] = (
    *(None, "abc", "", -1, 0, True, 1.5, [], {}, [[]], {"a": 1}, "\x1bc", "1e400", GONE),
    *(10**12, 2**63, 2**64, 10**200, 10**400, -(10**400), 1e308, -1e308, 5e-324),
    *(math.inf, math.nan),
)
"""What is put into every field; `GONE` takes it away."""
AT_ONCE_S = 10.0
"""Of processor time, which other processes do not stretch; a report takes a tenth of it,
and what it imports a quarter."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value inside, by keys and indices; of a list the first and the last."""
    if isinstance(value, dict):
        inside = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
        inside = items[:1] + items[1:][-1:]
    for key, item in inside:
        yield (*path, key)
        yield from places(item, (*path, key))


def cases(bodies: Bodies) -> list[Case]:
    return [
        (name, path, wrong)
        for name, body in bodies.items()
        for path in places(body)
        for wrong in range(len(WRONG))
    ]


def with_value(body: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(body)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return changed


def check(directory: Path, bodies: Bodies, case: Case) -> None:
    """Require a report, or one sentence, of a directory with one wrong value."""
    name, path, wrong = case
    write_bodies(directory, {**bodies, name: with_value(bodies[name], path, WRONG[wrong])})
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["report", str(directory), "--output-dir", str(directory / "out")])
    seconds = time.process_time() - began
    what = f"{name} {path} {WRONG[wrong]!r:.40}"
    assert seconds < AT_ONCE_S, f"{what}: {seconds:.1f} s"
    if status:
        sentence = err.getvalue()
        assert status == 2 and sentence.startswith("error: "), what
        assert len(sentence.splitlines()) == 1 and len(sentence) < 1000, f"{what}: {sentence}"
        assert sentence.rstrip().endswith((".", "?")), f"{what}: {sentence}"
    assert "\x1b" not in out.getvalue() + err.getvalue(), what


BODIES = make_run_bodies()


@pytest.mark.parametrize("case", random.Random(20).sample(cases(BODIES), 60), ids=str)
def test_a_wrong_value_in_a_field_of_a_run(tmp_path: Path, case: Case) -> None:
    check(tmp_path, BODIES, case)


@pytest.mark.slow
def test_every_wrong_value_in_every_field_of_a_run(tmp_path: Path) -> None:
    for case in cases(BODIES):
        check(tmp_path, BODIES, case)


@pytest.fixture(scope="module")
def study_bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    """The files of a finished study."""
    text = '[arms]\nobjectives = ["uniform", "chain"]\nsteps = [2, 4]\nseeds = [0, 1]\n'
    taus = {"held_back": [1, 2, 3, 4], "gsm8k": [2, 3]}
    files = write_study(tmp_path_factory.mktemp("studies") / "study", text, lambda arm: taus)
    lines = files.records.read_text().splitlines()
    return {
        files.study.name: json.loads(files.study.read_text()),
        files.records.name: [json.loads(line) for line in lines],
    }


def test_wrong_values_in_fields_of_a_study(tmp_path: Path, study_bodies: Bodies) -> None:
    for case in random.Random(21).sample(cases(study_bodies), 40):
        check(tmp_path, study_bodies, case)


@pytest.mark.slow
def test_every_wrong_value_in_every_field_of_a_study(tmp_path: Path, study_bodies: Bodies) -> None:
    for case in cases(study_bodies):
        check(tmp_path, study_bodies, case)


def refusal(tmp_path: Path, path: tuple[Any, ...], value: Any, name: str = "config.json") -> str:
    """What `report` says of one wrong value."""
    write_bodies(tmp_path, {**BODIES, name: with_value(BODIES[name], path, value)})
    with pytest.raises(UserError) as raised:
        load_run(tmp_path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("repeats",), 10**12, "repeats should be from 1 to 65,536"),
        (("repeats",), 0, "repeats should be from 1 to 65,536"),
        (("max_new_tokens",), -1, "max_new_tokens should be from 0 to"),
        (("sampling", "top_p"), 1.5, "sampling.top_p should be from 0 to 1"),
        (("methods", 2, "block_size"), 10**6, "methods[2].block_size should be from 0 to 4,096"),
        (("methods", 2, "draft_vocab_size"), "abc", "methods[2].draft_vocab_size should be int"),
        (("methods", 2, "checkpoint", "second"), 5, "checkpoint.second should be an object"),
        (
            ("methods", 2, "checkpoint", "second"),
            {"num_parameters": "many"},
            "checkpoint.second.num_parameters should be int and is of type str",
        ),
        (
            ("methods", 2, "checkpoint", "training", "hardware"),
            {"num_cores": [1]},
            "training.hardware.num_cores should be",
        ),
        (("tasks", 0, "num_turns"), [1, 10**9], "tasks[0].num_turns[1] should be from 0 to"),
        (("target", "exact_rows"), "8", "target.exact_rows should be int"),
    ],
)
def test_the_wrong_field_is_named(
    tmp_path: Path, path: tuple[Any, ...], value: Any, complaint: str
) -> None:
    assert complaint in refusal(tmp_path, path, value)


def test_a_draft_deeper_than_any_table_is_refused(tmp_path: Path) -> None:
    rounds = [{"depth": 5000, "nodes": 5000, "accepted": 0, "committed": 1}]
    rounds[0]["draft_tokens"] = [1] * 5000  # type: ignore[assignment]
    said = refusal(tmp_path, (1, "rounds"), rounds, "records.jsonl")
    assert "records.jsonl, line 2: generation.rounds[0].depth should be from 0 to 4,096" in said


def test_a_report_does_not_count_to_what_a_config_says(tmp_path: Path) -> None:
    body = with_value(BODIES["config.json"], ("repeats",), 2**16)
    write_bodies(tmp_path, {**BODIES, "config.json": body})
    began = time.process_time()
    write_leaderboard([tmp_path], tmp_path)
    assert time.process_time() - began < AT_ONCE_S


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"arms": []}, "arms is empty"),
        ({"objectives": {}}, "unknown objective"),
        ({"sources": {"gsm8k": {"run_id": 5}}}, "sources.gsm8k"),
        ({"bench": {"target": {"data": {"num_sequences": "x"}}}}, "num_sequences should be int"),
        ({"sessions": [{"hardware": 7}]}, "sessions[0].hardware should be an object"),
    ],
)
def test_the_wrong_field_of_a_study_is_named(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    text = '[arms]\nobjectives = ["uniform", "chain"]\nsteps = [4]\n'
    files = write_study(tmp_path / "study", text, lambda arm: {"held_back": [1, 2], "gsm8k": [2]})
    load_results(files.directory)
    body = json.loads(files.study.read_text())
    files.study.write_text(json.dumps({**body, **change}))
    with pytest.raises(UserError) as raised:
        load_results(files.directory)
    assert complaint in str(raised.value)


def test_a_study_of_very_many_arms_is_refused(tmp_path: Path) -> None:
    axes = f"seeds = {list(range(1000))}\nsteps = {list(range(1, 1001))}"
    (tmp_path / "x.toml").write_text(f'[arms]\nobjectives = ["uniform"]\n{axes}\n')
    with pytest.raises(UserError, match="asks for 1,000,000 trainings; 10,000 are the most"):
        read_study(tmp_path / "x.toml")
