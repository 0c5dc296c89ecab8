"""When an answer ends: stop ids, stop strings, the token limit and the context, in one object."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.records import FinishReason

TAIL_TOKENS = 16
"""Tokens decoded before the earliest place of a stop string, so that its text is not at an edge."""


class Stopping:
    """Decides, token by token, how much of what a round commits reaches the output.

    The token that stops is kept. Where several things end the answer at one token, the first of
    stop id, stop string, limit and context is the reason.
    """

    def __init__(
        self,
        *,
        stop_ids: frozenset[int],
        max_new_tokens: int,
        room: int,
        stop_strings: Sequence[str] = (),
        decode: Callable[[Sequence[int]], str] | None = None,
        decode_whole: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        """Start an answer.

        Args:
            stop_ids: tokens that end it.
            max_new_tokens: tokens it may have, at least 1.
            room: tokens the context leaves for it, at least 1.
            stop_strings: texts that end it; needs ``decode``.
            decode: text of some ids.
            decode_whole: the same with special tokens written out; a stop string may hold some.

        Raises:
            ValueError: no token may be written, or stop strings come without ``decode``.
        """
        if max_new_tokens < 1 or room < 1:
            raise ValueError(
                f"an answer needs a token: max_new_tokens = {max_new_tokens}, room = {room}"
            )
        if any(not text for text in stop_strings):
            raise ValueError("a stop string must not be empty")
        if stop_strings and decode is None:
            raise ValueError("stop strings need a decode function")
        self.tokens: list[int] = []
        """Committed so far."""
        self.reason: FinishReason | None = None
        """None while the answer goes on."""
        self._stop_ids = stop_ids
        self._limit = min(max_new_tokens, room)
        self._at_limit: FinishReason = "length" if max_new_tokens <= room else "context"
        self._stop_strings = tuple(stop_strings)
        self._decodings = [item for item in (decode, decode_whole) if item is not None]
        longest = max((len(text.encode()) for text in stop_strings), default=0)
        self._tail = longest + TAIL_TOKENS

    @property
    def remaining(self) -> int:
        """Tokens that may still be committed."""
        return self._limit - len(self.tokens)

    def commit(self, tokens: Sequence[int]) -> int:
        """Append ``tokens`` up to the one that ends the answer; returns how many were kept."""
        kept = tokens[: self.remaining]
        reason: FinishReason | None = self._at_limit if len(kept) == self.remaining else None
        for count, token in enumerate(kept, start=1):
            if token in self._stop_ids:
                kept, reason = kept[:count], "stop"
                break
        if self._stop_strings:
            completed = self._completed_at(kept)
            if completed is not None and not (completed == len(kept) and reason == "stop"):
                kept, reason = kept[:completed], "stop_string"
        self.tokens.extend(kept)
        self.reason = reason
        return len(kept)

    def _completed_at(self, tokens: Sequence[int]) -> int | None:
        """How many of ``tokens`` it takes until the text holds a stop string; None: it never does.

        What was complete before has ended the answer then, so the tail of the text is enough: a
        stop string has at most as many tokens as bytes. One look a round when there is none.
        """
        tail = self.tokens[-self._tail :]
        if not self._holds_stop_string([*tail, *tokens]):
            return None
        counts = range(1, len(tokens) + 1)
        return next(
            (count for count in counts if self._holds_stop_string([*tail, *tokens[:count]])),
            len(tokens),
        )

    def _holds_stop_string(self, ids: Sequence[int]) -> bool:
        texts = [decode(ids) for decode in self._decodings]
        return any(stop in text for text in texts for stop in self._stop_strings)
