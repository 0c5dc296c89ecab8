"""Prompts, sources and subsets of the six tasks."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.registry import resolve
from tasks import TASKS, mt_bench
from tasks.base import PromptSet
from tasks.gsm8k import normalise_number
from tasks.row_task import RowTask
from tasks.rows import Row
from tests.upstream import DATA_DIR

NUM_ROWS = {
    "mt_bench": 80,
    "gsm8k": 660,
    "humaneval": 164,
    "mbpp": 129,
    "livecodebench": 171,
    "alpaca": 400,
}

needs_data = pytest.mark.skipif(DATA_DIR is None, reason="HARNESS_DATA_DIR names no data directory")


def task(name: str) -> RowTask:
    loaded: RowTask = resolve("tasks", name).load()
    return loaded


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(found: PromptSet) -> tuple[tuple[str, ...], str, dict[str, Any]]:
    (prompt,) = found.prompts
    return prompt.turns, prompt.prompt_id, dict(prompt.reference)


# --- templates, byte for byte -----------------------------------------------------------------


def test_gsm8k_prompt(tmp_path: Path) -> None:
    row = {"question": "How {many}?", "answer": "2+2=<<2+2=4>>4\n#### 1,004.50"}
    write_jsonl(tmp_path / "gsm8k/test.jsonl", [row])
    turns, prompt_id, reference = only(task("gsm8k").load(tmp_path, None))
    assert turns == (
        "How {many}?\nPlease reason step by step, and put your final answer within \\boxed{}.",
    )
    assert prompt_id == "gsm8k/test/0"
    assert reference == {"answer": "1004.5", "solution": row["answer"]}


def test_humaneval_prompt(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/7",
        "prompt": "def f(x: dict) -> dict:\n    '''{}'''\n",
        "entry_point": "f",
        "canonical_solution": "    return x\n",
        "test": "def check(candidate):\n    assert candidate({}) == {}\n",
    }
    write_jsonl(tmp_path / "humaneval/HumanEval.jsonl", [row])
    turns, prompt_id, reference = only(task("humaneval").load(tmp_path, None))
    assert turns == (
        "Write a solution to the following problem and make sure that it passes the tests:\n"
        "```python\ndef f(x: dict) -> dict:\n    '''{}'''\n\n```",
    )
    assert prompt_id == "HumanEval/7"
    assert reference == {key: row[key] for key in row if key != "task_id"}


def test_mbpp_prompt_shows_no_tests(tmp_path: Path) -> None:
    row = {
        "source_file": "x",
        "task_id": 12,
        "prompt": "Write a function.",
        "code": "def f(): return 1",
        "test_imports": ["import math"],
        "test_list": ["assert f() == 1"],
    }
    write_jsonl(tmp_path / "mbpp/sanitized_test.jsonl", [row])
    turns, prompt_id, reference = only(task("mbpp").load(tmp_path, None))
    assert turns == ("Write a function.",)
    assert prompt_id == "12"
    assert reference == {
        "tests": ("assert f() == 1",),
        "test_imports": ("import math",),
        "code": row["code"],
    }


@pytest.mark.parametrize("key", ["turns", "prompt"])
def test_mt_bench_turns_are_raw(tmp_path: Path, key: str) -> None:
    row = {"question_id": 81, "category": "writing", key: ["First? ", "Second\n"]}
    write_jsonl(tmp_path / "mt_bench/question.jsonl", [row])
    turns, prompt_id, reference = only(task("mt_bench").load(tmp_path, None))
    assert turns == ("First? ", "Second\n")
    assert prompt_id == "81"
    assert reference == {"category": "writing"}


def test_questions_with_another_text_than_fastchats_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [[f"First {number}?", "Second?"] for number in range(81, 84)]
    monkeypatch.setattr(mt_bench, "_DIGESTS", "".join(map(mt_bench.digest, turns)))

    def note(changed: dict[int, list[str]]) -> str:
        rows = [
            {"question_id": number, "category": "c", "turns": changed.get(number, known)}
            for number, known in enumerate(turns, start=81)
        ]
        write_jsonl(tmp_path / "mt_bench/question.jsonl", rows)
        return task("mt_bench").load(tmp_path, 1).source.note

    assert note({}) == ""
    assert note({82: ["First 82?", "Second? "]}) == ("question 82 has another text than FastChat's")
    others = {81: ["First 81?Second?", ""], 83: ["Second?", "First 83?"]}
    assert note(others) == "2 questions have another text than FastChat's"


@pytest.mark.parametrize(
    ("context", "turn"), [("", "Do it."), ("a {b}\nc", "Do it.\n\nInput:\na {b}\nc")]
)
def test_alpaca_prompt(tmp_path: Path, context: str, turn: str) -> None:
    row = {"instruction": "Do it.", "input": context, "output": "Done."}
    write_jsonl(tmp_path / "alpaca/alpaca.jsonl", [row])
    assert only(task("alpaca").load(tmp_path, None)) == (
        (turn,),
        "alpaca/train/0",
        {"output": "Done."},
    )


def livecodebench_row(**changes: Any) -> dict[str, Any]:
    test = {"input": "1", "output": "2", "testtype": "stdin"}
    return {
        "question_id": "abc1_a",
        "question_content": "Add {one}.",
        "starter_code": "",
        "platform": "atcoder",
        "difficulty": "easy",
        "public_test_cases": json.dumps([test]),
        "private_test_cases": "gASVDAAAAAAAAACMBXBvc2l4lC4=",
        "metadata": "{}",
        **changes,
    }


LIVECODEBENCH_HEAD = (
    "You are an expert Python programmer. You will be given a question (problem specification) and"
    " will generate a correct Python program that matches the specification and passes all tests."
    " You will NOT return anything except for the program\n\n### Question:\nAdd {one}.\n\n"
)
LIVECODEBENCH_TAIL = "\n```\n\n### Answer: (use the provided format with backticks)"


def test_livecodebench_prompt_without_starter_code(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "livecodebench/test.jsonl", [livecodebench_row()])
    turns, prompt_id, reference = only(task("livecodebench").load(tmp_path, None))
    assert turns == (
        LIVECODEBENCH_HEAD
        + "### Format: Write your code in the following format:\n```python\n# YOUR CODE HERE"
        + LIVECODEBENCH_TAIL,
    )
    assert prompt_id == "abc1_a"
    assert reference == {
        "public_tests": [{"input": "1", "output": "2", "testtype": "stdin"}],
        "starter_code": "",
        "platform": "atcoder",
        "difficulty": "easy",
    }


def test_livecodebench_prompt_with_starter_code(tmp_path: Path) -> None:
    starter_code = "class Solution:\n    def add(self, x: int) -> int:\n        "
    tests = [{"input": "1", "output": "2", "testtype": "functional", "note": "dropped"}]
    row = livecodebench_row(
        starter_code=starter_code, public_test_cases=tests, metadata={"func_name": "add"}
    )
    write_jsonl(tmp_path / "livecodebench/problems_x.jsonl", [row])
    turns, _, reference = only(task("livecodebench").load(tmp_path, None))
    assert turns == (
        LIVECODEBENCH_HEAD
        + "### Format: Use the following code structure:\n```python\n"
        + starter_code
        + LIVECODEBENCH_TAIL,
    )
    assert reference["function_name"] == "add"
    assert reference["public_tests"] == [{"input": "1", "output": "2", "testtype": "functional"}]
    assert "private" not in repr(reference)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("18", "18"), ("1,050.0", "1050"), ("-0.50", "-0.5"), ("0", "0"), ("-0.0", "0")],
)
def test_normalise_number(text: str, normal: str) -> None:
    assert normalise_number(text) == normal


@given(st.integers(-(10**12), 10**12))
def test_normalised_integers_do_not_depend_on_how_they_are_written(number: int) -> None:
    assert normalise_number(f"{number:,}") == normalise_number(f"{number}.00") == str(number)


# --- sources ------------------------------------------------------------------------------------


def test_directory_source_names_file_and_digest(tmp_path: Path) -> None:
    row = {"instruction": "Do it.", "input": "", "output": "Done."}
    path = write_jsonl(tmp_path / "alpaca/alpaca.jsonl", [row])
    source = task("alpaca").load(tmp_path, None).source
    assert (source.kind, source.location) == ("directory", "alpaca/alpaca.jsonl")
    assert (source.revision, source.num_rows) == (None, 1)
    assert source.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.is_benchmark


def test_upstream_file_names_are_taken_too(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "p", "entry_point": "e", "test": "t"}
    data = (json.dumps({**row, "canonical_solution": "s"}) + "\n").encode()
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(data))
    alpaca = [{"instruction": "Do it.", "input": "", "output": "Done."}] * 2
    (tmp_path / "alpaca_data.json").write_text(json.dumps(alpaca), encoding="utf-8")
    assert task("humaneval").load(tmp_path, None).source.location == "HumanEval.jsonl.gz"
    assert task("alpaca").load(tmp_path, None).source.num_rows == 2


def test_mbpp_keeps_the_test_split_alone(tmp_path: Path) -> None:
    base = {"prompt": "p", "code": "c", "test_imports": [], "test_list": ["assert True"]}
    rows = [{"task_id": task_id, **base} for task_id in (2, 10, 11, 510, 511, 974)]
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(rows), encoding="utf-8")
    found = task("mbpp").load(tmp_path, None)
    assert {prompt.prompt_id for prompt in found.prompts} == {"11", "510"}
    assert found.source.num_rows == 2
    (tmp_path / "sanitized-mbpp.json").write_text(json.dumps(rows[:2]), encoding="utf-8")
    with pytest.raises(UserError, match="no row belongs to mbpp"):
        task("mbpp").load(tmp_path, None)


def test_livecodebench_files_are_read_in_upstreams_order(tmp_path: Path) -> None:
    folder = tmp_path / "livecodebench"
    paths = [
        write_jsonl(folder / name, [livecodebench_row(question_id=name)])
        for name in ("test.jsonl", "test2.jsonl", "test10.jsonl")
    ]
    source = task("livecodebench").load(tmp_path, None).source
    assert source.location == (
        "livecodebench/test.jsonl, livecodebench/test2.jsonl, livecodebench/test10.jsonl"
    )
    joined = b"".join(path.read_bytes() for path in paths)
    assert source.digest == hashlib.sha256(joined).hexdigest()
    assert source.num_rows == 3


@pytest.mark.parametrize("name", TASKS)
def test_directory_without_the_file_is_an_error_that_says_what_was_looked_for(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError) as caught:
        task(name).load(tmp_path, None)
    assert str(tmp_path) in str(caught.value)
    assert all(pattern in str(caught.value) for pattern in task(name).files)


# --- subsets ------------------------------------------------------------------------------------


def numbered(tmp_path: Path, ids: Iterable[int]) -> Path:
    rows = [{"question_id": i, "category": "c", "turns": ["a", "b"]} for i in ids]
    write_jsonl(tmp_path / "mt_bench/question.jsonl", rows)
    return tmp_path


def chosen(data_dir: Path, limit: int | None) -> list[str]:
    return [prompt.prompt_id for prompt in task("mt_bench").load(data_dir, limit).prompts]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=30), st.data())
def test_a_smaller_limit_is_a_prefix_and_file_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, ids: set[int], data: st.DataObject
) -> None:
    first = numbered(tmp_path_factory.mktemp("rows"), sorted(ids))
    other = numbered(tmp_path_factory.mktemp("rows"), data.draw(st.permutations(sorted(ids))))
    small = data.draw(st.integers(1, len(ids)))
    large = data.draw(st.integers(small, len(ids) + 5))
    assert chosen(first, small) == chosen(other, large)[:small]
    assert len(chosen(first, large)) == min(large, len(ids))
    assert chosen(first, None) == chosen(other, len(ids))
    assert {int(prompt_id) for prompt_id in chosen(first, None)} == ids


def test_the_subset_never_changes(tmp_path: Path) -> None:
    assert chosen(numbered(tmp_path, range(81, 161)), 5) == ["111", "110", "92", "87", "103"]


def test_the_whole_set_counts_in_the_source_even_with_a_limit(tmp_path: Path) -> None:
    assert task("mt_bench").load(numbered(tmp_path, range(9)), 2).source.num_rows == 9


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_an_error(tmp_path: Path, limit: int) -> None:
    with pytest.raises(UserError, match="give 1 or more"):
        task("mt_bench").load(numbered(tmp_path, range(3)), limit)


def test_an_id_used_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: the id '5' was used before"):
        task("mt_bench").load(numbered(tmp_path, [5, 6, 5]), None)


# --- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_entry_carries_its_name(name: str) -> None:
    assert task(name).name == name


def test_importing_the_tasks_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pandas", "datasets", "huggingface_hub", "pyarrow")
    code = (
        "import sys; from tasks import TASKS; [entry.load() for entry in TASKS.values()];"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_upstream_files_are_read_whole(name: str) -> None:
    found = task(name).load(DATA_DIR, None)
    assert found.source.num_rows == len(found.prompts) == NUM_ROWS[name]
    assert all(turn.strip() for prompt in found.prompts for turn in prompt.turns)
    assert {prompt.task for prompt in found.prompts} == {name}


@needs_data
def test_at_most_the_hubs_one_question_has_another_text() -> None:
    words = "question 121 has another text than FastChat's"
    assert task("mt_bench").load(DATA_DIR, None).source.note in ("", words)


@needs_data
@pytest.mark.parametrize("name", TASKS)
def test_no_sample_is_a_benchmark_prompt(name: str) -> None:
    benchmark = task(name).load(DATA_DIR, None)
    turns = {turn for prompt in benchmark.prompts for turn in prompt.turns}
    lines = (Path(__file__).parents[1] / f"tasks/samples/{name}.jsonl").read_text("utf-8")
    for index, line in enumerate(lines.splitlines()):
        row = Row(body=json.loads(line), index=index, place="", kind="samples")
        prompt = task(name).parse(row)
        assert prompt is not None and turns.isdisjoint(prompt.turns)
