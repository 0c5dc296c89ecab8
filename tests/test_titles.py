"""Titles of sections, and which directories become sections at all."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from run_directories import BASELINES, ENVIRONMENT, config, source, write_run
from test_reports import records, settings

from harness.cli import main
from reports.render import leaderboard_text

PLAIN = "smollm2 · bfloat16 · Example CPU · greedy (temperature 0) · 1 task · 2 prompts"


def titles_of(paths: list[Path]) -> list[str]:
    lines = leaderboard_text(paths).splitlines()
    return [line.removeprefix("## ") for line in lines if line.startswith("## ")][:-1]


def test_sections_that_would_read_alike_name_what_differs(tmp_path: Path) -> None:
    other = copy.deepcopy(settings())
    other["target"]["attn"] = "eager"
    asked: dict[str, dict[str, Any]] = {
        "plain": settings(),
        "longer": {**settings(), "max_new_tokens": 256},
        "eager": other,
        "alone": {**settings(), "methods": [BASELINES[0], settings()["methods"][2]]},
        "ids": {
            **settings(),
            "tasks": [{"task": "gsm8k", "source": source(), "prompt_ids": ["1", "0"]}],
        },
    }
    first = write_run(tmp_path / "plain", records(), {**asked["plain"], "run_id": "plain"})
    for name, expected in (
        ("longer", ("max_new_tokens 128", "max_new_tokens 256")),
        ("eager", ("attention eager", "attention sdpa")),
        ("alone", ("baselines ar_loop", "baselines ar_loop, hf_generate")),
        ("ids", ("prompts of gsm8k 0, 1", "prompts of gsm8k 1, 0")),
    ):
        made = [item for item in records() if item.method != "hf_generate" or name != "alone"]
        second = write_run(tmp_path / name, made, {**asked[name], "run_id": name})
        assert sorted(titles_of([first, second])) == [f"{PLAIN} · {word}" for word in expected]
    assert titles_of([first]) == [PLAIN]


def test_sections_whose_titles_differ_already_stay_as_they_are(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", records(), settings())
    sampled = config(run_id="b", sampling={"temperature": 1.0, "top_p": 1.0, "top_k": 0})
    second = write_run(tmp_path / "b", records(), sampled)
    assert sorted(titles_of([first, second])) == [
        PLAIN,
        PLAIN.replace("greedy (temperature 0)", "temperature 1"),
    ]


def test_what_no_title_tells_apart_is_named_by_its_runs(tmp_path: Path) -> None:
    paths = []
    for name, middle in (("a", "1"), ("b", "2")):
        ids = ["0", middle, "3", "4", "5"]
        facts = config(
            run_id=name, tasks=[{"task": "gsm8k", "source": source(), "prompt_ids": ids}]
        )
        paths.append(write_run(tmp_path / name, [], facts, ENVIRONMENT))
    assert [title.rpartition(" · ")[2] for title in titles_of(paths)] == ["a", "b"]


def test_other_things_among_runs_are_skipped_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "c", records(), settings())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "study.json").write_text("{}")
    assert main(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"skipped {tmp_path / 'a'}: it is no run, for it has no config.json.",
        f"skipped {tmp_path / 'b'}: it is no run, for it has no environment.json.",
        f"skipped {tmp_path / 'd.txt'}: it is no directory.",
        f"skipped {tmp_path / 'e'}: it is a study, which is reported by itself.",
    ]
    assert (run / "leaderboard.html").is_file()
    assert not (tmp_path / "a" / "leaderboard.html").exists()


def test_where_nothing_is_a_run_there_is_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "none of the 2 paths is a run" in capsys.readouterr().err.splitlines()[-1]
    assert main(["report", str(tmp_path / "a")]) == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_a_damaged_run_or_a_misspelt_one_is_not_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "a", records(), settings())
    assert main(["report", str(run), str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    broken = write_run(tmp_path / "b", records(), {**settings(), "run_id": "b"})
    (broken / "config.json").write_text("{")
    assert main(["report", str(run), str(broken)]) == 2
    assert "is not JSON" in capsys.readouterr().err
