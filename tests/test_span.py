"""What a block sees in a layer, against the rule written out row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drafters.block_diffusion.span import Span

CPU = torch.device("cpu")


def visible(span: Span, row: int, key: int) -> bool:
    if span.causal and key > row:
        return False
    return span.window is None or abs(row - key) < span.window


@given(
    st.booleans(), st.one_of(st.none(), st.integers(1, 12)), st.integers(0, 20), st.integers(1, 8)
)
def test_a_view_is_the_rule_row_by_row(
    causal: bool, window: int | None, length: int, block_size: int
) -> None:
    span, end = Span(causal, window), length + block_size
    first, seen = span.view(length, block_size, CPU)
    rows = range(length, end)
    assert not any(visible(span, row, key) for row in rows for key in range(first))
    assert first == 0 or any(visible(span, row, first) for row in rows)
    expected = [[visible(span, row, key) for key in range(first, end)] for row in rows]
    if seen is None:
        assert all(map(all, expected))
    else:
        assert seen.tolist() == expected


def test_whatever_sees_all_takes_no_mask() -> None:
    assert Span().view(1000, 16, CPU) == (0, None)
    assert Span(window=16).view(0, 16, CPU) == (0, None)
    assert Span(window=16).view(1, 16, CPU)[1] is not None


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_that_shows_nothing_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match="sliding_window must be at least 1"):
        Span(window=window)
