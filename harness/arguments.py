"""A command's arguments to its form."""

from __future__ import annotations

from typing import TypeVar

import tyro

from harness import registry

_T = TypeVar("_T")


def parse(form: type[_T], arguments: list[str], command: str, default: _T | None = None) -> _T:
    """The form filled in, its plug-ins loaded: names in it may be theirs."""
    config = tyro.cli(
        form,
        args=arguments,
        prog=f"python -m harness {command}",
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
    )
    for path in getattr(config, "plugin", ()):
        registry.load_plugin(path)
    return config
