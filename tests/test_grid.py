"""Tables before they are drawn: what is marked best, what spans what, what has a range."""

from __future__ import annotations

import pytest

from reports.grid import Cell, Column, Row, Table, has_ranges, mark_best

SPEED = Column(title="speed", best="high")


@pytest.mark.parametrize(
    "top",
    [
        Row(cells=(Cell(text="3.0", value=3.0, struck=True),)),
        Row(cells=(Cell(text="3.0", value=3.0),), unranked=True),
    ],
    ids=["struck", "unranked"],
)
def test_the_best_is_the_best_of_those_that_count(top: Row) -> None:
    rows = (top, *(Row(cells=(Cell(text=text, value=float(text)),)) for text in ("2.0", "1.0")))
    assert [row.cells[0].best for row in mark_best((SPEED,), rows)] == [False, True, False]


def test_a_value_that_does_not_count_is_not_best_by_printing_like_the_best() -> None:
    best = Cell(text="2.0", value=2.0)
    rows = (
        Row(cells=(best,)),
        Row(cells=(Cell(text="2.0", value=2.0, struck=True),)),
        Row(cells=(best,), unranked=True),
        Row(cells=(Cell(text="1.0", value=1.0),)),
    )
    marked = [row.cells[0].best for row in mark_best((SPEED,), rows)]
    assert marked == [True, False, False, False]


def test_a_title_spans_its_neighbours_of_one_group() -> None:
    groups = ("", "", "speed", "speed", "speed", "memory", "speed")
    columns = tuple(Column(title=str(place), group=group) for place, group in enumerate(groups))
    assert Table(title="", note="", columns=columns, rows=()).column_groups == [
        ("", 1),
        ("", 1),
        ("speed", 3),
        ("memory", 1),
        ("speed", 1),
    ]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(text="2.0", value=2.0, detail="1.9–2.1"), True),
        (Cell(text="2.0", value=2.0), False),
        (Cell(text="2.0", value=2.0, detail="1.9–2.1", struck=True), False),
        (Cell(text="ngram", detail="block 8"), False),
    ],
)
def test_a_range_stands_behind_a_number_that_counts(cell: Cell, expected: bool) -> None:
    assert has_ranges((Row(cells=(Cell(text="1.0", value=1.0), cell)),)) is expected
