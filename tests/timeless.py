"""What two runs of the same configuration must have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OF_THE_MOMENT = {
    "prefill_s",
    "decode_s",
    "peak_memory_bytes",
    "other_load",
    "elapsed_s",
    "process",
    "num_processes",
}
"""Fields that say how a generation was timed, not what came of it."""


def timeless_records(directory: Path) -> list[dict[str, Any]]:
    """Records in the order of the file, without what depends on the moment."""
    return [
        {name: value for name, value in body.items() if name not in OF_THE_MOMENT}
        for body in _lines(directory / "records.jsonl")
    ]


def audits(directory: Path) -> list[dict[str, Any]]:
    """Audits, in an order of their own; none where there is no file."""
    path = directory / "audit.jsonl"
    return sorted(_lines(path), key=str) if path.exists() else []


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
