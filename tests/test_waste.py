from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import generation

from harness.metrics import NoData, tau
from harness.records import Generation, Round
from harness.waste import Slots, slots


def chain(draft: tuple[int, ...], *, accepted: int, committed: int) -> Round:
    return Round(
        depth=len(draft),
        nodes=len(draft),
        accepted=accepted,
        committed=committed,
        draft_tokens=draft,
    )


def answer(new_tokens: tuple[int, ...], *rounds: Round) -> Generation:
    """An answer of these tokens, the prefill's first."""
    return dataclasses.replace(
        generation(num_new_tokens=len(new_tokens)), new_tokens=new_tokens, rounds=rounds
    )


def test_correct_tokens_behind_a_rejected_one_are_wasted() -> None:
    """Depth 5 throughout; the second round rejects 97 and drafts 17 rightly behind it."""
    made = answer(
        (10, 11, 12, 13, 14, 15, 16, 17, 18),
        chain((11, 99, 13, 14, 98), accepted=1, committed=2),
        chain((13, 14, 15, 97, 17), accepted=3, committed=4),
        chain((17, 18, 55, 56, 57), accepted=5, committed=2),
    )
    found = slots([made])
    # The third answer ends inside the drafts: 3 drafts and the bonus have no place in it.
    assert found == Slots(accepted=1 + 3 + 2, bonus=2, wasted=2 + 1, wrong=2 + 1, behind_end=3 + 1)
    assert found.judged == 3 * 6 - 4
    assert found.accept == (tau([made]) * 3) / 14
    assert found.correct == 11 / 14
    assert found.waste == 3 / 11
    assert found.draft_waste == 3 / 9


def test_the_bonus_may_end_the_answer() -> None:
    found = slots([answer((10, 11), chain((99, 12, 13), accepted=0, committed=1))])
    assert found == Slots(accepted=0, bonus=1, wasted=0, wrong=1, behind_end=2)
    assert (found.accept, found.correct, found.waste) == (1 / 2, 1 / 2, 0.0)
    assert found.draft_waste is None


def test_the_limit_shortens_the_last_draft() -> None:
    """Two tokens were left: one draft was offered, and then none."""
    found = slots(
        [
            answer(
                (10, 11, 12, 13),
                chain((11, 99, 13), accepted=1, committed=2),
                chain((), accepted=0, committed=1),
            )
        ]
    )
    assert found == Slots(accepted=1, bonus=2, wasted=1, wrong=1, behind_end=0)
    assert found.judged == 4 + 1


def test_a_round_that_accepts_all_wastes_nothing() -> None:
    found = slots([answer((10, 11, 12, 13), chain((11, 12), accepted=2, committed=3))])
    assert (found.accept, found.correct, found.waste) == (1.0, 1.0, 0.0)


def test_trees_and_methods_that_draft_nothing_have_a_blank() -> None:
    branched = dataclasses.replace(chain((11, 12), accepted=2, committed=3), nodes=3)
    undrafted = generation(accepted=[0, 0], depth=0)
    for made in ([answer((10, 11, 12, 13), branched)], [generation(num_new_tokens=9)], [undrafted]):
        with pytest.raises(NoData):
            slots(made)


def test_one_round_that_offered_a_tree_is_enough() -> None:
    whole = chain((11, 12), accepted=2, committed=3)
    branched = dataclasses.replace(chain((14,), accepted=1, committed=2), nodes=2)
    made = answer((10, 11, 12, 13, 14, 15), whole, branched)
    with pytest.raises(NoData, match="tree"):
        slots([made])


def test_an_answer_without_rounds_is_no_tree() -> None:
    drafted = answer((10, 11, 12, 13), chain((11, 12), accepted=2, committed=3))
    assert slots([generation(num_new_tokens=9), drafted]) == slots([drafted])


PUBLISHED = [
    ("gsm8k", 11.6, 21.9, 46.9),
    ("mt_bench", 9.9, 17.3, 42.9),
    ("humaneval", 13.3, 27.9, 52.6),
    ("aime", 12.1, 23.0, 47.4),
    ("mbpp", 11.3, 20.4, 44.5),
]
"""Accept, correct and waste in percent of 16 slots: arXiv 2606.11552, Table 1."""


@pytest.mark.parametrize(("task", "accept", "correct", "waste"), PUBLISHED)
def test_shares_are_those_of_the_paper(
    task: str, accept: float, correct: float, waste: float
) -> None:
    """Its waste follows from its accept and correct only if the bonus counts in both."""
    rounds = 1000
    kept, right = round(160 * accept), round(160 * correct)
    found = Slots(
        accepted=kept - rounds,
        bonus=rounds,
        wasted=right - kept,
        wrong=16 * rounds - right,
        behind_end=0,
    )
    assert found.accept == pytest.approx(accept / 100, abs=5e-4)
    assert found.correct == pytest.approx(correct / 100, abs=5e-4)
    # What rounding its two shares to a tenth of a percent leaves open.
    assert found.waste == pytest.approx(waste / 100, abs=0.0005 + 0.0005 * 2 / (correct / 100))
    assert abs((found.draft_waste or 0.0) - waste / 100) > 0.1


@st.composite
def texts(draw: st.DrawFn) -> tuple[Generation, Counter[str]]:
    """An answer cut from the target's own text, drafted at random; and each slot looked up."""
    tokens = st.integers(0, 2)
    text = draw(st.lists(tokens, min_size=30, max_size=30))
    length = draw(st.integers(2, 20))
    rounds: list[Round] = []
    fate: Counter[str] = Counter()
    start = 0
    while start < length - 1:
        draft = draw(st.lists(tokens, max_size=6))
        matches = [token == text[start + k] for k, token in enumerate(draft, start=1)]
        accepted = (*matches, False).index(False)
        for k, match in enumerate(matches, start=1):
            if start + k >= length:
                fate["behind_end"] += 1
            elif k <= accepted:
                fate["accepted"] += 1
            else:
                fate["wasted" if match else "wrong"] += 1
        fate["bonus" if start + accepted + 1 < length else "behind_end"] += 1
        committed = min(accepted + 1, length - 1 - start)
        rounds.append(chain(tuple(draft), accepted=accepted, committed=committed))
        start += committed
    return answer(tuple(text[:length]), *rounds), fate


@given(st.lists(texts(), min_size=1, max_size=4))
def test_every_slot_has_one_fate(found: list[tuple[Generation, Counter[str]]]) -> None:
    answers = [made for made, _ in found]
    fate = sum((fate for _, fate in found), Counter[str]())
    if not fate["accepted"] + fate["wasted"] + fate["wrong"]:
        with pytest.raises(NoData):
            slots(answers)
        return
    measured = slots(answers)
    assert dataclasses.asdict(measured) == {
        name: fate[name] for name in ("accepted", "bonus", "wasted", "wrong", "behind_end")
    }
    rounds = [item for made in answers for item in made.rounds or ()]
    assert measured.judged + measured.behind_end == sum(item.depth + 1 for item in rounds)
    assert measured.accepted + measured.bonus == sum(item.committed for item in rounds)
    assert 0 < measured.accept <= measured.correct <= 1
    assert measured.waste == pytest.approx(1 - measured.accept / measured.correct)
