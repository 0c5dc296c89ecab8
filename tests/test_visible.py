"""Control characters in text of others: spelled out on both streams and on every page."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from run_bodies import make_run_bodies, write_bodies
from run_directories import failure
from study_directories import write_study

from harness import cli, progress
from harness.errors import UserError
from harness.records import to_json
from harness.visible import visible

HOSTILE = "\x1bc\x9b31m\x7f\u202e\u2066\x85\u2028\u200f"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
KEPT = {
    *("kind", "finish_reason", "verdict", "tokens_sha256", "prompt_sha256", "text_sha256", "text"),
    *("ce_reduction", "source_digest"),
}
"""Fields whose values are chosen from a list, or digests that are compared."""
NAMED = {"methods", "tasks", "versions", "settings", "held", "limits"}
"""Fields whose keys are names."""


def hostile(value: Any, field: str = "") -> Any:
    """The same with `HOSTILE` behind every text, names everywhere alike."""
    if isinstance(value, dict):
        names = {key: hostile(key) if field in NAMED else key for key in value}
        return {names[key]: hostile(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, field if isinstance(item, str) else "") for item in value]
    if isinstance(value, str) and field not in KEPT and value not in ("ar_loop", "hf_generate"):
        return value + HOSTILE
    return value


def said(*arguments: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue()


def require_visible(text: str) -> None:
    assert not RAW.search(text), repr(RAW.search(text))
    assert re.search(r"\\x1bc|\\u001bc", text)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose every text steers a terminal."""
    bodies = make_run_bodies()
    bodies["records.jsonl"].append(json.loads(to_json(failure(prompt_id="1", repeat=1))))
    write_bodies(tmp_path / "run", hostile(bodies))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1bc", r"a\x1bc"),
        ("\x00\x08\r\x7f\x80\x9f", r"\x00\x08\x0d\x7f\x80\x9f"),
        ("\u202eabc\u2069\u2028", r"\u202eabc\u2069\u2028"),
        ("\udcff", r"\udcff"),
        ("naïve – 語\n\tτ", "naïve – 語\n\tτ"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_reports_show_no_raw_control_characters(run_dir: Path) -> None:
    status, out, err = said("report", str(run_dir))
    assert status == 0, err
    require_visible(out)
    for name in ("leaderboard.md", "leaderboard.html"):
        require_visible((run_dir / name).read_text(encoding="utf-8"))


def test_comparisons_show_no_raw_control_characters(run_dir: Path, tmp_path: Path) -> None:
    bodies = hostile(make_run_bodies())
    bodies["config.json"]["target"]["dtype"] = "other" + HOSTILE
    write_bodies(tmp_path / "other", bodies)
    status, out, err = said("compare", str(run_dir), str(tmp_path / "other"), "--allow-different")
    assert status == 0, err
    require_visible(out)
    status, out, err = said("compare", str(run_dir), str(tmp_path / "other"))
    assert status == 2
    require_visible(err)


@pytest.mark.parametrize("command", ["score", "verify"])
def test_other_commands_show_no_raw_control_characters(run_dir: Path, command: str) -> None:
    status, out, err = said(command, str(run_dir))
    assert status == 2 and not RAW.search(out)
    require_visible(err)


def test_studies_show_no_raw_control_characters(tmp_path: Path) -> None:
    text = '[arms]\nobjectives = ["uniform", "chain"]\nsteps = [4]\n'
    taus = {"held_back": [1, 2, 3, 4] * 3, "gsm8k": [2, 3]}
    files = write_study(tmp_path / "st\x1bcudy", text, lambda arm: taus)
    for path in (files.study, files.records):
        body = path.read_text().replace('"chain"', json.dumps("chain" + HOSTILE))
        path.write_text(body.replace('"gsm8k"', json.dumps("gsm8k" + HOSTILE)))
    body = json.loads(files.study.read_text())
    hidden = {"hardware": {"cpu": "x" + HOSTILE}, "commit": HOSTILE, "dirty": True}
    files.study.write_text(json.dumps({**body, "sessions": [hidden]}))
    status, out, err = said("report", str(files.directory), "--output-dir", str(tmp_path))
    assert status == 0, err
    require_visible(out)
    for name in ("study.md", "study.html"):
        require_visible((tmp_path / name).read_text(encoding="utf-8"))


def test_messages_and_progress_show_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert not RAW.search(str(UserError(f"run {HOSTILE} is gone.")))
    progress.say(f"run      {HOSTILE}")
    require_visible(capsys.readouterr().err)
