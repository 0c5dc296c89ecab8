from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import answers, generation

from harness import metrics
from harness.metrics import NoData
from harness.positions import positions, positions_of
from harness.published import tau_uncut

DEPTH = 7
accepted_lists = st.lists(
    st.lists(st.integers(0, DEPTH), min_size=1, max_size=12), min_size=1, max_size=6
)


def test_by_hand() -> None:
    """Depths 3, 3, 2, 1, 0, with 3, 1, 1, 0, 0 tokens accepted."""
    made = [
        generation(accepted=[3, 1], depth=3),
        *(generation(accepted=[a], depth=d) for a, d in ((1, 2), (0, 1), (0, 0))),
    ]
    found = positions(made)
    assert found.histogram == (2, 2, 0, 1)
    assert (found.kept, found.reached) == ((3, 1, 1), (4, 3, 1))
    assert found.joint == (3 / 5, 1 / 5, 1 / 5)
    assert found.conditional == (3 / 4, 1 / 3, 1.0)


def test_a_position_never_reached_has_no_conditional_rate() -> None:
    found = positions([generation(accepted=[0, 1], depth=3)])
    assert found.joint == (1 / 2, 0.0, 0.0)
    assert found.conditional == (1 / 2, 0.0, None)


def test_no_rounds_no_positions() -> None:
    with pytest.raises(NoData):
        positions([generation(num_new_tokens=9)])


@given(accepted_lists, st.integers(0, 3))
def test_tau_before_the_cut_is_one_plus_joint_acceptance(lists: list[list[int]], cut: int) -> None:
    made = answers(lists, cut)
    assert tau_uncut(made) == pytest.approx(1 + sum(positions(made).joint))


@given(st.lists(st.tuples(st.integers(0, DEPTH), st.integers(0, DEPTH)), min_size=1))
def test_joint_acceptance_never_rises(pairs: list[tuple[int, int]]) -> None:
    """Whatever depths rounds have, as of a tree, of prompt lookup or at the end of an answer."""
    rounds = [(min(pair), max(pair)) for pair in pairs]
    joint = positions_of(rounds).joint
    assert list(joint) == sorted(joint, reverse=True)
    assert sum(joint) == pytest.approx(sum(accepted for accepted, _ in rounds) / len(rounds))


@given(accepted_lists)
def test_conditional_is_joint_over_the_one_before(lists: list[list[int]]) -> None:
    found = positions(answers(lists))
    before = (1.0, *found.joint)
    for k, value in enumerate(found.conditional):
        if before[k] == 0:
            assert value is None
        else:
            assert value == pytest.approx(found.joint[k] / before[k])


@given(accepted_lists, st.integers(0, 3))
def test_histogram_accounts_for_every_round_and_token(lists: list[list[int]], cut: int) -> None:
    made = answers(lists, cut)
    found = positions(made)
    assert sum(found.histogram) == sum(len(item) for item in lists)
    accepted = sum(k * count for k, count in enumerate(found.histogram))
    assert accepted == sum(map(sum, lists))
    assert metrics.node_acceptance_rate(made) == accepted / (DEPTH * sum(map(len, lists)))
    tokens = sum(len(item.new_tokens) - 1 for item in made)
    assert metrics.tau(made) * sum(found.histogram) == pytest.approx(tokens)
