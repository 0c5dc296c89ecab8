"""Shares, intervals and paired tests of scores, and the table that shows them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import BASELINES, DIGEST, config, drafter, generation, source, write_run

from harness import quality
from harness.quality import ScoreDifference
from harness.records import Generation, RecordKey, key_of
from harness.score_records import (
    CodeFacts,
    Score,
    Scoring,
    TaskRule,
    scoring_json,
    text_sha256,
    to_json,
)
from reports.render import leaderboard_text, write_leaderboard
from tasks.grading import Verdict

SCORING = Scoring(
    tasks={
        "gsm8k": TaskRule(rule="gsm8k/1", runs_code=False, tests_sha256=DIGEST),
        "mbpp": TaskRule(rule="mbpp/1", runs_code=True, tests_sha256=DIGEST),
    },
    code=None,
)
CODE = CodeFacts(
    python="3.11.9",
    limits={"wall_s": 10.0, "num_processes": 32},
    containment={"held": {"network": True, "other_files": False}},
)


def answer(method: str, number: int, task: str = "gsm8k", repeat: int = 0) -> Generation:
    return generation(
        task=task, prompt_id=str(number), method=method, repeat=repeat, num_new_tokens=3
    )


def score(item: Generation, verdict: Verdict) -> Score:
    return Score(
        task=item.task,
        prompt_id=item.prompt_id,
        turn=item.turn,
        method=item.method,
        repeat=item.repeat,
        verdict=verdict,
        detail="",
        text_sha256=text_sha256(item.text),
        rule=f"{item.task}/1",
    )


def scored(method: str, verdicts: str, task: str = "gsm8k") -> list[Score]:
    """One letter a prompt; a dot is an answer that was not run."""
    words: Mapping[str, Verdict] = {"p": "passed", "f": "failed", "t": "timeout", "e": "error"}
    return [
        score(answer(method, number, task), words[letter])
        for number, letter in enumerate(verdicts)
        if letter != "."
    ]


def keyed(*lists: list[Score]) -> dict[RecordKey, Score]:
    return {key_of(item): item for scores in lists for item in scores}


def test_not_run_is_part_of_no_share() -> None:
    answers = [answer("combined", number) for number in range(6)]
    found = quality.tally(answers, keyed(scored("combined", "ppfte.")))
    assert dict(found.counts) == {"passed": 2, "failed": 1, "timeout": 1, "error": 1, "not run": 1}
    assert (found.num_scored, found.share) == (5, 0.4)
    nothing = quality.tally(answers, {})
    assert (nothing.num_scored, nothing.share, nothing.interval) == (0, None, None)


def test_only_the_first_repeat_counts() -> None:
    answers = [answer("combined", 0, repeat=repeat) for repeat in range(3)]
    scores = keyed([score(item, "passed" if item.repeat else "failed") for item in answers])
    assert quality.tally(answers, scores).share == 0
    assert quality.difference("gsm8k", "ar_loop", "combined", scores).num_pairs == 0


def test_wilson_interval() -> None:
    answers = [answer("combined", number) for number in range(10)]
    found = quality.tally(answers, keyed(scored("combined", "ppffffffff"))).interval
    # Wilson 1927 by hand, z = 1.959964: centre (0.2 + z²/20) / (1 + z²/10).
    assert found == pytest.approx((0.05668, 0.50984), abs=1e-5)
    sure = quality.tally(answers, keyed(scored("combined", "pppppppppp"))).interval
    assert sure is not None and sure[0] == pytest.approx(0.72247, abs=1e-5) and sure[1] == 1


def test_difference_pairs_prompts_that_both_were_scored_on() -> None:
    scores = keyed(scored("ar_loop", "ppppff.p"), scored("combined", "pfffpfpt"))
    found = quality.difference("gsm8k", "ar_loop", "combined", scores)
    assert found == ScoreDifference(num_pairs=7, num_lost=4, num_won=1)
    assert found.share == pytest.approx(-3 / 7)
    assert found.p_value == pytest.approx(2 * (1 + 5) / 32)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_p_value_is_symmetric_and_a_probability(lost: int, won: int, ties: int) -> None:
    found = ScoreDifference(num_pairs=lost + won + ties, num_lost=lost, num_won=won)
    other = ScoreDifference(num_pairs=lost + won + ties, num_lost=won, num_won=lost)
    assert found.p_value is not None and 0 < found.p_value <= 1
    assert found.p_value == pytest.approx(other.p_value)
    assert (found.p_value == 1) or lost != won
    assert found.share == pytest.approx(-(other.share or 0))


def write_scores(directory: Path, scores: list[Score], scoring: Scoring = SCORING) -> None:
    (directory / "scoring.json").write_text(json.dumps(scoring_json(scoring)))
    (directory / "scores.jsonl").write_text("".join(to_json(item) + "\n" for item in scores))


def run_directory(path: Path) -> Path:
    ids = [str(number) for number in range(8)]
    tasks = [
        {"task": task, "source": source(), "prompt_ids": ids}
        for task in ("gsm8k", "mbpp", "mt_bench")
    ]
    settings: dict[str, Any] = config(tasks=tasks, methods=[*BASELINES, drafter("combined")])
    records = [
        answer(method, number, task["task"])
        for task in tasks
        for number in range(8)
        for method in ("ar_loop", "combined")
    ]
    return write_run(path, records, settings)


GSM8K = [*scored("ar_loop", "pppppffp"), *scored("combined", "pffffpte")]


def test_the_page_shows_shares_intervals_and_tests(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    write_scores(directory, GSM8K)
    page = leaderboard_text([directory])
    table = page[page.index("# Quality\n") :].partition("\n##")[0]
    row = next(line for line in table.splitlines() if "gsm8k" in line and "combined" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:5] == ["gsm8k", "combined", "25.0", "7.1–59.1", "8"]
    assert cells[5:10] == ["2", "4", "1", "1", "0"]
    assert cells[10:] == ["−50.0", "5", "1", "0.219"]
    rows = [line for line in table.splitlines() if line.startswith("| mbpp")]
    assert len(rows) == 2 and all(line.split("|")[3].strip() == "not run" for line in rows)
    assert "0.0" not in "".join(rows)
    assert "Programs in answers were not run." in page
    assert "mt_bench" not in table


def test_the_page_states_the_containment(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    scoring = Scoring(tasks=SCORING.tasks, code=CODE)
    write_scores(directory, [*GSM8K, *scored("combined", "pfpfpfpf", "mbpp")], scoring)
    paths = write_leaderboard([directory], tmp_path / "out")
    for path in paths:
        text = " ".join(path.read_text(encoding="utf-8").replace("\\_", "_").split())
        assert "Programs ran under Python 3.11.9" in text
        assert "tried and contained: network; NOT contained: other files." in text
        assert "50.0" in text and "Quality" in text


def test_the_page_says_what_a_tasks_share_is_not(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    write_scores(directory, GSM8K)
    page = leaderboard_text([directory])
    assert "does not name the function" in page and "pass@1" not in page
    rule = TaskRule(rule="livecodebench/1", runs_code=True, tests_sha256=DIGEST)
    scoring = Scoring(tasks={**SCORING.tasks, "livecodebench": rule}, code=None)
    write_scores(directory, GSM8K, scoring)
    page = leaderboard_text([directory])
    assert "LiveCodeBench's shares are not upstream's pass@1: only the public tests" in page
    assert "docs/graders.md" in page


def test_the_page_names_the_numpy_that_programs_had(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    code = dataclasses.replace(CODE, numpy="2.0.1")
    write_scores(directory, GSM8K, Scoring(tasks=SCORING.tasks, code=code))
    page = leaderboard_text([directory])
    assert "Programs ran under Python 3.11.9 (numpy 2.0.1 for LiveCodeBench), with" in page


def test_the_page_says_where_questions_have_another_text(tmp_path: Path) -> None:
    words = "question 121 has another text than FastChat's"
    task = {"task": "gsm8k", "source": {**source(), "note": words}, "prompt_ids": ["0"]}
    records = [answer(method, 0) for method in ("ar_loop", "combined")]
    page = leaderboard_text([write_run(tmp_path / "run", records, config(tasks=[task]))])
    assert f"directory; {words}" in page


def test_without_scored_tasks_there_is_no_table(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    assert "# Quality\n" not in leaderboard_text([directory])
    write_scores(directory, [], Scoring(tasks={}, code=None))
    assert "# Quality\n" not in leaderboard_text([directory])


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    directory = run_directory(tmp_path / "run")
    write_scores(directory, [])
    page = leaderboard_text([directory])
    table = page[page.index("# Quality\n") :].partition("\n##")[0]
    rows = [line for line in table.splitlines() if line.startswith(("| gsm8k", "| mbpp"))]
    assert len(rows) == 4 and all(line.split("|")[3].strip() == "not run" for line in rows)


def test_a_difference_is_of_first_repeats() -> None:
    first, second = scored("ar_loop", "pf"), scored("combined", "pf")
    others = [dataclasses.replace(item, repeat=1, verdict="passed") for item in second]
    found = quality.difference("gsm8k", "ar_loop", "combined", keyed(first, second, others))
    assert (found.num_pairs, found.num_lost, found.num_won) == (2, 0, 0)
