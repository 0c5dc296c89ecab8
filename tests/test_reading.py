"""Files of others: regular ones alone, within bounds, and JSON that means one thing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from run_directories import answers, config, write_run

from drafters.block_diffusion.checkpoint_files import locate
from drafters.ngram_model import NgramModel
from harness import reading
from harness.errors import UserError
from harness.reading import num_torn_bytes, open_regular, read_text, read_whole_lines
from harness.run_files import RunFiles, reopen
from harness.study_toml import read_study
from harness.typed_json import parse_json
from harness.whole_file import write_text
from reports.run import load_run
from targets.base import TargetOptions
from targets.pretrained import load_pretrained
from tasks.rows import read_rows


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # the path of a socket must be short
        server.bind(path.name)


IRREGULAR = pytest.mark.parametrize("put", [pipe, link_to_a_device, listening])
Put = Callable[[Path], None]


@IRREGULAR
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "x")
    with pytest.raises(OSError):
        open_regular(tmp_path / "x")


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"\xef\xbb\xbf{}")
    (tmp_path / "link").symlink_to("real")
    assert read_text(tmp_path / "link") == "{}"


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"short\n" + b"x" * 20 + b"\nend\n")
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_text(path, 10)
    lines = read_whole_lines(path, 10)
    assert next(lines) == (1, b"short\n")
    with pytest.raises(ValueError, match=r"x, line 2: it is longer than 10 bytes"):
        next(lines)
    with pytest.raises(ValueError, match=r"^byte 2 is not UTF-8$"):
        reading.decoded(b"a\xff")


@pytest.mark.parametrize("block", [1, 3, 2**20])
@pytest.mark.parametrize(
    ("body", "torn"), [(b"", 0), (b"a\n", 0), (b"a\nbc", 2), (b"abcdef", 6), (b"\n\n", 0)]
)
def test_bytes_of_a_torn_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes, torn: int, block: int
) -> None:
    monkeypatch.setattr(reading, "_BLOCK", block)
    (tmp_path / "x").write_bytes(body)
    assert num_torn_bytes(tmp_path / "x") == torn


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "key 'a' twice"),
        ('{"x": [{"k": null, "k": null}]}', "key 'k' twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e400", "too large"),
        ("1" + "0" * 400, "too large"),
        ("-" + "9" * 5000, "too large"),
        ("[" * 65 + "]" * 65, "nested too deeply"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_json(text)


def nested(depth: int) -> list[object]:
    return [nested(depth - 1)] if depth > 1 else []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("1e-400", 0.0),
        ('"' + "[" * 100 + '"', "[" * 100),
        ("[" * 64 + "]" * 64, nested(64)),
        ("[" + ",".join(["[]"] * 99) + "]", [[]] * 99),
    ],
)
def test_json_that_is_read(text: str, value: object) -> None:
    assert parse_json(text) == value


# Every place where a file of others is read


def run_at(path: Path) -> Path:
    settings = config(methods=[{"method": "combined", "kind": "drafter"}])
    return write_run(path, answers([[1, 2]]), settings)


@IRREGULAR
@pytest.mark.parametrize(
    "name", ["config.json", "environment.json", "records.jsonl", "records.rank1.jsonl"]
)
def test_run_directories_with_pipes_and_devices(tmp_path: Path, name: str, put: Put) -> None:
    path = run_at(tmp_path / "run") / name
    path.unlink(missing_ok=True)
    put(path)
    with pytest.raises(UserError, match=r"cannot be read \(.*config.json, environment.json"):
        load_run(tmp_path / "run")


@IRREGULAR
@pytest.mark.parametrize("name", ["audit.jsonl", "draws.jsonl", "scoring.json"])
def test_findings_that_are_pipes_and_devices(tmp_path: Path, name: str, put: Put) -> None:
    put(run_at(tmp_path / "run") / name)
    with pytest.raises(UserError, match=r"remove .*call harness (verify|score)"):
        load_run(tmp_path / "run")


def test_lines_of_records_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_at(tmp_path / "run") / "records.jsonl"
    with path.open("r+b") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    with pytest.raises(UserError, match=r"records\.jsonl, line 2: it is longer than 67,108,864"):
        load_run(tmp_path / "run")


@IRREGULAR
def test_checkpoints_with_pipes_and_devices(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"config\.json cannot be read .*fetch the checkpoint"):
        locate(str(tmp_path))
    put(tmp_path / "ngram.safetensors")
    with pytest.raises(UserError, match=r"ngram\.safetensors cannot be used"):
        NgramModel.load(tmp_path / "ngram.safetensors", 9)


@IRREGULAR
def test_targets_with_pipes_and_devices(tmp_path: Path, put: Put) -> None:
    put(tmp_path / "config.json")
    with pytest.raises(UserError, match="not a regular file"):
        load_pretrained(str(tmp_path), TargetOptions(name=str(tmp_path), device="cpu"))


@IRREGULAR
@pytest.mark.parametrize("name", ["x.toml", "x.jsonl", "x.jsonl.gz", "x.json", "x.parquet"])
def test_studies_and_data_that_are_pipes_and_devices(tmp_path: Path, name: str, put: Put) -> None:
    put(path := tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}.* cannot be read"):
        read_study(path) if name == "x.toml" else list(read_rows((path,), "directory"))


def test_a_study_file_is_small(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("#" * (2**20 + 1))
    with pytest.raises(UserError, match="it is larger than 1,048,576 bytes"):
        read_study(tmp_path / "x.toml")


def test_what_is_no_record_is_not_cut_by_resuming(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear reader,\nyours")
    run = run_at(tmp_path / "run")
    (run / "records.jsonl").unlink()
    (run / "records.jsonl").symlink_to(letter)
    found = load_settings(run)
    with pytest.raises(UserError, match="cannot be resumed"):
        reopen(RunFiles(run), *found)
    assert letter.read_text() == "Dear reader,\nyours"


def load_settings(run: Path) -> tuple[dict[str, object], dict[str, object]]:
    settings = parse_json(read_text(run / "config.json"))
    del settings["run_id"]
    return settings, parse_json(read_text(run / "environment.json"))


def test_a_page_is_not_written_through_a_link_of_others(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader")
    (tmp_path / "page.md.partial").symlink_to("letter.txt")
    write_text(tmp_path / "page.md", "new")
    os.mkfifo(tmp_path / "page.md.partial")
    write_text(tmp_path / "page.md", "newer")
    assert (tmp_path / "letter.txt").read_text() == "Dear reader"
    assert (tmp_path / "page.md").read_text() == "newer"


def test_a_byte_order_mark_is_left_out_where_a_file_begins_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"\xef\xbb\xbffirst\n\xef\xbb\xbfsecond\n")
    assert list(read_whole_lines(path)) == [(1, b"first\n"), (2, b"\xef\xbb\xbfsecond\n")]
