"""Names to implementations: literal tables, entry points and ``--plugin`` files, all lazy.

Importing this module, or listing what is registered, imports no torch.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import harness.clock  # noqa: F401 - it binds the system's clocks before a plug-in can replace them
from harness.errors import FAILURES, UserError, one_line

KINDS = ("drafters", "policies", "targets", "tasks", "objectives")
_HOMES = {"objectives": "drafters.block_diffusion.objectives", "policies": "drafters"}
"""Modules of the project's own tables, where they are not called as the kind is."""
_ONE = {"policies": "policy"}
"""Singulars that take more than leaving out an s."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: where the implementation is, and a phrase for ``harness list``."""

    path: str
    """``module:attribute``, imported on first use."""
    description: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments bound to the implementation."""
    trainer: str = ""
    """Of a drafter that ``harness train`` makes in its own way: ``module:attribute``."""

    def load(self) -> Any:
        """The object behind ``path``.

        Raises:
            UserError: the module cannot be imported, or lacks the attribute.
        """
        return imported(self.path)


def imported(path: str) -> Any:
    """The object behind ``module:attribute``.

    Raises:
        UserError: the module cannot be imported, or lacks the attribute.
    """
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path} cannot be imported: {error}.") from error


BLOCK_DIFFUSION = "drafters.block_diffusion.drafter:build"

_PLUGINS: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_LOADED: dict[str, str] = {}
_PLUGIN_FLAGS: dict[str, str] = {}
"""What to write to load each of them again, by the same names."""


def table(kind: str) -> dict[str, Any]:
    """Every row of one kind: the project's own, then entry points, then ``--plugin`` files.

    Rows are `Entry`; a row of ``objectives`` may also be an ``Objective`` itself. Every objective
    is also the name of the block-diffusion drafter trained with it. Entry points are read from
    the group ``harness.<kind>``.

    Raises:
        UserError: two of them claim one name.
    """
    rows = _registered(kind)
    if kind == "drafters":
        for name, objective in _registered("objectives").items():
            rows.setdefault(name, Entry(BLOCK_DIFFUSION, f"block diffusion: {phrase(objective)}"))
    return rows


def phrase(row: Any) -> str:
    """What ``harness list`` says of a row."""
    return str(row.description)


def resolve(kind: str, name: str) -> Any:
    """The row called ``name``.

    Raises:
        UserError: no such name; the message holds the near misses.
    """
    rows = table(kind)
    if name in rows:
        return rows[name]
    if kind == "drafters" and name in table("policies"):
        raise UserError(
            f"{name} is a policy, which is put over a drafter; write combined+{name}, or another "
            "drafter in place of combined."
        )
    if kind == "policies" and name in table("drafters"):
        raise UserError(
            f"{name} is a drafter, and only policies stand behind a plus sign; write "
            f"{name}+POLICY, with a policy of: {', '.join(rows)}."
        )
    raise UserError(f"unknown {_one(kind)} {name!r}; {near_misses(name, rows)}")


def load(kind: str, name: str) -> Any:
    """The thing called ``name`` itself: what an `Entry` leads to, or an ``Objective`` row.

    Raises:
        UserError: no such name, or it cannot be imported.
    """
    row = resolve(kind, name)
    return row.load() if isinstance(row, Entry) else row


def near_misses(name: str, known: Iterable[str]) -> str:
    """Half a sentence that helps whoever mistyped ``name``."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}."


def load_plugin(path: Path) -> None:
    """Run a plug-in file and register what its tables (DRAFTERS, POLICIES, …) hold.

    The file becomes importable under its stem, so that its rows can name it. Loading the same
    file again changes nothing.

    Raises:
        UserError: the file cannot be read or run, its name is that of another module, or it
            claims a name that is taken.
    """
    stem, given, path = path.stem, path, path.resolve()
    loaded = sys.modules.get(stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return
    module = _import_file(stem, path)
    try:
        rows = _rows(module, path)
        for kind, name, _ in rows:
            if name in table(kind):
                raise _taken(kind, name)
    except UserError:
        del sys.modules[stem]
        raise
    for kind, name, row in rows:
        _PLUGINS[kind][name] = row
    _LOADED[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    _PLUGIN_FLAGS[path.name] = f"--plugin {shlex.quote(str(given))}"


def loaded_plugins() -> dict[str, str]:
    """SHA-256 of every plug-in file that was loaded, by its name; no two can share one."""
    return dict(sorted(_LOADED.items()))


def plugin_flags() -> str:
    """The flags that load today's plug-ins, for a command that is proposed; may be empty."""
    return "".join(f" {_PLUGIN_FLAGS[name]}" for name in sorted(_LOADED))


def _registered(kind: str) -> dict[str, Any]:
    rows = dict(_own(kind))
    outside = [
        (point.name, Entry(point.value, f"from {point.value}"))
        for point in entry_points(group=f"harness.{kind}")
    ]
    for name, row in [*outside, *_PLUGINS[kind].items()]:
        if name in rows:
            raise _taken(kind, name)
        rows[name] = row
    return rows


def _own(kind: str) -> Mapping[str, Any]:
    """The project's literal table."""
    home = importlib.import_module(_HOMES.get(kind, kind))
    rows: Mapping[str, Any] = getattr(home, kind.upper())
    return rows


def _import_file(stem: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"plug-in {path.name} is not a Python file that can be read.")
    if not stem.isidentifier() or _is_another_module(stem, path):
        raise UserError(
            f"plug-in {path.name} cannot be imported as {stem!r}, which is taken or no module "
            "name; rename the file."
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    try:
        spec.loader.exec_module(module)
    except FAILURES as error:
        del sys.modules[stem]
        raise UserError(f"plug-in {path.name} failed to load: {one_line(error)}") from error
    return module


def _is_another_module(stem: str, path: Path) -> bool:
    """Whether ``import stem`` would find something else than ``path``."""
    found = None if stem in sys.modules else importlib.util.find_spec(stem)
    return stem in sys.modules or (found is not None and found.origin != str(path))


def _rows(module: ModuleType, path: Path) -> list[tuple[str, str, Any]]:
    rows = [
        (kind, name, row)
        for kind in KINDS
        for name, row in getattr(module, kind.upper(), {}).items()
    ]
    for kind, name, row in rows:
        if not hasattr(row, "description") or (kind != "objectives" and not isinstance(row, Entry)):
            raise UserError(
                f"plug-in {path.name}: {kind.upper()}[{name!r}] is no row; write "
                "Entry('module:attribute', 'a phrase')."
            )
    if not rows:
        raise UserError(
            f"plug-in {path.name} defines none of the tables {', '.join(map(str.upper, KINDS))}."
        )
    return rows


def _taken(kind: str, name: str) -> UserError:
    return UserError(f"{_one(kind)} {name!r} is registered twice; give one of them another name.")


def _one(kind: str) -> str:
    return _ONE.get(kind, kind[:-1])
