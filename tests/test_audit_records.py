"""Audit records: what cannot be built, what survives JSON, and which lines count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import generation

from harness.audit_records import (
    Audit,
    Deviation,
    from_json,
    make_audit,
    read_audits,
    to_json,
)
from harness.line_writers import AuditWriter
from harness.records import key_of
from harness.run_files import cut_torn_line

FACTS: dict[str, Any] = {
    "task": "gsm8k",
    "prompt_id": "0",
    "turn": 1,
    "method": "combined",
    "repeat": 0,
    "tokens_sha256": "ab" * 32,
    "num_tokens": 10,
    "num_ar_loop_tokens": 10,
    "first_divergence": None,
    "deviations": (),
}


def deviation(position: int = 3, margin: float = 0.1, noise: float = 0.2) -> Deviation:
    return Deviation(position=position, margin=margin, noise=noise)


@st.composite
def audits(draw: st.DrawFn) -> Audit:
    length, other = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    shorter = min(length, other)
    divergence = draw(st.integers(0, shorter - (length == other)))
    equal = length == other and draw(st.booleans())
    places = sorted(draw(st.sets(st.integers(0, length - 1))))
    size = st.floats(1e-30, 1e30)
    return Audit(
        **{
            **FACTS,
            "prompt_id": draw(st.text(max_size=5)),
            "num_tokens": length,
            "num_ar_loop_tokens": other,
            "first_divergence": None if equal else divergence,
            "deviations": tuple(deviation(p, draw(size), draw(size)) for p in places),
            "wrong_end": draw(st.text(max_size=5)),
            "dtype": draw(st.sampled_from((None, "float32", "bfloat16"))),
        }
    )


@given(audits())
def test_json_gives_the_same_audit_back(audit: Audit) -> None:
    line = to_json(audit)
    assert "\n" not in line and from_json(line) == audit


@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_other_line_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_tokens": 0, "num_ar_loop_tokens": 0},
        {"num_ar_loop_tokens": 9},
        {"first_divergence": -1},
        {"first_divergence": 10},
        {"first_divergence": 9, "num_ar_loop_tokens": 8},
        {"deviations": (deviation(10),)},
        {"deviations": (deviation(3), deviation(3))},
        {"deviations": (deviation(4), deviation(3))},
    ],
)
def test_contradictions_cannot_be_built(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Audit(**{**FACTS, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [(-1, 0.1, 0.1), (0, 0.0, 0.1), (0, -1.0, 0.1), (0, 0.1, -0.1), (0, float("nan"), 0.1)],
)
def test_deviations_that_are_none(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError):
        deviation(*wrong)


@pytest.mark.parametrize("wrong", [{"schema_version": 2}, {"more": 1}, {"deviations": [{}]}])
def test_other_objects_are_refused(wrong: dict[str, Any]) -> None:
    body = {**json.loads(to_json(Audit(**FACTS))), **wrong}
    with pytest.raises(ValueError):
        from_json(json.dumps(body))


def test_audits_from_before_ends_were_looked_at_are_read() -> None:
    body = json.loads(to_json(Audit(**FACTS)))
    del body["wrong_end"]
    assert from_json(json.dumps(body)) == Audit(**FACTS)


def test_first_divergence() -> None:
    def divergence(own: int, other: int, change: int | None = None) -> int | None:
        first = generation(num_new_tokens=own)
        second = generation(num_new_tokens=other, method="ar_loop")
        if change is not None:
            tokens = list(first.new_tokens)
            tokens[change] += 1
            object.__setattr__(first, "new_tokens", tuple(tokens))
        return make_audit(first, second, ()).first_divergence

    assert divergence(5, 5) is None
    assert divergence(5, 5, 0) == 0
    assert divergence(5, 8, 4) == 4
    assert divergence(5, 8) == 5
    assert divergence(8, 5) == 5


def test_only_whole_lines_about_these_tokens_count(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    loop = generation(method="ar_loop", num_new_tokens=5)
    own = generation(num_new_tokens=5)
    assert read_audits(path, [loop, own]) == {}
    with AuditWriter(path) as writer:
        writer.append(make_audit(own, loop, [deviation()]))
        writer.append(make_audit(loop, loop, ()))
    assert set(read_audits(path, [loop, own])) == {key_of(own), key_of(loop)}
    edited = generation(num_new_tokens=6)
    assert set(read_audits(path, [loop, edited])) == {key_of(loop)}
    edited_loop = generation(method="ar_loop", num_new_tokens=6)
    assert read_audits(path, [edited_loop, own]) == {}
    assert read_audits(path, [own]) == {}
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert set(read_audits(path, [loop, own])) == {key_of(own)}
    cut_torn_line(path)
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(ValueError, match=r"audit\.jsonl, line 2"):
        read_audits(path, [loop, own])
