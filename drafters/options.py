"""``--drafter`` as parsed: a drafter, the policies put over it, a label and an argument."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from harness.errors import UserError
from harness.registry import near_misses

Form = TypeVar("Form")

_LAYER = r"[^+:@=\s]+(?::[^+:@=\s]+=[^+:@=\s]+)*"
_SHAPE = re.compile(
    rf"(?P<layers>{_LAYER}(?:\+{_LAYER})*)(?:@(?P<label>[^=]+))?(?:=(?P<argument>.+))?", re.DOTALL
)
_SWITCH = {"on": True, "off": False}


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """A proposal policy and its settings, as parsed from ``NAME[:KEY=VALUE…]``."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return ":".join((self.name, *(f"{key}={value}" for key, value in self.settings)))

    def read(self, form: type[Form]) -> Form:
        """The settings as a dataclass of int, float, str and bool (``on``, ``off``) fields.

        Raises:
            UserError: a setting that ``form`` lacks, given twice, or of a value it cannot have.
        """
        hints = get_type_hints(form)
        values: dict[str, Any] = {}
        for key, text in self.settings:
            if key not in hints:
                known = near_misses(key, hints) if hints else "it takes none."
                raise UserError(f"policy {self.name} has no setting {key!r}; {known}")
            if key in values:
                raise UserError(f"policy {self.name} is given {key!r} twice; give it once.")
            values[key] = self._value(key, text, hints[key])
        try:
            return form(**values)
        except ValueError as error:
            raise UserError(f"policy {self}: {error}.") from error

    def _value(self, key: str, text: str, kind: type) -> Any:
        try:
            return _SWITCH[text] if kind is bool else kind(text)
        except (KeyError, ValueError):
            wanted = {bool: "on or off", int: "a whole number", float: "a number"}[kind]
            raise UserError(f"policy {self.name}: {key} must be {wanted}, not {text!r}.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterOptions:
    """What a drafter is built with: ``NAME[+POLICY[:KEY=VALUE…]…][@LABEL][=ARGUMENT]``."""

    name: str
    policies: tuple[PolicyOptions, ...] = ()
    """Put over the drafter one after the other, the last one outermost."""
    label: str | None = None
    argument: str | None = None
    """Checkpoint path or hub id, acceptance rate, …: the drafter's own business."""
    block_size: int | None = None
    """None takes the drafter's own."""
    draft_vocab: Literal["full", "trained"] = "full"
    """Whether a drafter proposes any token, or only those it was trained on."""
    draft: Literal["argmax", "sample"] | None = None
    """None takes argmax when greedy, sample otherwise."""
    greedy: bool = True
    """Whether the run's temperature is 0; settles a ``draft`` of None when the drafter is built."""

    @property
    def method(self) -> str:
        """The name in records and tables; with a label, settings are left to ``config.json``."""
        if self.label is None:
            return "+".join((self.name, *map(str, self.policies)))
        return "+".join((self.name, *(item.name for item in self.policies))) + f"@{self.label}"

    @classmethod
    def parse(cls, text: str, block_size: int | None = None) -> DrafterOptions:
        """Read the text of ``--drafter``.

        Raises:
            UserError: it cannot be read, or settings are given to a drafter.
        """
        found = _SHAPE.fullmatch(text.strip())
        if found is None:
            raise UserError(
                f"drafter {text!r} cannot be read; write NAME, NAME=PATH, NAME@LABEL=PATH or "
                "NAME+POLICY:KEY=VALUE."
            )
        head, *rest = (_layer(part) for part in found["layers"].split("+"))
        if head.settings:
            raise UserError(
                f"drafter {head.name!r} takes no settings; only policies do: "
                f"{head.name}+POLICY:KEY=VALUE."
            )
        return cls(
            name=head.name,
            policies=tuple(rest),
            label=found["label"],
            argument=found["argument"],
            block_size=block_size,
        )

    def alone(self) -> DrafterOptions:
        """The same drafter without its policies."""
        return dataclasses.replace(self, policies=())


def _layer(text: str) -> PolicyOptions:
    name, *settings = text.split(":")
    pairs = (item.partition("=") for item in settings)
    return PolicyOptions(name, tuple((key, value) for key, _, value in pairs))
