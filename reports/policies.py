"""What of a method is its drafter, and what its test-time method: the policies over it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from drafters.block_diffusion.objectives import OBJECTIVES
from drafters.options import PolicyOptions
from harness.run_facts import MethodFacts
from reports.run import Run

OWN_CHAIN = ""
"""The `stack` of a drafter that proposes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """One drafter of a run under every test-time method that it ran with."""

    name: str
    """That of its own chain, where it ran."""
    methods: Mapping[str, str]
    """Method by `stack`."""


def stack(item: MethodFacts) -> str:
    """The policies over a method's drafter, with their settings, as ``--drafter`` takes them.

    A method's name holds the same, but for the settings where it has a label.
    """
    return "+".join(
        str(PolicyOptions(policy["policy"], tuple(policy["settings"].items())))
        for policy in item.get("policies", ())
    )


def own_chain(run: Run, item: MethodFacts) -> str | None:
    """The method of the same drafter without a policy.

    None where the run has no such method, or this one has no policy itself.
    """
    if stack(item) == OWN_CHAIN:
        return None
    names = (
        str(other["method"])
        for other in run.methods
        if other["kind"] == "drafter"
        and stack(other) == OWN_CHAIN
        and _asked(other) == _asked(item)
    )
    return next(names, None)


def share_a_part(first: MethodFacts, second: MethodFacts) -> bool:
    """Whether two methods are of one drafter, or have one test-time method."""
    return stack(first) == stack(second) or _asked(first) == _asked(second)


def lineups(run: Run) -> list[Lineup]:
    """Drafters with two test-time methods or more, in the order of their objectives.

    One that met the same test-time method twice, under two labels, has two lineups.
    """
    found: dict[tuple[str, str | None, int], dict[str, str]] = {}
    seen: Counter[tuple[str, str | None, str]] = Counter()
    for item in run.methods:
        if item["kind"] == "baseline":
            continue
        drafter, argument = _asked(item)
        above = stack(item)
        place = (drafter, argument, seen[drafter, argument, above])
        seen[drafter, argument, above] += 1
        found.setdefault(place, {})[above] = str(item["method"])
    known = list(OBJECTIVES)
    order = sorted(found, key=lambda at: known.index(at[0]) if at[0] in known else len(known))
    return [
        Lineup(name=_name(place[0], found[place]), methods=found[place])
        for place in order
        if len(found[place]) > 1
    ]


def _name(drafter: str, methods: Mapping[str, str]) -> str:
    if OWN_CHAIN in methods:
        return methods[OWN_CHAIN]
    _, at, label = next(iter(methods.values())).partition("@")
    return f"{drafter}{at}{label}"


def _asked(item: MethodFacts) -> tuple[str, str | None]:
    """Name and argument of a method's drafter: alike in methods that differ in policies alone."""
    return str(item.get("drafter", item["method"])), item.get("argument")
