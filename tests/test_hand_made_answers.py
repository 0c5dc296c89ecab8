"""Answers written by hand: right ones in awkward shapes, wrong ones that try to pass."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import UserError
from tasks.grading import Outcome, grader_of
from tasks.sandbox import Sandbox
from tests.hand_made_answers import TASKS, HandMade, answers


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox()
    except UserError as error:
        pytest.skip(str(error))


def test_there_are_many_of_every_kind() -> None:
    found = answers()
    assert len({one.name for one in found}) == len(found) >= 90
    kinds = Counter((one.prompt.task, one.verdict == "passed") for one in found)
    assert set(kinds) == {(task, passes) for task in TASKS for passes in (True, False)}
    assert min(kinds.values()) >= 10
    assert {one.verdict for one in found} == {"passed", "failed", "error", "timeout"}


def test_every_answer_gets_the_verdict_that_is_right(sandbox: Sandbox) -> None:
    def grade(one: HandMade) -> Outcome:
        rule = grader_of(TASKS[one.prompt.task])
        assert rule is not None
        return rule.grade(one.prompt, one.text, sandbox)

    asked = [one for one in answers() if sandbox.numpy or "numpy" not in one.why]
    asked.sort(key=lambda one: one.verdict != "timeout")  # the longest first
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(grade, asked))
    wrong = [
        f"{one.name}: {outcome.verdict} ({outcome.detail}) instead of {one.verdict}"
        for one, outcome in zip(asked, outcomes, strict=True)
        if outcome.verdict != one.verdict
    ]
    assert wrong == []
