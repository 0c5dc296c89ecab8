"""What a person sees while a run goes on; all of it on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never, Self

from tqdm import tqdm

from harness.visible import visible

LINE_EVERY_S = 30.0
"""Between two lines of a run whose stderr is a file."""


def say(line: str) -> None:
    """One line that does not tear the bar."""
    tqdm.write(visible(line), file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """A bar with rate and time left; where stderr is no terminal, a line every half minute."""

    def __init__(
        self,
        total: int,
        what: str | None = None,
        *,
        unit: str = "answer",
        first: int = 0,
        shown: bool = True,
        left: Callable[[], float] | None = None,
        after: Callable[[], float] | None = None,
    ) -> None:
        """None of these steps is done yet, or an earlier process did the first ones.

        Args:
            total: steps there are.
            what: they are.
            unit: one step is.
            first: steps that an earlier process did; they tell nothing of this one's pace.
            shown: False where another process tells.
            left: seconds of the steps not done yet; judged by those that are, if None.
            after: seconds of what follows them, for the end of the whole.
        """
        self._bar: tqdm[Never] = tqdm(
            total=total,
            initial=first,
            desc=what,
            unit=unit,
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._what, self._total, self._done = what or "answers", total, first
        self._first = first
        self._left, self._after = left, after
        self._began = time.monotonic()
        self._end = _End()
        self._look_ahead()
        self._over = threading.Event()
        self._lines: threading.Thread | None = None
        if shown and not sys.stderr.isatty():
            # A step may take many minutes.
            self._lines = threading.Thread(target=self._say_lines, daemon=True)

    def step(self, what: str) -> None:
        """One more answer, by method and task."""
        self.reach(self._done + 1, what)

    def reach(self, done: int, what: str = "", *, total: int | None = None) -> None:
        """So many are done; ``total`` where their number is known only now."""
        if total is not None:
            self._total = self._bar.total = total
        self._done = done
        self._look_ahead()
        whole = self._end.whole(time.monotonic())
        self._bar.set_postfix_str(visible(", ".join(filter(None, (what, whole)))), refresh=False)
        self._bar.update(done - self._bar.n)

    def line(self) -> str:
        """How far it is, and how long it will take."""
        now = time.monotonic()
        words = (
            f"{self._what}  {self._done} of {self._total}",
            self._end.left(now),
            self._end.whole(now),
        )
        return ", ".join(filter(None, words))

    def __enter__(self) -> Self:
        if self._lines is not None:
            self._lines.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        if self._lines is not None:
            self._lines.join()
        self._bar.close()

    def _say_lines(self) -> None:
        while not self._over.wait(LINE_EVERY_S):
            say(self.line())

    def _look_ahead(self) -> None:
        now = time.monotonic()
        left_s: float | None = None
        if self._left is not None:
            left_s = self._left()
        elif self._done > self._first:
            pace_s = (now - self._began) / (self._done - self._first)
            left_s = pace_s * (self._total - self._done)
        self._end = _End(
            at=None if left_s is None else now + left_s,
            after_s=None if self._after is None else self._after(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """What was foreseen at the last step; a thread of its own may read it."""

    at: float | None = None
    """Time of the last step's end; None while nothing tells."""
    after_s: float | None = None
    """What follows, to the end of the run; None where nothing does."""

    def left(self, now: float) -> str:
        return "" if self.at is None else f"about {duration(max(self.at - now, 0.0))} left"

    def whole(self, now: float) -> str:
        if self.after_s is None:
            return ""
        left_s = 0.0 if self.at is None else max(self.at - now, 0.0)
        return f"{duration(left_s + self.after_s)} to the end of the run"
