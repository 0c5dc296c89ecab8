"""Verdicts from audits, by hand."""

from __future__ import annotations

from typing import Any

import pytest
from run_directories import generation
from test_audit_records import FACTS, deviation

from harness.audit_records import Audit, Deviation
from harness.records import key_of
from harness.verdicts import (
    NOISE_CEILINGS,
    TOLERANCE,
    Tally,
    audit_lines,
    describe_mismatch,
    divergence_margin,
    mismatches,
    stands,
    tally,
    unjudged_lines,
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


@pytest.mark.parametrize("dtype", [*NOISE_CEILINGS, None])
@pytest.mark.parametrize("first_divergence", (None, 3))
def test_noise_beyond_what_rounding_makes_judges_nothing(
    dtype: str | None, first_divergence: int | None
) -> None:
    """Whatever it would excuse: a margin of nothing, of the noise, of three times the noise."""
    most = NOISE_CEILINGS[dtype or "bfloat16"]
    for share in (1e-6, 1.0, TOLERANCE):
        below, above = (
            audit(
                deviation(3, share * size * most, size * most),
                first_divergence=first_divergence,
                dtype=dtype,
            )
            for size in (0.999, 1.001)
        )
        assert verdict(below) == ("exact" if first_divergence is None else "ties only")
        assert verdict(above) == "not judged"
        assert (list(unjudged_lines([below])), len(list(unjudged_lines([above])))) == ([], 1)


def test_what_even_too_much_noise_does_not_explain_is_a_mismatch() -> None:
    noisy = deviation(2, 1.0, 5.0)
    assert verdict(audit(noisy, deviation(6, 15.1, 5.0), first_divergence=6)) == "MISMATCH"
    assert verdict(audit(noisy, BUG, first_divergence=6)) == "MISMATCH"
    assert verdict(audit(noisy, wrong_end="ends too soon")) == "MISMATCH"
    assert verdict(audit(noisy, first_divergence=3, promised=True)) == "MISMATCH"
    assert list(unjudged_lines([audit(noisy, BUG, first_divergence=6)])) == []


def test_ceilings_follow_the_precision() -> None:
    assert NOISE_CEILINGS["float32"] < NOISE_CEILINGS["float16"] < NOISE_CEILINGS["bfloat16"]
    for dtype, most in NOISE_CEILINGS.items():  # none is near what a wrong factor made: 4.7
        assert most < 4.7 / 2, dtype


def test_unjudged_answers_are_counted_and_named_with_their_noise() -> None:
    answers = [generation(prompt_id=str(i), num_new_tokens=10) for i in range(3)]
    made = [
        audit(dtype="float32"),
        audit(
            deviation(2, 0.05, 0.02),
            deviation(4, 4.8, 7.6),
            prompt_id="1",
            first_divergence=4,
            dtype="float32",
        ),
        audit(deviation(5, 1e-5, 1e-5), prompt_id="2", first_divergence=5, dtype="float32"),
    ]
    audits = {key_of(item): item for item in made}
    found = tally(answers, audits)
    assert (found.exact, found.ties_only, found.mismatch, found.not_judged) == (1, 1, 0, 1)
    assert found.worst == "not judged" and found.most_noise == 7.6
    assert found.largest_tie == deviation(5, 1e-5, 1e-5)
    assert found.counts == "1 exact, 1 ties only, 0 MISMATCH, 1 not judged, 0 not audited"
    assert list(unjudged_lines(made)) == [
        "not judged: gsm8k 1, turn 1, combined, repeat 0: position 4, noise 7.6, of which rounding "
        "explains 0.01 in float32; margin 4.8"
    ]
    assert mismatches(made) == []


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
        "ties only   gsm8k 1, turn 1, combined, repeat 0: parts from ar_loop at position 3, "
        "margin 0.1"
    )


@pytest.mark.parametrize(
    ("counts", "worst"),
    [
        ((9, 9, 9, 1), "MISMATCH"),
        ((9, 9, 1, 0), "not judged"),
        ((9, 1, 0, 0), "ties only"),
        ((1, 0, 0, 0), "exact"),
        ((0, 0, 0, 0), None),
    ],
)
def test_one_bad_answer_is_enough(counts: tuple[int, int, int, int], worst: str | None) -> None:
    exact, ties_only, not_judged, mismatch = counts
    found = Tally(
        exact=exact,
        ties_only=ties_only,
        mismatch=mismatch,
        not_judged=not_judged,
        not_audited=0,
        largest_tie=None,
    )
    assert found.worst == worst
