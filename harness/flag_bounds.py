"""How large the numbers on a command line may be: no larger than what ``config.json`` may hold."""

from __future__ import annotations

from harness.bounds import Count, Depth, Seed, Small, Temperature, between
from harness.errors import UserError

_LEAST = {"limit": 1, "max_new_tokens": 1, "block_size": 2, "repeats": 1}
"""The others' least are said where what they mean is."""
_BOUNDS = {
    **{"limit": Count, "max_new_tokens": Count, "top_k": Count, "block_size": Depth},
    **{"repeats": Small, "temperature": Temperature, "seed": Seed},
}


def require_bounds(config: object) -> None:
    """Look at the numbers of a command before anything is loaded.

    Raises:
        UserError: one is too small to mean anything, or larger than any report would read.
    """
    for name, form in _BOUNDS.items():
        value, flag = getattr(config, name, None), name.replace("_", "-")
        if not isinstance(value, int | float):
            continue
        least, most = _LEAST.get(name), between(form).most
        if least is not None and value < least:
            raise UserError(f"--{flag} must be at least {least}, not {value}.")
        if value > most:
            raise UserError(f"--{flag} must be at most {most:,}.")
        if name == "seed" and value < between(form).least:
            raise UserError(f"--{flag} must be at least {between(form).least:,}.")
