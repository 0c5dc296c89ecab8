"""Names to implementations: literal tables, entry points and ``--plugin`` files, all lazy.

Importing this module, or listing what is registered, imports no torch.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from harness.errors import UserError

KINDS = ("drafters", "targets", "tasks", "objectives")


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: where the implementation is, and a phrase for ``harness list``."""

    path: str
    """``module:attribute``, imported on first use."""
    description: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments bound to the implementation."""

    def load(self) -> Any:
        """The object behind ``path``."""
        module_name, _, attribute = self.path.partition(":")
        return getattr(importlib.import_module(module_name), attribute)


BLOCK_DIFFUSION = "drafters.block_diffusion.drafter:build"

_PLUGINS: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}


def table(kind: str) -> dict[str, Entry]:
    """Every entry of one kind: the project's own, then entry points, then ``--plugin`` files.

    Entry points are read from the group ``harness.<kind>``.

    Raises:
        UserError: two of them claim one name.
    """
    entries = dict(_own(kind))
    for point in entry_points(group=f"harness.{kind}"):
        _add(entries, kind, point.name, Entry(point.value, f"from {point.value}"))
    for name, entry in _PLUGINS[kind].items():
        _add(entries, kind, name, entry)
    return entries


def _own(kind: str) -> Mapping[str, Any]:
    """The project's literal table; every objective is also the drafter trained with it."""
    if kind == "objectives":
        from drafters.block_diffusion.objectives import OBJECTIVES

        return OBJECTIVES
    module = importlib.import_module(kind)
    return dict(getattr(module, kind.upper()))


def _add(entries: dict[str, Any], kind: str, name: str, entry: Any) -> None:
    if name in entries:
        raise UserError(f"{kind[:-1]} {name!r} is registered twice; give one of them another name.")
    entries[name] = entry


def resolve(kind: str, name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        UserError: no such name; the message holds the near misses.
    """
    entries = table(kind)
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(entries)}."
    raise UserError(f"unknown {kind[:-1]} {name!r}; {hint}")


def load_plugin(path: Path) -> None:
    """Run a plug-in file and register what its tables DRAFTERS, TARGETS, TASKS, OBJECTIVES hold.

    Raises:
        UserError: the file cannot be read or run, or claims a name that is taken.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"plug-in {path} is not a Python file that can be read.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"plug-in {path} failed to load: {type(error).__name__}: {error}") from error
    found = 0
    for kind in KINDS:
        for name, entry in getattr(module, kind.upper(), {}).items():
            taken = table(kind)
            _add(taken, kind, name, entry)
            _PLUGINS[kind][name] = entry
            found += 1
    if not found:
        raise UserError(
            f"plug-in {path} defines none of the tables DRAFTERS, TARGETS, TASKS, OBJECTIVES."
        )
