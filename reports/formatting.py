"""Numbers and facts to text, for every table and both formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.run_facts import SamplingFacts

BLANK = "–"
"""Not measured, or not defined; never zero."""
_BLOCKS = "·▁▂▃▄▅▆▇█"


def ratio(value: float | None) -> str:
    """Two decimals: accepted lengths and rates."""
    return BLANK if value is None else f"{value:.2f}"


def times(value: float | None) -> str:
    """A speedup."""
    return BLANK if value is None else f"{value:.2f}×"


def interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval; empty where there is none or nothing varies."""
    if low is None or high is None or low == high:
        return ""
    return f"{low:.2f}–{high:.2f}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return BLANK if value is None else f"{value:+.2f}".replace("-", "−")


def spread(low: float | None, high: float | None) -> str:
    """Both ends of an interval that may be negative; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{low:.2f} to {high:.2f}".replace("-", "−")


def mean_sd(mean: float, sd: float) -> str:
    """A mean and the standard deviation about it."""
    return f"{mean:.2f} ± {sd:.2f}"


def share(value: float | None) -> str:
    """A share in percent, without the sign."""
    return BLANK if value is None else f"{100 * value:.1f}"


def percents(ends: tuple[float, float] | None) -> str:
    """Both ends of an interval of a share, in percent."""
    return "" if ends is None else "–".join(f"{100 * end:.1f}" for end in ends)


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−") if value else "0.0"


def points_interval(low: float | None, high: float | None) -> str:
    """Both ends of an interval of `points`; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{points(low)} to {points(high)}"


def rate(value: float | None) -> str:
    """Tokens a second."""
    if value is None:
        return BLANK
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}"


def small(value: float | None) -> str:
    """Three significant digits, whatever the size."""
    return BLANK if value is None else f"{value:.3g}"


def milliseconds(seconds: float | None) -> str:
    """Seconds in milliseconds, without the unit."""
    return BLANK if seconds is None else f"{seconds * 1e3:.1f}"


def gibibytes(value: float | None) -> str:
    """A number of bytes in GiB."""
    return BLANK if value is None else f"{value / 2**30:.2f}"


def count(value: float) -> str:
    """A whole number."""
    return f"{int(value):,}"


def counted(value: int, noun: str) -> str:
    """A whole number of things."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def number(value: float | str | None) -> str:
    """A parameter as short as it can be written; None and infinity are ∞."""
    if value is None or math.isinf(float(value)):
        return "∞"
    return f"{float(value):g}"


def digest(value: str | None) -> str:
    """The first 12 characters of a digest or commit."""
    return BLANK if not value else value[:12]


def text(value: object) -> str:
    """Anything else."""
    return BLANK if value is None or value == "" else str(value)


def sparkline(values: tuple[float, ...]) -> str:
    """Bars made of characters, for Markdown; the tallest is full."""
    top = max(values)
    return "".join(_BLOCKS[math.ceil(8 * value / top)] for value in values)


def sampling(facts: SamplingFacts) -> str:
    """How tokens were drawn."""
    if facts["temperature"] == 0:
        return "greedy (temperature 0)"
    parts = [f"temperature {number(facts['temperature'])}"]
    if facts["top_p"] < 1:
        parts.append(f"top-p {number(facts['top_p'])}")
    if facts["top_k"]:
        parts.append(f"top-k {facts['top_k']}")
    return ", ".join(parts)


def hardware(facts: Mapping[str, Any]) -> str:
    """The machine in a line."""
    numbers = ((facts.get("num_cores"), "core"), (facts.get("num_threads"), "thread"))
    counts = (counted(number, noun) for number, noun in numbers if isinstance(number, int))
    cpu = ", ".join((text(facts.get("cpu")), *counts))
    return f"{facts['gpu']}; {cpu}" if facts.get("gpu") else cpu


def commit(of: str | None, dirty: bool | None) -> str:
    """The commit the run was made from, and whether the tree was clean."""
    if not of:
        return "unknown"
    state = {True: " + uncommitted changes", False: "", None: " (tree state unknown)"}
    return digest(of) + state[dirty]


def versions(facts: Mapping[str, str | None]) -> str:
    """Names and versions of what ran."""
    return " · ".join(f"{name} {version}" for name, version in facts.items() if version)
