"""The estimate of a whole run: what the warm-up tells, and then the run's own answers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import forecast as forecasting
from harness.config import RunConfig
from harness.forecast import Cost, Forecast
from harness.plan import make_plan
from harness.records import Generation
from tests.test_runner import generations_of, measure

COST = Cost(prefill_s=1.0, num_prompt_tokens=10, token_s=0.5)
DEAR = Cost(prefill_s=1.0, num_prompt_tokens=10, token_s=1.0)
COSTS = {"ar_loop": COST, "ngram": DEAR}


def foresee(**changes: Any) -> Forecast:
    """Of two prompts of one task, 21 tokens at most, two methods."""
    config = RunConfig(
        drafter=("ngram",), baseline=("ar_loop",), limit=2, max_new_tokens=21, device="cpu"
    )
    changes = {"tasks": ("gsm8k",), **changes}
    return Forecast(make_plan(dataclasses.replace(config, **changes)), ["ar_loop"], COSTS)


@pytest.fixture
def answer(toy_plugin: Path, tmp_path: Path) -> Generation:
    """Any answer, to make others of."""
    first = generations_of(measure(toy_plugin, tmp_path))[0]
    return dataclasses.replace(first, task="gsm8k", method="ngram", prefill_s=1.0, decode_s=3.0)


def test_the_warm_up_tells_of_answers_at_full_length() -> None:
    left = Counter(ar_loop=2, ngram=1)
    assert foresee().answers_s(left) == 2 * (1 + 20 * 0.5) + (1 + 20 * 1.0)


def test_answers_tell_better_than_the_warm_up(answer: Generation) -> None:
    found = foresee()
    found.note(answer)
    assert found.answers_s(Counter(ar_loop=1, ngram=3)) == (1 + 20 * 0.5) + 3 * 4.0


def test_what_follows_is_part_of_the_whole() -> None:
    found = foresee()
    assert found.stages_s() == 2 * (1 + 23 * 0.5)  # two contexts, one method of the two timed
    # Four answers, half of them distinct: a pass each in the run's dtype and in a wider one.
    assert found.audit_s() == 4 * 0.5 * COST.pass_s(21) * (1 + forecasting._WIDER)
    assert found.scores_s() == 0
    assert found.after_answers_s() == found.stages_s() + found.audit_s()
    assert found.after_stages_s() == found.audit_s()


def test_an_audit_costs_what_the_answers_are_long_and_how_many_differ(answer: Generation) -> None:
    found = foresee()
    for method in ("ar_loop", "ngram", "other"):
        found.note(dataclasses.replace(answer, method=method))
    pass_s = COST.pass_s(len(answer.new_tokens))
    assert found.audit_s() == pytest.approx(4 / 3 * pass_s * (1 + forecasting._WIDER))
    sampled = foresee(temperature=1.0)
    assert sampled.audit_s() == 4 * COST.pass_s(21)


def test_programs_take_time_where_they_may_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "num_cores", lambda: 2)
    both = {"tasks": ("gsm8k", "humaneval")}
    assert foresee(**both).scores_s() == 0
    asked = foresee(**both, confirm_run_unsafe_code=True).scores_s()
    assert asked == forecasting._SANDBOX_S + 2 * forecasting._PROGRAM_S / 2
    assert foresee(confirm_run_unsafe_code=True).scores_s() == 0


def test_a_run_says_first_how_long_the_whole_takes_and_last_how_long_it_took(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(toy_plugin, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    [said] = [line for line in lines if "answers of up to" in line]
    assert "with stage times, audit and scores" in said
    assert lines[-1].startswith("took ")
