"""From options to a drafter: the one named, and every policy that was put over it."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from drafters.base import is_oracle
from drafters.options import DrafterOptions
from harness import registry
from harness.errors import UserError
from targets.base import Target


def check_drafter(options: DrafterOptions, target_name: str) -> None:
    """Say what can be said against a drafter before any weights are loaded.

    The module of a drafter's builder may hold ``check(options, target_name)``, that of a policy's
    ``check(policy, options, target_name)`` or a dataclass ``Settings``; both raise `UserError`.

    Raises:
        MissingCheckpoint: it has to be trained first.
        UserError: no such drafter or policy, a setting that it cannot have, or no checkpoint where
            one was named.
    """
    row = registry.resolve("drafters", options.name)
    layers = [(policy, registry.resolve("policies", policy.name)) for policy in options.policies]
    check = getattr(_module(row), "check", None)
    if check is not None:
        check(options, target_name)
    for policy, row in layers:
        module = _module(row)
        if hasattr(module, "check"):
            module.check(policy, options, target_name)
        elif hasattr(module, "Settings"):
            policy.read(module.Settings)


def _module(row: registry.Entry) -> ModuleType:
    """The module of a row's builder, which can be imported and called.

    Raises:
        UserError: it cannot.
    """
    if not callable(row.load()):
        raise UserError(f"{row.path} is not a function that builds a drafter; correct its row.")
    return importlib.import_module(row.path.partition(":")[0])


def build_drafter(target: Target, options: DrafterOptions) -> Any:
    """The drafter, as `drafters.base.Drafter`.

    Raises:
        MissingCheckpoint: it has to be trained first.
        UserError: no such name, an unknown setting, or a drafter its policy cannot work with.
    """
    row = registry.resolve("drafters", options.name)
    drafter = row.load()(target, options, **row.options)
    for policy in options.policies:
        if is_oracle(drafter):
            raise UserError(f"{options.name} knows the answer; no policy can be put over it.")
        row = registry.resolve("policies", policy.name)
        drafter = row.load()(drafter, target, options, policy, **row.options)
    return drafter
