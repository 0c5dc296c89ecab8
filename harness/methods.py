"""Methods of a run: named baselines and built drafters, all called the same way."""

from __future__ import annotations

import dataclasses
import itertools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drafters.base import Drafter, is_oracle
from drafters.build import build_drafter
from drafters.options import DrafterOptions
from drafters.policy import records_of
from harness.errors import FAILURES, UserError, one_line
from harness.foreign import builder_of, foreign, modules_of
from harness.plan import Plan
from harness.run_facts import MethodFacts

if TYPE_CHECKING:
    from harness.decode import Decoded
    from harness.sampling import Sampling
    from targets.base import Target


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the leaderboard, ready to run."""

    name: str
    generate: Callable[[Sequence[int], Sampling, int], Decoded]
    """Prompt ids, rules and the most new tokens, to an answer."""
    facts: MethodFacts
    """Its part of ``config.json``."""
    drafter: Drafter | None = None
    """What proposes; None for a foreign baseline."""
    prepare: Callable[[Sequence[int], Sequence[int]], None] | None = None
    """Takes the prompt and ``ar_loop``'s answer before the clock starts; what an oracle needs."""
    anew: Callable[[], Method] | None = None
    """Builds it again, without what it remembers; None for code of this project, which forgets, and
    for what declares that it remembers."""

    @property
    def is_foreign(self) -> bool:
        """Whether code from outside of this project drafts."""
        return self.facts.get("foreign") is not None

    @property
    def has_stages(self) -> bool:
        """Whether the parts of its rounds can be timed: it shows them, and is told no answer."""
        return self.drafter is not None and self.prepare is None


def build_methods(plan: Plan, target: Target) -> tuple[Method, ...]:
    """Every baseline and drafter of the plan.

    Raises:
        UserError: a drafter cannot be built, for want of a checkpoint above all.
    """
    baselines = [_baseline(name, target) for name in plan.baselines]
    drafters = [_drafter(options, plan, target) for options in plan.drafters]
    return (*baselines, *drafters)


def _baseline(name: str, target: Target) -> Method:
    facts: MethodFacts = {"method": name, "kind": "baseline", "oracle": False}
    if name == "hf_generate":
        from harness.baselines import hf_generate
        from targets.transformers_lm import TransformersTarget

        if not isinstance(target, TransformersTarget):
            raise UserError(
                f"target {target.name} has no generate of its own; write --baseline ar_loop."
            )

        def foreign(prompt_ids: Sequence[int], sampling: Sampling, max_new_tokens: int) -> Decoded:
            return hf_generate(target, prompt_ids, sampling=sampling, max_new_tokens=max_new_tokens)

        return Method(name=name, generate=foreign, facts=facts)
    from drafters.none import build

    none = build(target, DrafterOptions(name="none"))
    return Method(name=name, generate=_loop(target, none), facts=facts, drafter=none)


def _drafter(options: DrafterOptions, plan: Plan, target: Target) -> Method:
    try:
        drafter = _build(options, plan, target)
        made = _as_method(options, drafter, target)
        if made.is_foreign and not made.facts["remembers"]:
            again = partial(_drafter, options, plan, target)
            return dataclasses.replace(made, anew=again)
        return made
    except UserError:
        raise
    except FAILURES as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"drafter {options.method} cannot be built: {one_line(error)} "
            f"({Path(place.filename).name}, line {place.lineno})."
        ) from error


def _as_method(options: DrafterOptions, drafter: Any, target: Target) -> Method:
    told = is_oracle(drafter)
    facts: MethodFacts = {
        "method": options.method,
        "kind": "drafter",
        "drafter": options.name,
        "policies": [
            {"policy": item.name, "settings": dict(item.settings)} for item in options.policies
        ],
        "policies_resolved": records_of(drafter),
        "argument": options.argument,
        "block_size": drafter.block_size,
        "draft": drafter.draft,
        "draft_vocab_size": getattr(drafter, "draft_vocab_size", None),
        "checkpoint": getattr(drafter, "checkpoint", None),
        "oracle": told,
        "remembers": getattr(drafter, "remembers", False) is True,
        "foreign": foreign(*_builders(options), *modules_of(drafter)),
    }
    return Method(
        name=options.method,
        generate=_loop(target, drafter),
        facts=facts,
        drafter=drafter,
        prepare=drafter.prepare if told else None,
    )


def _builders(options: DrafterOptions) -> list[str]:
    """Modules that build a drafter and its policies."""
    layers = (builder_of("policies", policy.name) for policy in options.policies)
    return [*builder_of("drafters", options.name), *itertools.chain(*layers)]


def _build(options: DrafterOptions, plan: Plan, target: Target) -> Any:
    """The drafter; what it lacks is trained first, where that was asked for."""
    from drafters.block_diffusion.checkpoint import MissingCheckpoint

    trained: set[str] = set()
    while True:
        try:
            return build_drafter(target, options)
        except MissingCheckpoint as missing:
            name = missing.drafter_name or options.name
            if not plan.config.train_if_missing or name in trained:
                raise
        trained.add(name)
        _train(dataclasses.replace(options, name=name), plan)


def _train(options: DrafterOptions, plan: Plan) -> None:
    from drafters.block_diffusion.config import TrainConfig
    from drafters.train import train

    train(
        TrainConfig(
            drafter=options.name,
            target=plan.target.name,
            revision=plan.target.revision,
            device=plan.target.device,
        )
    )


def _loop(target: Target, drafter: Any) -> Callable[[Sequence[int], Sampling, int], Decoded]:
    from harness.decode import generate

    def run(prompt_ids: Sequence[int], sampling: Sampling, max_new_tokens: int) -> Decoded:
        return generate(
            target, drafter, prompt_ids, sampling=sampling, max_new_tokens=max_new_tokens
        )

    return run
