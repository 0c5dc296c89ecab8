"""Arguments of the lm-eval model: a target, and the drafter in front of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from drafters import build
from drafters.base import Drafter, is_oracle
from drafters.options import DrafterOptions
from harness import registry
from harness.errors import UserError

if TYPE_CHECKING:
    from targets.base import Target

BASELINE = "ar_loop"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArgs:
    """What ``--model_args`` may say."""

    target: str = "smollm2"
    drafter: str = BASELINE
    """``ar_loop`` for the baseline, else as in ``--drafter``: NAME or NAME=CHECKPOINT."""
    dtype: str = "bfloat16"
    device: str = "auto"
    attn: str | None = None
    revision: str | None = None
    enable_thinking: bool = False
    template_date: str | None = None
    """What the target's template takes for today, where it writes the date; by default today."""
    block_size: int | None = None
    draft_vocab: str = "full"
    seed: int = 0
    plugin: str | None = None
    """A Python file, as in ``--plugin``."""

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """From names and values as lm-eval parsed them.

        Raises:
            UserError: a name that is not known, or a value that does not fit.
        """
        known = {field.name: str(field.type) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in known:
                raise UserError(
                    f"unknown model argument {name!r}; {registry.near_misses(name, known)}"
                )
            kind = {"bool": bool, "int": int}.get(known[name].partition(" ")[0], str)
            value = str(value) if kind is str else value
            if type(value) is not kind:
                raise UserError(f"model argument {name} takes {kind.__name__}, not {value!r}.")
            values[name] = value
        for name, choices in (
            ("dtype", ("bfloat16", "float32")),
            ("draft_vocab", ("full", "trained")),
        ):
            if values.get(name, choices[0]) not in choices:
                raise UserError(f"{name} is one of {', '.join(choices)}, not {values[name]!r}.")
        return cls(**values)


def check_drafter(arguments: ModelArgs) -> None:
    """See `drafters.build.check_drafter`."""
    if arguments.drafter != BASELINE:
        options = DrafterOptions.parse(arguments.drafter, arguments.block_size)
        build.check_drafter(options, arguments.target)


def build_drafter(target: Target, arguments: ModelArgs, *, greedy: bool) -> Drafter:
    """The drafter asked for; ``ar_loop`` proposes nothing.

    Raises:
        UserError: no such drafter, no checkpoint, or one that must be told the answer.
    """
    if arguments.drafter == BASELINE:
        from drafters.none import NoDrafter

        return NoDrafter(target.device)
    options = dataclasses.replace(
        DrafterOptions.parse(arguments.drafter, arguments.block_size),
        greedy=greedy,
        draft_vocab="trained" if arguments.draft_vocab == "trained" else "full",
    )
    drafter: Drafter = build.build_drafter(target, options)
    if is_oracle(drafter):
        raise UserError(f"drafter {options.name} must be told the answer; it cannot be used here.")
    return drafter
