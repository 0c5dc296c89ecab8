"""What is on this machine of targets, drafters and tasks; nothing is downloaded or loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drafters.build import check_drafter
from drafters.options import DrafterOptions
from harness import registry
from harness.errors import FAILURES, UserError, one_line

_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)B\b", re.IGNORECASE)
_EMBEDDED_BYTES = 270_000_000

Place = Literal["files", "cache", "hub", "samples", "unknown"]
"""Where a task's prompts would come from: the data directory, the hub's cache, the hub itself, the
samples of this project, or code from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetProbe:
    """A named target: what it needs, and whether it is here."""

    name: str
    state: Literal["here", "download", "missing", "unknown"]
    needs_bytes: int | None
    """Of its bfloat16 weights: measured if here, else from the billions in its name."""
    complaint: str = ""
    """Why it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterProbe:
    """A named drafter in front of a named target, asked for without an argument."""

    name: str
    target: str
    state: Literal["here", "untrained", "refused"]
    complaint: str = ""
    """Why it is refused."""


def targets() -> tuple[TargetProbe, ...]:
    """Every row of the table but those that are another's old name."""
    rows = registry.table("targets").items()
    return tuple(_target(name, row) for name, row in rows if row.path != "targets.load:renamed")


def drafters() -> tuple[DrafterProbe, ...]:
    """Every row of the table before every target."""
    return tuple(
        _drafter(name, target)
        for target in registry.table("targets")
        for name in registry.table("drafters")
    )


def task_files(data_dir: Path) -> dict[str, int]:
    """Of tasks that read files by name, how many are there; others are not listed."""
    from tasks.row_task import RowTask

    return {
        name: len(task.files_in(data_dir)) for name, task in _tasks() if isinstance(task, RowTask)
    }


def task_places(*, hub_answers: bool) -> dict[str, Place]:
    """Where prompts would come from without a data directory."""
    from tasks.hub import HUB
    from tasks.row_task import RowTask

    def place(task: object) -> Place:
        if not isinstance(task, RowTask):
            return "unknown"
        if HUB.cached(task.hub) is not None:
            return "cache"
        return "hub" if hub_answers else "samples"

    return {name: place(task) for name, task in _tasks()}


def _tasks() -> Iterator[tuple[str, object]]:
    for name, row in registry.table("tasks").items():
        yield name, row.load()


def _drafter(name: str, target: str) -> DrafterProbe:
    from drafters.block_diffusion.checkpoint import MissingCheckpoint

    try:
        check_drafter(DrafterOptions(name=name), target)
    except MissingCheckpoint:
        return DrafterProbe(name=name, target=target, state="untrained")
    except UserError as error:
        return DrafterProbe(name=name, target=target, state="refused", complaint=str(error))
    except FAILURES as error:  # code from elsewhere
        return DrafterProbe(name=name, target=target, state="refused", complaint=one_line(error))
    return DrafterProbe(name=name, target=target, state="here")


def _target(name: str, entry: registry.Entry) -> TargetProbe:
    if entry.path.startswith("targets.smollm2:"):
        from targets.smollm2 import packaged_file

        try:
            packaged_file()
        except UserError as error:
            return TargetProbe(
                name=name, state="missing", needs_bytes=_EMBEDDED_BYTES, complaint=str(error)
            )
        return TargetProbe(name=name, state="here", needs_bytes=_EMBEDDED_BYTES)
    if entry.path.startswith("targets.qwen:"):
        return _fetched_target(name)
    model = entry.options.get("model")
    if not isinstance(model, str):
        return TargetProbe(name=name, state="unknown", needs_bytes=None)
    cached = _cached_bytes(model)
    if cached is not None:
        return TargetProbe(name=name, state="here", needs_bytes=cached)
    billions = _BILLIONS.search(model)
    needs = int(float(billions[1]) * 2e9) if billions else None
    return TargetProbe(name=name, state="download", needs_bytes=needs)


def _fetched_target(name: str) -> TargetProbe:
    from targets import qwen

    here = qwen.is_fetched() or _cached_bytes(qwen.MODEL) is not None
    return TargetProbe(
        name=name,
        state="here" if here else "download",
        needs_bytes=qwen.NUM_BYTES,
        complaint="is not here, and the hub does not answer; run `python -m harness fetch qwen`",
    )


def _cached_bytes(model: str) -> int | None:
    """Size of the weight files in the hub's cache; None unless all that is needed is there."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(model, name)
        return Path(found) if isinstance(found, str) else None

    names = {"model.safetensors"}
    try:
        if (index := cached("model.safetensors.index.json")) is not None:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [cached(name) for name in names]
        texts = cached("tokenizer.json") or cached("tokenizer_config.json")
        if cached("config.json") is None or texts is None or None in files:
            return None
        return sum(file.stat().st_size for file in files if file is not None)
    except (OSError, ValueError, KeyError):  # a damaged cache is downloaded again
        return None
