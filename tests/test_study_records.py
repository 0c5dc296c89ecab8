"""Records of a study refuse what cannot be, and survive JSON and a torn last line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.study import Arm, Recipe
from harness.study_records import from_json, key_of, read_study_records, to_json
from tests.study_directories import finished, measurement, replayed

ARM = Arm(recipe=Recipe(objective="uniform", steps=10, block_size=4, learning_rate=1e-3), seed=0)
WHOLE = measurement(ARM, {"held_back": [2, 3], "gsm8k": [1]}, rewards=True)


def test_json_and_back() -> None:
    for record in (WHOLE, finished(ARM, "x"), dataclasses.replace(WHOLE, loss=None)):
        assert from_json(to_json(record)) == record
    cut = replayed("gsm8k", "p", [1, 3], [0.5, None])
    slots = dataclasses.replace(cut.slots, accepted=3, bonus=1, wrong=2, behind_end=2)
    cut = dataclasses.replace(cut, num_tokens=5, slots=slots)
    record = dataclasses.replace(WHOLE, replayed=(cut,))
    assert from_json(to_json(record)) == record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accepted": (4, 0, 0)}, "0 ≤ accepted ≤ depth"),
        ({"accepted": (-1, 3, 3)}, "0 ≤ accepted ≤ depth"),
        ({"depths": (3, 3)}, "0 ≤ accepted ≤ depth"),
        ({"num_tokens": 8}, "the rounds commit 8 tokens, and the answer has 8"),
        ({"num_tokens": 10}, "the rounds commit 8 tokens, and the answer has 10"),
        ({"turn": 0}, "a turn and a token"),
        ({"rewards": (0.1, 0.2)}, "a chain reward a round"),
        ({"rewards": (0.1, 0.2, 1.1)}, "a chain reward a round"),
        ({"rewards": (0.1, 0.2, float("nan"))}, "a chain reward a round"),
    ],
)
def test_an_answer_that_contradicts_itself(changes: dict[str, object], words: str) -> None:
    whole = replayed("gsm8k", "p", [2, 3, 0])
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(whole, **changes)


@pytest.mark.parametrize("name", ["accepted", "bonus", "wasted", "wrong", "behind_end"])
@pytest.mark.parametrize("by", [1, -100])
def test_slots_add_up(name: str, by: int) -> None:
    whole = replayed("gsm8k", "p", [2, 3, 0])
    slots = dataclasses.replace(whole.slots, **{name: getattr(whole.slots, name) + by})
    with pytest.raises(ValueError, match="slots and rounds disagree"):
        dataclasses.replace(whole, slots=slots)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 11}, "step 11 is none of the arm"),
        ({"horizon": 1}, "drafts nothing"),
        ({"horizon": 3}, "deeper than the block"),
        ({"replayed": ()}, "nothing was replayed"),
        ({"replayed": WHOLE.replayed[:1] * 2}, "replayed twice"),
        ({"loss": float("nan")}, "is no number"),
    ],
)
def test_a_measurement_that_contradicts_itself(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(WHOLE, **changes)


def test_a_torn_last_line_is_left_out_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    lines = [to_json(WHOLE), to_json(finished(ARM, "x"))]
    path.write_text(f"{lines[0]}\n{lines[1][:40]}", encoding="utf-8")
    assert read_study_records(path) == [WHOLE]
    path.write_text(f"{lines[0][:40]}\n{lines[1]}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"records.jsonl, line 1"):
        read_study_records(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "other"}, "kind 'other'"),
        ({"schema_version": 2}, "schema_version 2"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"step": "1"}, "step should be int"),
    ],
)
def test_a_foreign_line_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_json(json.dumps({**json.loads(to_json(WHOLE)), **change}))


def test_the_later_of_two_measurements_counts(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    later = dataclasses.replace(WHOLE, loss=0.5)
    assert key_of(WHOLE) == key_of(later) != key_of(finished(ARM, "x"))
    path.write_text("".join(to_json(item) + "\n" for item in (WHOLE, later)), encoding="utf-8")
    assert read_study_records(path) == [later]
