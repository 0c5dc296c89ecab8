"""What a person sees while a run goes on; all of it on stderr."""

from __future__ import annotations

import sys
from typing import Never, Self

from tqdm import tqdm


def say(line: str) -> None:
    """One line that does not tear the bar."""
    tqdm.write(line, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """A bar with rate and time left; silent where stderr is no terminal."""

    def __init__(self, total: int, what: str | None = None, *, shown: bool = True) -> None:
        self._bar: tqdm[Never] = tqdm(
            total=total,
            desc=what,
            unit="answer",
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )

    def step(self, what: str) -> None:
        """One more answer, by method and task."""
        self._bar.set_postfix_str(what, refresh=False)
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.close()
