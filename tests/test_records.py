"""Records refuse to be built wrong, and their lines refuse to be read wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from run_directories import failure, generation

from harness.records import Round, from_json, key_of, read_records, to_json

RIGHT: dict[str, Any] = {
    "depth": 2,
    "nodes": 3,
    "accepted": 1,
    "committed": 2,
    "draft_tokens": (7, 8),
}


@pytest.mark.parametrize(
    "change",
    [
        {"accepted": -1, "committed": 1},
        {"accepted": -1, "committed": 0},
        {"accepted": 3, "committed": 3},
        {"nodes": 1},
        {"committed": 0},
        {"committed": 3},
        {"draft_tokens": (7,)},
        {"draft_tokens": (7, 8, 9)},
    ],
)
def test_a_round_that_cannot_be(change: dict[str, Any]) -> None:
    Round(**RIGHT)
    with pytest.raises(ValueError):
        Round(**{**RIGHT, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"new_tokens": (), "rounds": None},
        {"num_prompt_tokens": 0},
        {"finish_reason": "bored"},
        {"prefill_s": -0.1},
        {"decode_s": -0.1},
        {"decode_s": math.inf},
        {"prefill_s": math.nan},
        {"new_tokens": (5,) * 6},
        {"new_tokens": (5,) * 8},
    ],
)
def test_a_generation_that_cannot_be(change: dict[str, Any]) -> None:
    right = generation(accepted=[2, 2])
    assert len(right.new_tokens) == 7
    with pytest.raises(ValueError):
        dataclasses.replace(right, **change)


@pytest.mark.parametrize("place", [0, 1])
def test_only_the_last_round_may_be_cut(place: int) -> None:
    right = generation(accepted=[2, 2, 2])
    assert right.rounds is not None
    cut = [
        dataclasses.replace(item, committed=2) if i == place else item
        for i, item in enumerate(right.rounds)
    ]
    with pytest.raises(ValueError, match="only the last round"):
        dataclasses.replace(right, rounds=tuple(cut), new_tokens=(5,) * 9)
    last = (*right.rounds[:2], dataclasses.replace(right.rounds[2], committed=2))
    assert dataclasses.replace(right, rounds=last, new_tokens=(5,) * 9).rounds == last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"schema_version": None}, "schema_version None"),
        ({"kind": "guess"}, "kind 'guess'"),
        ({"kind": []}, "cannot be read"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"turn": "1"}, "generation.turn should be int and is of type str"),
        ({"turn": True}, "generation.turn should be int"),
        ({"prompt_id": ["0"]}, "generation.prompt_id should be str"),
        ({"new_tokens": [1.0]}, r"generation.new_tokens\[0\] should be int"),
        ({"new_tokens": "abc"}, "generation.new_tokens should be a list"),
        ({"seed": 10**30}, "generation.seed is too large a number"),
        ({"rounds": [{}]}, r"generation.rounds\[0\] lacks depth, nodes"),
        ({"rounds": [7]}, r"generation.rounds\[0\] should be an object"),
        ({"finish_reason": None}, "generation.finish_reason should be one of stop, stop_string"),
        ({"prefill_s": "0"}, "generation.prefill_s should be float"),
        ({"text": "\ud800"}, "half a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_read(change: dict[str, Any], message: str) -> None:
    body = json.loads(to_json(generation(accepted=[1])))
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps({**body, **change}))


@pytest.mark.parametrize("line", ["", "[]", "7", "null", "[" * 100_000, '{"a": ' * 100_000])
def test_a_line_that_is_no_object(line: str) -> None:
    with pytest.raises(ValueError):
        from_json(line)


def test_every_part_of_a_key_tells_records_apart() -> None:
    one = generation(accepted=[1])
    parts = {"task": "mbpp", "prompt_id": "9", "turn": 2, "method": "chain", "repeat": 1}
    others = [dataclasses.replace(one, **{name: value}) for name, value in parts.items()]  # type: ignore[arg-type]
    assert len({key_of(item) for item in (one, *others)}) == 6


def test_a_bad_line_is_named_and_a_torn_one_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    good = to_json(failure())
    path.write_text(f"{good}\n{good}")
    assert list(read_records(path)) == [failure()]
    path.write_text(f"{good}\n{{}}\n")
    with pytest.raises(ValueError, match="line 2: schema_version None"):
        list(read_records(path))
