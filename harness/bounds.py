"""How large the numbers in files of others may be: far more than any run, and never without end.

`harness.typed_json.typed` refuses what is outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, get_args


@dataclass(frozen=True, slots=True)
class Between:
    """Marks a number's type, in ``Annotated``, with the least and the most it may be."""

    least: float
    most: float


Count = Annotated[int, Between(0, 2**50)]
"""Of bytes, parameters, rows or tokens."""
Small = Annotated[int, Between(0, 2**16)]
"""Of what is done again and again in one run."""
Depth = Annotated[int, Between(0, 2**12)]
"""Of tokens drafted one behind the other: tables have a column for each."""
Share = Annotated[float, Between(0, 1)]
Seconds = Annotated[float, Between(0, 2**32)]
"""Up to a century."""
Temperature = Annotated[float, Between(0, 2**16)]
Seed = Annotated[int, Between(1 - 2**64, 2**64 - 1)]


def between(form: Any) -> Between:
    """The bounds that one of the types above is marked with."""
    found: Between = get_args(form)[1]
    return found
