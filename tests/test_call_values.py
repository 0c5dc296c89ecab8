"""Arguments and results on their way between two processes."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
from typing import Any

import pytest

from tasks import call_values
from tasks.call_values import decode, encode, renew


def sent(value: Any) -> Any:
    """``value`` as it arrives; what is no plain data comes as what stands for it."""
    return decode(json.loads(json.dumps(encode(value, repr))), lambda text: ("kept", text))


VALUES = (
    *(
        None,
        True,
        False,
        0,
        1,
        -(10**30),
        1.0,
        0.1,
        float("inf"),
        1 - 2j,
        "a",
        b"a",
        bytearray(b"a"),
    ),
    *([1, [2]], (1, (2,)), {1, 2}, frozenset({1}), {"a": {1: None}}, range(1, 9, 2), ...),
    *(collections.deque([1]), collections.Counter("aab"), collections.OrderedDict(a=1)),
    *(decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.timedelta(1, 2, 3)),
    *(datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.date(2020, 1, 2), datetime.time(3, 4)),
)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    found = sent(value)
    assert type(found) is type(value) and found == value


def test_whole_numbers_are_no_booleans() -> None:
    """``1 == True``, and a test that asks with ``is`` can tell them apart."""
    assert [type(item) for item in sent([1, 0, True, False])] == [int, int, bool, bool]


def test_views_and_iterators_arrive_as_their_kind() -> None:
    assert list(sent(iter([1, 2]))) == [1, 2] and next(sent(iter([1]))) == 1
    assert sent({1: 2}.keys()) == {1} and sent({1: 2}.items()) == {(1, 2)}


def test_what_is_of_the_senders_own_making_stays_there() -> None:
    class Equal(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(sent(Equal(3))) is int and sent([Equal(3)]) != [4]
    assert sent(object)[0] == "kept"


def test_an_iterator_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_values, "MOST_ITEMS", 3)
    assert list(sent(iter(range(3)))) == [0, 1, 2]
    with pytest.raises(ValueError, match="more than 3 items"):
        sent(iter(range(4)))


def test_changed_arguments_stay_the_same_objects() -> None:
    """Whoever holds one, inside or out, sees the change."""
    inner = [1, 2]
    for old, new in (
        ([inner, 5], [[3, 4], 6]),
        ({"a": inner}, {"a": [3, 4], "b": 7}),
        ((inner, [9]), ([3, 4], [9])),
    ):
        inner[:] = [1, 2]
        kept = renew(old, new)
        assert kept is old or isinstance(old, tuple)
        assert kept == new
        held = kept["a"] if isinstance(kept, dict) else kept[0]
        assert held is inner and inner == [3, 4]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([1, 2], [1]),
        ([], [1, 2]),
        ({1: 2, 3: 4}, {3: 5}),
        ({1}, {2, 3}),
        (collections.deque([1]), collections.deque([2, 3])),
        (bytearray(b"ab"), bytearray(b"c")),
    ],
)
def test_a_container_is_changed_in_place_whatever_its_size(old: Any, new: Any) -> None:
    assert renew(old, new) is old and old == new


def test_what_cannot_change_is_replaced() -> None:
    assert renew(1, 2) == 2 and renew([1], (1,)) == (1,)
    assert renew((1, 2), (1, 3)) == (1, 3)
