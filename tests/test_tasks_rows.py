"""Broken data files: always one sentence with file and line, never another exception."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import UserError
from harness.registry import resolve
from tasks import TASKS
from tasks.row_task import SAMPLES
from tasks.rows import read_rows

texts = st.text(max_size=12)
rows_of_text = st.lists(st.fixed_dictionaries({"a": texts, "b": texts}), min_size=1, max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def bodies(path: Path) -> list[Any]:
    return [row.body for row in read_rows((path,), "directory")]


def encoded(rows: list[dict[str, str]]) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


@settings(max_examples=60, deadline=None)
@given(rows_of_text, st.data())
def test_truncated_jsonl_loads_whole_rows_at_a_line_end_or_raises(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], data: st.DataObject
) -> None:
    lines = encoded(rows)
    whole = b"".join(line + b"\n" for line in lines)
    cut = data.draw(st.integers(0, len(whole)))
    path = tmp_path_factory.mktemp("cut") / "rows.jsonl"
    path.write_bytes(whole[:cut])
    ends = [len(b"\n".join(lines[: number + 1])) for number in range(len(lines))]
    num_whole = sum(end <= cut for end in ends)
    if any(cut in (end, end + 1) for end in ends):
        assert bodies(path) == rows[:num_whole]
    else:
        with pytest.raises(UserError, match=r"rows\.jsonl(, line|: the file holds no rows)"):
            bodies(path)


@settings(max_examples=60, deadline=None)
@given(rows_of_text, st.sampled_from(["rows.jsonl.gz", "rows.json"]), st.data())
def test_truncated_archive_or_array_raises(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, str]],
    name: str,
    data: st.DataObject,
) -> None:
    if name.endswith(".gz"):
        whole = gzip.compress(b"".join(line + b"\n" for line in encoded(rows)))
    else:
        whole = json.dumps(rows).encode()
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(whole)
    assert bodies(path) == rows
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match=name):
        bodies(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["jsonl", "jsonl.gz", "json", "parquet"]))
def test_bytes_that_are_no_rows_raise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("noise") / f"rows.{ending}"
    path.write_bytes(data)
    with pytest.raises(UserError, match="download the file again"):
        bodies(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "rows.jsonl: the file holds no rows"),
        (b'{"a": 1}\n{"a": \n', "rows.jsonl, line 2: the JSON is broken or cut off"),
        (b'{"a": 1}\n\n{"a": 2\n', "rows.jsonl, line 3: the JSON is broken or cut off"),
        (b"\xef\xbb\xbf\n \t\r\n", "rows.jsonl: the file holds no rows"),
        (b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', "rows.jsonl, line 2: the JSON is broken"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "rows.jsonl, line 2: byte 8 is not UTF-8"),
        (b"[1]\n", "rows.jsonl, line 1: a row should be a JSON object and is of type list"),
    ],
)
def test_messages_name_file_and_line(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        bodies(path)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; download the file again or correct it.")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_blank_lines_and_a_byte_order_mark_are_passed_over(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / ("rows.jsonl.gz" if pack is gzip.compress else "rows.jsonl")
    path.write_bytes(pack(b'\xef\xbb\xbf\n {"a": 1}\r\n\r\n\t \n{"a": "\xef\xbb\xbf"} \n\n'))
    rows = list(read_rows((path,), "directory"))
    assert [(row.body["a"], row.index) for row in rows] == [(1, 0), ("\ufeff", 1)]
    assert [row.place for row in rows] == [f"{path}, line 2", f"{path}, line 5"]


def test_a_byte_order_mark_before_an_array(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'\xef\xbb\xbf[{"a": 1}]\n')
    assert bodies(path) == [{"a": 1}]


def test_an_array_names_line_or_item(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"a": 1},\n{"a": }\n]')
    with pytest.raises(UserError, match=r"rows\.json, line 3: the JSON is broken"):
        bodies(path)
    path.write_text('[{"a": 1}, 5]')
    with pytest.raises(UserError, match=r"rows\.json, item 2: a row should be a JSON object"):
        bodies(path)
    path.write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"line 2: a second value .* one a line in a \.jsonl file"):
        bodies(path)
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="should be a JSON array and is of type dict"):
        bodies(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "rows.jsonl"
    folder.mkdir()
    with pytest.raises(UserError, match=r"rows\.jsonl: the file cannot be read"):
        bodies(folder)


def test_a_parquet_file_gives_plain_lists(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"id": 3, "tests": ["a", "b"]}, {"id": 4, "tests": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert bodies(tmp_path / "rows.parquet") == rows


def sample_rows(name: str) -> list[dict[str, Any]]:
    lines = (SAMPLES / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / resolve("tasks", name).load().files[0].replace("*", "x")
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


REQUIRED = {
    "mt_bench": ["question_id", "category", "turns"],
    "gsm8k": ["question", "answer"],
    "humaneval": ["task_id", "prompt", "entry_point", "canonical_solution", "test"],
    "mbpp": ["task_id", "prompt", "code", "test_imports", "test_list"],
    "livecodebench": ["question_id", "question_content", "starter_code", "public_test_cases"],
    "alpaca": ["instruction", "output"],
}


@pytest.mark.parametrize(("name", "key"), [(n, k) for n, keys in REQUIRED.items() for k in keys])
def test_a_missing_key_names_key_file_and_line(tmp_path: Path, name: str, key: str) -> None:
    rows = sample_rows(name)
    del rows[1][key]
    write_rows(tmp_path, name, rows)
    with pytest.raises(UserError, match="line 2") as caught:
        resolve("tasks", name).load().load(tmp_path, None)
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("without", ["missing", "null"])
def test_an_instruction_needs_no_input(tmp_path: Path, without: str) -> None:
    row = {"instruction": "Name a tree.", "output": "Oak"}
    write_rows(tmp_path, "alpaca", [row if without == "missing" else {**row, "input": None}])
    (prompt,) = resolve("tasks", "alpaca").load().load(tmp_path, None).prompts
    assert prompt.turns == ("Name a tree.",)


def test_an_id_in_quotes_is_the_same_id(tmp_path: Path) -> None:
    """MBPP's split is told by numbers: a row of another one is left out, however it is written."""
    row = sample_rows("mbpp")[0]
    write_rows(tmp_path, "mbpp", [{**row, "task_id": "601"}, {**row, "task_id": "12"}])
    (prompt,) = resolve("tasks", "mbpp").load().load(tmp_path, None).prompts
    assert prompt.prompt_id == "12"
    write_rows(tmp_path, "mbpp", [{**row, "task_id": 12}, {**row, "task_id": "12"}])
    with pytest.raises(UserError, match="line 2: the id '12' was used before; correct the row"):
        resolve("tasks", "mbpp").load().load(tmp_path, None)


def changed(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: {**row, **changes}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gsm8k", changed(answer="It is 5."), "does not end in '#### <number>'"),
        ("mt_bench", changed(turns=["one"]), "should have 2 turns and has 1"),
        ("mt_bench", changed(turns="one"), "should be a list of strings and is of type str"),
        ("mt_bench", changed(question_id=1.5), "should be an id and is of type float"),
        ("mbpp", changed(task_id=True), "should be an id and is of type bool"),
        ("mbpp", changed(task_id=11.0), "should be an id and is of type float"),
        ("alpaca", changed(input=["a"]), "'input' should be a string and is of type list"),
        ("alpaca", changed(input=3), "'input' should be a string and is of type int"),
        ("livecodebench", changed(public_test_cases="[{"), "holds broken JSON"),
        ("livecodebench", changed(public_test_cases=[{"input": ""}]), "should list input"),
        (
            "livecodebench",
            changed(
                public_test_cases=[{"input": "1", "output": "1", "testtype": "functional"}],
                metadata="{}",
            ),
            "should give the func_name",
        ),
    ],
)
def test_a_row_that_makes_no_sense_is_named(
    tmp_path: Path,
    name: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    write_rows(tmp_path, name, [change(sample_rows(name)[0])])
    with pytest.raises(UserError, match="line 1") as caught:
        resolve("tasks", name).load().load(tmp_path, None)
    assert message in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(TASKS)), st.data())
def test_any_value_anywhere_loads_or_raises_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    row = data.draw(st.sampled_from(sample_rows(name)))
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(json_values)
    folder = tmp_path_factory.mktemp("odd")
    write_rows(folder, name, [row])
    try:
        found = resolve("tasks", name).load().load(folder, None)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(found.prompts) == 1


def test_an_archive_that_unpacks_to_one_endless_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.rows._LONGEST", 1000)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 1001))
    with pytest.raises(UserError, match="line 1: the line is longer than 1000 bytes"):
        bodies(path)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("deep", ["[" * 100_000, '{"a": ' * 100_000])
def test_nesting_without_end(tmp_path: Path, ending: str, deep: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_text(deep)
    with pytest.raises(UserError, match="nested too deeply"):
        bodies(path)


def test_each_file_holds_rows(tmp_path: Path) -> None:
    full, empty = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    full.write_text("{}\n{}\n")
    empty.write_text("\n")
    assert [row.index for row in read_rows((full, full), "directory")] == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"b\.jsonl: the file holds no rows"):
        list(read_rows((full, empty), "directory"))
