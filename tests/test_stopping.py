"""What ends an answer, where it is cut, and which reason it gives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.stopping import Stopping


def text_of(ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + token) for token in ids)


def brute_force(
    tokens: Sequence[int], stop_ids: set[int], limit: int, room: int, strings: Sequence[str]
) -> tuple[int, str | None]:
    """Length and reason of the answer, token by token on the whole text."""
    for count in range(1, len(tokens) + 1):
        if tokens[count - 1] in stop_ids:
            return count, "stop"
        if any(text in text_of(tokens[:count]) for text in strings):
            return count, "stop_string"
        if count == limit:
            return count, "length"
        if count == room:
            return count, "context"
    return len(tokens), None


@given(
    rounds=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), max_size=12),
    stop_ids=st.sets(st.integers(3, 7), max_size=2),
    limit=st.integers(1, 40),
    room=st.integers(1, 40),
    strings=st.lists(st.text("abcd", min_size=1, max_size=5), max_size=2),
)
@example(rounds=[[0, 1, 2, 3]], stop_ids={3}, limit=4, room=4, strings=["abcd"])
def test_any_split_into_rounds_ends_where_brute_force_does(
    rounds: list[list[int]], stop_ids: set[int], limit: int, room: int, strings: list[str]
) -> None:
    stopping = Stopping(
        stop_ids=frozenset(stop_ids),
        max_new_tokens=limit,
        room=room,
        stop_strings=strings,
        decode=text_of,
    )
    kept = 0
    for tokens in rounds:
        if stopping.reason is not None:
            break
        kept += stopping.commit(tokens)
    everything = [token for tokens in rounds for token in tokens]
    count, reason = brute_force(everything, stop_ids, limit, room, strings)
    assert (kept, stopping.reason) == (count, reason)
    assert stopping.tokens == everything[:count]
    assert stopping.remaining == min(limit, room) - count


def test_the_stop_token_is_kept_and_wins_over_the_limit() -> None:
    stopping = Stopping(stop_ids=frozenset({9}), max_new_tokens=3, room=50)
    assert stopping.commit([1, 2, 9, 4]) == 3
    assert (stopping.tokens, stopping.reason) == ([1, 2, 9], "stop")


def test_a_stop_string_may_span_rounds_and_lies_far_behind() -> None:
    stopping = Stopping(
        stop_ids=frozenset(), max_new_tokens=500, room=500, stop_strings=["ccd"], decode=text_of
    )
    for _ in range(100):
        stopping.commit([0, 1])
    stopping.commit([2, 2])
    assert stopping.reason is None
    assert stopping.commit([3, 0]) == 1
    assert stopping.reason == "stop_string"


def test_a_round_without_stop_string_decodes_once_and_little() -> None:
    looks: list[int] = []

    def decode(ids: Sequence[int]) -> str:
        looks.append(len(ids))
        return text_of(ids)

    stopping = Stopping(
        stop_ids=frozenset(), max_new_tokens=900, room=900, stop_strings=["zz"], decode=decode
    )
    for _ in range(100):
        stopping.commit([1] * 8)
    assert len(looks) == 100
    assert max(looks) <= 2 + 16 + 8


@pytest.mark.parametrize(
    "rules",
    (
        {"max_new_tokens": 0, "room": 5},
        {"max_new_tokens": 5, "room": 0},
        {"max_new_tokens": 5, "room": 5, "stop_strings": ["a"]},
        {"max_new_tokens": 5, "room": 5, "stop_strings": [""], "decode": text_of},
    ),
)
def test_rules_that_cannot_be_kept_are_refused(rules: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Stopping(stop_ids=frozenset(), **rules)  # type: ignore[arg-type]


def bytes_of(ids: Sequence[int]) -> str:
    """A token a byte; what is no character yet is no text yet, as tokenizers have it."""
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize(
    "text", ["-" * 40, "the answer, at last, is this one: ", "\u2003" * 20, "\U0001f600" * 12]
)
@pytest.mark.parametrize("step", [1, 7])
def test_a_stop_string_may_have_as_many_tokens_as_bytes(text: str, step: int) -> None:
    """Longer than the tail that is always looked at, and longer in bytes than in characters."""
    tokens = [*b"Well. ", *text.encode(), *b" and more"]
    stopping = Stopping(
        stop_ids=frozenset(),
        max_new_tokens=500,
        room=500,
        stop_strings=["no such thing", text],
        decode=bytes_of,
    )
    for start in range(0, len(tokens), step):
        if stopping.reason is None:
            stopping.commit(tokens[start : start + step])
    assert stopping.reason == "stop_string"
    assert stopping.tokens == tokens[: 6 + len(text.encode())]
