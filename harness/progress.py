"""What a person sees while a run goes on; all of it on stderr."""

from __future__ import annotations

import sys
import time
from typing import Never, Self

from tqdm import tqdm

LINE_EVERY_S = 30.0
"""Between two lines of a run whose stderr is a file."""


def say(line: str) -> None:
    """One line that does not tear the bar."""
    tqdm.write(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """A bar with rate and time left; where stderr is no terminal, a line every half minute."""

    def __init__(self, total: int, what: str | None = None, *, shown: bool = True) -> None:
        self._bar: tqdm[Never] = tqdm(
            total=total,
            desc=what,
            unit="answer",
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._what, self._total, self._done = what or "answers", total, 0
        self._lines = shown and not sys.stderr.isatty()
        self._began = self._last = time.monotonic()

    def step(self, what: str) -> None:
        """One more answer, by method and task."""
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update()
        self._done += 1
        now = time.monotonic()
        if self._lines and now - self._last >= LINE_EVERY_S:
            self._last = now
            left_s = (now - self._began) / self._done * (self._total - self._done)
            say(f"{self._what}  {self._done} of {self._total}, about {duration(left_s)} left")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()
