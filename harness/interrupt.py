"""Ctrl-C and SIGTERM: held back until a step is whole, or taken for one another."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def interrupt_deferred() -> Iterator[Callable[[], bool]]:
    """Holds SIGINT and SIGTERM back; yields whether one has come. A second one acts at once."""
    came: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, before[number])

    for caught in (signal.SIGINT, signal.SIGTERM):
        before[caught] = signal.signal(caught, note)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Schedulers and launchers end a run by SIGTERM; it keeps what a Ctrl-C would."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
