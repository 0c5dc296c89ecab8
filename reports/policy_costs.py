"""Policies that do not pay, and the part of a round whose cost outgrew the gain."""

from __future__ import annotations

from harness import paired
from harness.run_facts import MethodFacts
from harness.stages import PartCost, part_costs
from reports import formatting as form
from reports.differences import by_task
from reports.group import Comparison
from reports.policies import own_chain
from reports.run import Run


def cost_note(group: Comparison, run: Run, item: MethodFacts) -> str:
    """A sentence on a method that is no faster than its own chain; else empty."""
    method, chain = str(item["method"]), own_chain(run, item)
    if chain is None or any(group.is_refuted(run, name) for name in (method, chain)):
        return ""
    speed = paired.speedup(list(zip(by_task(run, chain), by_task(run, method), strict=True)))
    if speed.value is None or speed.value > 1:
        return ""
    taus = [group.score(run, name)["tau"] for name in (method, chain)]
    interval = form.spread(speed.low, speed.high)
    return (
        f"no faster than its own chain: {method} decodes at {form.times(speed.value)}"
        f"{f' ({interval})' if interval else ''} the speed of {chain}, with τ "
        f"{form.ratio(taus[0])} against {form.ratio(taus[1])}; {_costs(run, method, chain, taus)}."
    )


def _costs(run: Run, method: str, chain: str, taus: list[float | None]) -> str:
    """Which part of a round outgrew τ."""
    tau, chain_tau = taus
    stages = run.stages
    if stages is None or not {method, chain} <= stages.methods.keys() or not tau or not chain_tau:
        return "the parts of their rounds were not timed, so the cost that loses is not known"
    costs = part_costs(tau, stages.methods[method], chain_tau, stages.methods[chain])
    most, *others = costs
    if most.added_s <= 0:
        shown = ", ".join(map(_ratio, costs))
        return (
            "none of the parts of a round that were timed apart costs more for each committed "
            f"token than the chain's ({shown}), so the loss lies between them, in the overhead"
        )
    return (
        f"the cost that loses is {most.part}: {form.milliseconds(most.round_s)} ms a round against "
        f"{form.milliseconds(most.other_round_s)} behind {stages.num_context_tokens} tokens of "
        f"context, for each committed token {form.times(most.ratio)} the chain's "
        f"({', '.join(map(_ratio, others))})"
    )


def _ratio(cost: PartCost) -> str:
    return f"{cost.part} {form.times(cost.ratio)}"
