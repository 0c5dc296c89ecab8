"""The project's own samples: every one is provably right."""

from __future__ import annotations

import doctest
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.registry import resolve
from tasks import TASKS, row_task
from tasks.base import PromptSet
from tasks.hub import Hub

SAMPLES = Path(__file__).parents[1] / "tasks/samples"


class NoHub(Hub):
    def snapshot(self, files: object) -> None:
        return None


def rows(name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]


def ids(row: dict[str, Any]) -> str:
    return str(row.get("task_id") or row["question_id"])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> PromptSet:
    monkeypatch.setattr(row_task, "HUB", NoHub())
    found: PromptSet = resolve("tasks", request.param).load().load(None, None)
    return found


@pytest.mark.parametrize("loaded", TASKS, indirect=True)
def test_samples_load_and_never_pass_for_the_benchmark(loaded: PromptSet) -> None:
    source = loaded.source
    name = source.location.removesuffix(".jsonl")
    assert name in TASKS
    assert len(loaded.prompts) == source.num_rows == len(rows(name)) >= 8
    assert source.kind == "samples" and not source.is_benchmark
    assert all("sample" in prompt.prompt_id.lower() for prompt in loaded.prompts)


@pytest.mark.parametrize("row", rows("humaneval"), ids=ids)
def test_humaneval_solutions_pass_their_checks(row: dict[str, Any]) -> None:
    space: dict[str, Any] = {}
    exec(row["prompt"] + row["canonical_solution"] + row["test"], space)
    space["check"](space[row["entry_point"]])
    tests = doctest.DocTestFinder().find(space[row["entry_point"]], row["task_id"], globs=space)
    results = [doctest.DocTestRunner(verbose=False).run(test) for test in tests]
    assert sum(result.attempted for result in results) >= 1
    assert sum(result.failed for result in results) == 0


@pytest.mark.parametrize("row", rows("humaneval"), ids=ids)
def test_humaneval_checks_reject_an_empty_body(row: dict[str, Any]) -> None:
    space: dict[str, Any] = {}
    exec(row["prompt"] + "    return 'wrong'\n" + row["test"], space)
    with pytest.raises(AssertionError):
        space["check"](space[row["entry_point"]])


@pytest.mark.parametrize("row", rows("mbpp"), ids=ids)
def test_mbpp_code_passes_its_asserts(row: dict[str, Any]) -> None:
    assert len(row["test_list"]) >= 3
    space: dict[str, Any] = {}
    exec("\n".join([*row["test_imports"], row["code"]]), space)
    for line in row["test_list"]:
        assert line.startswith("assert ")
        exec(line, space)


@pytest.mark.parametrize("row", rows("livecodebench"), ids=ids)
def test_livecodebench_solutions_pass_the_public_tests(row: dict[str, Any]) -> None:
    tests = json.loads(row["public_test_cases"])
    assert len(tests) >= 2
    for test in tests:
        if test["testtype"] == "stdin":
            done = subprocess.run(
                [sys.executable, "-I", "-c", row["solution"]],
                input=test["input"] + "\n",
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            assert done.stdout.split() == test["output"].split()
        else:
            assert called(row, test["input"]) == json.loads(test["output"])


def called(row: dict[str, Any], lines: str) -> Any:
    space: dict[str, Any] = {}
    exec("from typing import List\n" + row["solution"], space)
    function = getattr(space["Solution"](), json.loads(row["metadata"])["func_name"])
    return function(*map(json.loads, lines.split("\n")))


def test_livecodebench_samples_are_of_both_kinds_and_start_as_told() -> None:
    starters = [row["starter_code"] for row in rows("livecodebench")]
    assert min(starters.count(""), len(starters) - starters.count("")) >= 3
    for row in rows("livecodebench"):
        assert row["starter_code"].rstrip() in row["solution"]


@pytest.mark.parametrize("row", rows("livecodebench"), ids=ids)
def test_livecodebench_statements_show_their_first_test(row: dict[str, Any]) -> None:
    first = json.loads(row["public_test_cases"])[0]
    wanted = [first["output"]] if row["starter_code"] else [first["input"], first["output"]]
    statement = row["question_content"].replace(" ", "")
    assert all(text.replace(" ", "") in statement for text in wanted)


@pytest.mark.parametrize("row", rows("gsm8k"), ids=lambda row: row["question"][:20])
def test_gsm8k_arithmetic_holds(row: dict[str, Any]) -> None:
    steps = re.findall(r"<<([0-9+\-*/.]+)=(-?[0-9.]+)>>", row["answer"])
    assert len(steps) == row["answer"].count("<<") >= 2
    for expression, value in steps:
        assert math.isclose(eval(expression), float(value)), expression
    final = row["answer"].rpartition("#### ")[2].replace(",", "")
    assert float(final) == float(steps[-1][1])


def test_open_ended_samples_vary() -> None:
    assert len({row["category"] for row in rows("mt_bench")}) == 8
    inputs = [row["input"] for row in rows("alpaca")]
    assert any(inputs) and not all(inputs)
    assert all(row["output"] for row in rows("alpaca"))
