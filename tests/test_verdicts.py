"""Verdicts from audits, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from run_directories import generation
from test_audit_records import FACTS, deviation

from harness.audit_records import Audit, Deviation
from harness.records import key_of
from harness.verdicts import (
    TOLERANCE,
    Tally,
    audit_lines,
    describe_mismatch,
    divergence_margin,
    mismatches,
    stands,
    tally,
    verdict,
)

TIE = deviation(3, margin=0.1, noise=0.05)
BUG = deviation(6, margin=0.1, noise=0.03)


def audit(*deviations: Deviation, **fields: Any) -> Audit:
    return Audit(**{**FACTS, "deviations": deviations, **fields})


def test_the_tolerance() -> None:
    assert stands(deviation(margin=TOLERANCE, noise=1.0))
    assert not stands(deviation(margin=1.001 * TOLERANCE, noise=1.0))
    assert not stands(deviation(margin=1e-9, noise=0.0))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (audit(), "exact"),
        (audit(TIE), "exact"),
        (audit(BUG), "MISMATCH"),
        (audit(first_divergence=3), "ties only"),
        (audit(TIE, first_divergence=3), "ties only"),
        (audit(TIE, BUG, first_divergence=3), "MISMATCH"),
        (audit(first_divergence=3, num_ar_loop_tokens=14), "ties only"),
        (audit(first_divergence=10, num_ar_loop_tokens=14), "MISMATCH"),
        (audit(first_divergence=8, num_ar_loop_tokens=8), "MISMATCH"),
        (audit(wrong_end="ends too soon"), "MISMATCH"),
        (audit(TIE, first_divergence=3, wrong_end="ends too soon"), "MISMATCH"),
        (audit(promised=True), "exact"),
        (audit(TIE, promised=True), "exact"),
        (audit(TIE, first_divergence=3, promised=True), "MISMATCH"),
    ],
)
def test_verdicts(made: Audit, expected: str) -> None:
    assert verdict(made) == expected


def test_what_exact_mode_excludes_is_named() -> None:
    made = audit(TIE, first_divergence=3, promised=True)
    assert [describe_mismatch(*item) for item in mismatches([made])] == [
        "MISMATCH: gsm8k 0, turn 1, combined, repeat 0: parts from ar_loop at position 3, "
        "which --exact excludes"
    ]


def test_a_wrong_end_is_named() -> None:
    parted = audit(TIE, first_divergence=3, wrong_end="goes on behind the stop token at position 7")
    early = audit(first_divergence=10, num_ar_loop_tokens=14, wrong_end="ends after 10 tokens at …")
    both = audit(BUG, wrong_end="ends after 10 tokens at …")
    lines = [describe_mismatch(*item) for item in mismatches([parted, early, both])]
    place = "MISMATCH: gsm8k 0, turn 1, combined, repeat 0: "
    assert lines == [
        f"{place}goes on behind the stop token at position 7",
        f"{place}ends after 10 tokens at …",
        f"{place}position 6, margin 0.1, noise 0.03",
    ]


def test_margin_of_a_divergence() -> None:
    loop = audit(deviation(3, 0.2, 0.2), method="ar_loop")
    assert divergence_margin(audit(), loop) is None
    assert divergence_margin(audit(TIE, first_divergence=3), loop) == 0.2
    assert divergence_margin(audit(TIE, first_divergence=3), audit(method="ar_loop")) == 0.1
    assert divergence_margin(audit(TIE, first_divergence=5), loop) == 0.0
    assert divergence_margin(audit(first_divergence=10, num_ar_loop_tokens=14), loop) is None


def test_tally_and_lines() -> None:
    answers = [generation(prompt_id=str(i), num_new_tokens=10) for i in range(5)]
    made = [
        audit(deviation(1, 0.01, 0.05)),
        audit(TIE, prompt_id="1", first_divergence=3),
        audit(deviation(2, 5.0, 2.0), BUG, prompt_id="2", first_divergence=6),
        audit(prompt_id="3", first_divergence=10, num_ar_loop_tokens=14),
    ]
    audits = {key_of(item): item for item in made}
    found = tally(answers, audits)
    assert (found.exact, found.ties_only, found.mismatch, found.not_audited) == (1, 1, 2, 1)
    assert found.worst == "MISMATCH" and found.largest_tie == deviation(2, 5.0, 2.0)
    assert tally(answers[:2], audits).worst == "ties only"
    assert tally(answers[:1], audits).worst == "exact"
    nothing = tally(answers[4:], audits)
    assert (nothing.worst, nothing.largest_tie, nothing.not_audited) == (None, None, 1)
    lines = [describe_mismatch(*item) for item in mismatches(made)]
    assert lines == [
        "MISMATCH: gsm8k 2, turn 1, combined, repeat 0: position 6, margin 0.1, noise 0.03",
        "MISMATCH: gsm8k 3, turn 1, combined, repeat 0: ends after 10 tokens, ar_loop's after 14",
    ]
    assert list(audit_lines(answers, audits)) == [
        "combined: 1 exact, 1 ties only, 2 MISMATCH, 1 not audited"
    ]
    loop = audit(method="ar_loop", prompt_id="1")
    first, *_ = audit_lines(answers, {**audits, key_of(loop): loop})
    assert first == (
        "ties only  gsm8k 1, turn 1, combined, repeat 0: parts from ar_loop at position 3, "
        "margin 0.1"
    )


@pytest.mark.parametrize(
    ("counts", "worst"),
    [
        ((9, 9, 1), "MISMATCH"),
        ((9, 1, 0), "ties only"),
        ((1, 0, 0), "exact"),
        ((0, 0, 0), None),
    ],
)
def test_one_bad_answer_is_enough(counts: tuple[int, int, int], worst: str | None) -> None:
    exact, ties_only, mismatch = counts
    found = Tally(
        exact=exact, ties_only=ties_only, mismatch=mismatch, not_audited=0, largest_tie=None
    )
    assert found.worst == worst
