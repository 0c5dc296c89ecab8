"""The user's own data files, for the few tests that compare with them; others never see them."""

from __future__ import annotations

import os
from pathlib import Path

_ASKED = os.environ.get("HARNESS_DATA_DIR")
DATA_DIR = Path(_ASKED) if _ASKED else None
"""Read before `conftest` takes the variable away; an empty one is none, as in the program."""
