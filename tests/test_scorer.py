"""Scoring a run directory through the command line, with programs of the test's own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plain_sandbox
import pytest
from run_directories import BASELINES, config, drafter, generation, write_run

from harness.cli import main
from harness.errors import UserError
from harness.line_writers import ScoreWriter
from harness.records import Generation, key_of
from harness.score_records import Score, from_json, read_scores, read_scoring, to_json
from tasks.base import Prompt
from tasks.row_task import RowTask

FLAG = "--confirm-run-unsafe-code"
METHODS = ("ar_loop", "hf_generate", "combined")


@pytest.fixture(autouse=True)
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs of this test run as they are, and prompts are the samples."""
    monkeypatch.setitem(sys.modules, "tasks.sandbox", plain_sandbox)
    monkeypatch.setattr("tasks.row_task.HUB.snapshot", lambda files: None)
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    plain_sandbox.programs.clear()
    yield
    plain_sandbox.programs.clear()


def prompts(name: str) -> tuple[Prompt, ...]:
    from tasks import gsm8k, humaneval, mt_bench

    tasks: dict[str, RowTask] = {
        "gsm8k": gsm8k.TASK,
        "humaneval": humaneval.TASK,
        "mt_bench": mt_bench.TASK,
    }
    return tasks[name].load(None, 2).prompts


def settings(names: Sequence[str] = ("gsm8k", "humaneval", "mt_bench")) -> dict[str, Any]:
    from harness.plan import load_tasks

    loaded = load_tasks(tuple(names), None, 2)
    facts = [
        {
            "task": name,
            "source": dataclasses.asdict(chosen.source),
            "prompt_ids": [prompt.prompt_id for prompt in chosen.prompts],
        }
        for name, chosen in loaded.items()
    ]
    return config(tasks=facts, methods=[*BASELINES, drafter("combined")])


def text_of(task: str, prompt: Prompt, method: str, number: int) -> str:
    """Right on the first prompt; on the second right for all but ``combined``."""
    if task == "mt_bench":
        return "Dear friend,"
    if number == 1 and method == "combined":
        return "no idea"
    if task == "gsm8k":
        return f"so \\boxed{{{prompt.reference['answer']}}}"
    return "```python\n" + str(prompt.reference["prompt"] + prompt.reference["canonical_solution"])


def answers(names: Sequence[str] = ("gsm8k", "humaneval", "mt_bench")) -> list[Generation]:
    return [
        generation(
            task=name,
            prompt_id=prompt.prompt_id,
            method=method,
            num_new_tokens=3,
            text=text_of(name, prompt, method, number),
        )
        for name in names
        for number, prompt in enumerate(prompts(name))
        for method in METHODS
    ]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", answers(), settings())


class Scored:
    """A finished ``harness score``."""

    def __init__(self, capsys: pytest.CaptureFixture[str], run_dir: Path, *flags: str) -> None:
        self.status = main(["score", str(run_dir), *flags])
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err
        self.summary: dict[str, Any] = json.loads(self.out.splitlines()[-1]) if self.out else {}


def lines(run_dir: Path) -> list[Score]:
    return [from_json(line) for line in (run_dir / "scores.jsonl").read_text().splitlines()]


def test_numbers_are_scored_and_programs_only_when_allowed(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Scored(capsys, run_dir)
    assert (first.status, first.summary["num_scored"], first.summary["num_not_run"]) == (0, 6, 6)
    assert plain_sandbox.programs == []
    assert {score.task for score in lines(run_dir)} == {"gsm8k"}
    assert "humaneval      combined: 2 not run" in first.out and "mt_bench" not in first.out
    scoring = read_scoring(run_dir / "scoring.json")
    assert (
        scoring is not None
        and scoring.code is None
        and set(scoring.tasks)
        == {
            "gsm8k",
            "humaneval",
        }
    )
    second = Scored(capsys, run_dir, FLAG)
    assert (second.summary["num_scored"], second.summary["num_not_run"]) == (12, 0)
    assert "gsm8k          combined: 1 passed, 1 error" in second.out
    assert "humaneval      combined: 1 passed, 1 error" in second.out
    assert "humaneval      ar_loop: 2 passed" in second.out
    scoring = read_scoring(run_dir / "scoring.json")
    assert scoring is not None and scoring.code is not None
    assert scoring.code.containment["held"] == {"cpu_time": True, "open_reads": False}
    assert scoring.code.limits["wall_s"] == 10.0 and scoring.code.numpy == "2.0.1"
    third = Scored(capsys, run_dir)
    assert third.summary == second.summary and len(lines(run_dir)) == 12


def test_a_text_is_tried_once_and_each_answer_gets_its_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scored(capsys, run_dir, FLAG)
    # Two prompts; on the second one method differs.
    assert len(plain_sandbox.programs) == 3
    scored = lines(run_dir)
    assert len({key_of(score) for score in scored}) == len(scored) == 12
    assert len({(item.task, item.prompt_id, item.text_sha256) for item in scored}) == 6


def test_scoring_goes_on_where_it_was_cut_off(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scored(capsys, run_dir, FLAG)
    path = run_dir / "scores.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    code = [number for number, line in enumerate(whole) if '"humaneval"' in line]
    kept = [line for number, line in enumerate(whole) if number not in code[1:]]
    path.write_text("".join(kept) + whole[code[1]][:20])
    plain_sandbox.programs.clear()
    again = Scored(capsys, run_dir, FLAG)
    assert again.summary["num_scored"] == 12 and "cut off a torn last score" in again.err
    assert sorted(path.read_text().splitlines()) == sorted(line.strip() for line in whole)
    assert len(plain_sandbox.programs) == 2  # the text of the line that stayed is known


def test_another_text_or_rule_is_scored_anew(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Scored(capsys, run_dir)
    made = answers()
    changed = dataclasses.replace(made[0], text="\\boxed{-1}")
    scoring = read_scoring(run_dir / "scoring.json")
    found = read_scores(run_dir / "scores.jsonl", scoring, [changed, *made[1:]])
    assert key_of(changed) not in found and len(found) == 5
    from tasks import gsm8k

    newer = dataclasses.replace(gsm8k.TASK.grader, rule="gsm8k/next")
    monkeypatch.setattr(gsm8k, "TASK", dataclasses.replace(gsm8k.TASK, grader=newer))
    assert Scored(capsys, run_dir).summary["num_scored"] == 6
    assert [score.rule for score in lines(run_dir)] == ["gsm8k/3"] * 6 + ["gsm8k/next"] * 6


def test_other_prompts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = settings()
    facts["tasks"][0]["source"]["digest"] = "f" * 64
    run_dir = write_run(tmp_path / "run", answers(), facts)
    refused = Scored(capsys, run_dir)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "the prompts of gsm8k here" in refused.err and "--data-dir" in refused.err
    assert not (run_dir / "scores.jsonl").exists()


def test_other_limits_are_refused(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Scored(capsys, run_dir, FLAG)
    path = run_dir / "scores.jsonl"
    texts = [score.text_sha256 for score in lines(run_dir)]  # whichever program ended first
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    limits = dataclasses.make_dataclass("Limits", [("wall_s", float, 99.0)], frozen=True)
    monkeypatch.setattr(plain_sandbox, "Limits", limits)
    refused = Scored(capsys, run_dir, FLAG)
    assert refused.status == 2 and "ran under other limits or containment" in refused.err
    # The seventh line's text is known; all answers that hold it are scored, and no program ran.
    assert len(lines(run_dir)) == 6 + texts.count(texts[6])
    assert len(plain_sandbox.programs) == 3


def test_trouble_of_the_machine_is_no_verdict(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *programs: str, **limits: Any) -> plain_sandbox.Finished:
        raise UserError("no process could be started")

    monkeypatch.setattr(plain_sandbox.Sandbox, "converse", fail)
    stopped = Scored(capsys, run_dir, FLAG)
    assert stopped.status == 2 and "no process could be started" in stopped.err
    assert {score.task for score in lines(run_dir)} == {"gsm8k"}
    assert len(lines(run_dir)) == 6


def test_numbers_are_scored_where_no_program_can_run(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_sandbox, "Sandbox", refused_sandbox)
    stopped = Scored(capsys, run_dir, FLAG)
    assert stopped.status == 2 and "programs are not scored: no fence" in stopped.err
    assert [score.task for score in lines(run_dir)] == ["gsm8k"] * 6
    scoring = read_scoring(run_dir / "scoring.json")
    assert scoring is not None and scoring.code is None


def refused_sandbox() -> plain_sandbox.Sandbox:
    raise UserError("no fence can be put up.")


def test_scores_that_nothing_describes_are_not_kept(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Scored(capsys, run_dir, FLAG)
    (run_dir / "scoring.json").unlink()
    refused = Scored(capsys, run_dir, FLAG)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert str(run_dir / "scores.jsonl") in refused.err
    assert str(run_dir / "scoring.json") in refused.err
    assert not (run_dir / "scoring.json").exists()
    (run_dir / "scores.jsonl").unlink()
    assert Scored(capsys, run_dir, FLAG).summary["num_scored"] == 12


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), SystemExit(3)])
def test_a_rule_that_fails_is_one_sentence(
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    from tasks import gsm8k

    judge = gsm8k.judge

    def fail(prompt: Prompt, text: str) -> Any:
        if text == "no idea":
            raise error
        return judge(prompt, text)

    broken = dataclasses.replace(gsm8k.TASK.grader, judge=fail)
    monkeypatch.setattr(gsm8k, "TASK", dataclasses.replace(gsm8k.TASK, grader=broken))
    stopped = Scored(capsys, run_dir, FLAG)
    assert stopped.status == 2
    last = stopped.err.splitlines()[-1]
    assert (
        "texts not scored: 1, the first because rule gsm8k/3 failed" in last
        and type(error).__name__ in last
    )
    assert len(lines(run_dir)) == 11


def test_a_system_that_does_not_tell_its_cores(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert Scored(capsys, run_dir).summary["num_scored"] == 6


def test_a_run_counts_the_scores_it_has(
    toy_plugin: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain_sandbox, "Sandbox", refused_sandbox)
    flags = ["--target", "toy", "--drafter", "oracle", "--baseline", "ar_loop", "--device", "cpu"]
    sizes = ["--tasks", "gsm8k,humaneval", "--limit", "2", "--max-new-tokens", "8", FLAG]
    paths = ["--plugin", str(toy_plugin), "--output-dir", str(tmp_path)]
    assert main(["run", *flags, *sizes, *paths]) == 0
    out, err = capsys.readouterr()
    assert "programs are not scored: no fence" in err
    assert json.loads(out.splitlines()[-1])["num_scored"] == 4


@pytest.mark.parametrize(
    "damage",
    [
        {"code": {}},
        {"code": {"limits": []}},
        {"code": {"limits": {"wall_s": "x"}}},
        {"code": {"containment": {"held": []}}},
    ],
)
def test_damaged_facts_are_one_sentence(
    run_dir: Path, capsys: pytest.CaptureFixture[str], damage: dict[str, Any]
) -> None:
    Scored(capsys, run_dir, FLAG)
    path = run_dir / "scoring.json"
    body = json.loads(path.read_text())
    body["code"] = {**body["code"], **damage["code"]} if damage["code"] else {}
    path.write_text(json.dumps(body))
    assert main(["report", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "scoring.json is not a description of scores: it.code" in error
    assert str(run_dir / "scores.jsonl") in error and error.count("\n") == 1


def test_ctrl_c_keeps_what_was_scored(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = ScoreWriter.append

    def interrupted(writer: ScoreWriter, score: Score) -> None:
        if len(lines(run_dir)) == 2:
            raise KeyboardInterrupt
        append(writer, score)

    monkeypatch.setattr(ScoreWriter, "append", interrupted)
    assert main(["score", str(run_dir)]) == 130
    assert len(lines(run_dir)) == 2
    monkeypatch.setattr(ScoreWriter, "append", append)
    capsys.readouterr()
    assert Scored(capsys, run_dir).summary["num_scored"] == 6


def test_broken_files_are_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Scored(capsys, run_dir)
    (run_dir / "scores.jsonl").write_text('{"schema_version": 1}\n')
    broken = Scored(capsys, run_dir)
    assert broken.status == 2 and "scores.jsonl, line 1: score lacks task" in broken.err
    (run_dir / "scores.jsonl").unlink()
    (run_dir / "scoring.json").write_text("[]")
    broken = Scored(capsys, run_dir)
    assert broken.status == 2 and "scoring.json is not a description of scores" in broken.err


def test_a_run_without_a_scored_task_leaves_no_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = write_run(tmp_path / "run", answers(["mt_bench"]), settings(["mt_bench"]))
    done = Scored(capsys, run_dir, FLAG)
    assert (done.status, done.summary["num_scored"], done.summary["num_not_run"]) == (0, 0, 0)
    assert not list(run_dir.glob("scor*"))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_run_ends_with_its_scores(
    allowed: bool, toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--target", "toy", "--drafter", "oracle", "--baseline", "ar_loop", "--device", "cpu"]
    sizes = ["--tasks", "gsm8k,humaneval", "--limit", "2", "--max-new-tokens", "8"]
    paths = ["--plugin", str(toy_plugin), "--output-dir", str(tmp_path)]
    assert main(["run", *flags, *sizes, *paths, *([FLAG] if allowed else [])]) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out.splitlines()[-1])
    page = Path(summary["leaderboard_md"]).read_text(encoding="utf-8")
    assert summary["num_scored"] == (8 if allowed else 4)
    assert ("4 programs in answers were not run; --confirm" in err) is not allowed
    assert len(plain_sandbox.programs) == (2 if allowed else 0)
    assert "# Quality\n" in page
    assert ("Programs in answers were not run." in page) is not allowed


def test_scores_survive_their_file(run_dir: Path) -> None:
    facts: dict[str, Any] = {"task": "gsm8k", "prompt_id": "0", "turn": 1, "method": "a"}
    score = Score(repeat=0, verdict="failed", detail="é", text_sha256="0", rule="r/1", **facts)
    assert from_json(to_json(score)) == score
    with pytest.raises(ValueError, match="no verdict"):
        Score(repeat=0, verdict="not run", detail="", text_sha256="0", rule="r/1", **facts)


def test_scoring_imports_no_torch(run_dir: Path) -> None:
    program = (
        "import sys; from harness.cli import main; "
        f"status = main(['score', {str(run_dir)!r}]); "
        "sys.exit(status or any(name in sys.modules for name in ('torch', 'scipy')))"
    )
    root = Path(__file__).parent.parent
    environment = {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "HOME": str(run_dir)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
