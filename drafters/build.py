"""From options to a drafter: the one named, and every policy that was put over it."""

from __future__ import annotations

from typing import Any

from drafters.options import DrafterOptions
from harness import registry
from harness.errors import UserError
from targets.base import Target


def require_names(options: DrafterOptions) -> None:
    """Look the names up before anything is loaded.

    Raises:
        UserError: no such drafter or policy.
    """
    registry.resolve("drafters", options.name)
    for policy in options.policies:
        registry.resolve("policies", policy.name)


def build_drafter(target: Target, options: DrafterOptions) -> Any:
    """The drafter, as `drafters.base.Drafter`.

    Raises:
        MissingCheckpoint: it has to be trained first.
        UserError: no such name, an unknown setting, or a drafter its policy cannot work with.
    """
    row = registry.resolve("drafters", options.name)
    drafter = row.load()(target, options, **row.options)
    for policy in options.policies:
        if getattr(drafter, "prepare", None) is not None:
            raise UserError(f"{options.name} knows the answer; no policy can be put over it.")
        row = registry.resolve("policies", policy.name)
        drafter = row.load()(drafter, target, options, policy, **row.options)
    return drafter
