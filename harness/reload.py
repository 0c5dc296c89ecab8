"""A run's target and prompts, loaded again from what its directory says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.audit import WIDER
from harness.errors import UserError
from harness.plan import prompts_of_run
from harness.run_facts import RunFacts
from targets.base import Target, TargetOptions
from targets.find import check_target
from targets.load import load_target
from tasks.base import PromptSet

_SAME_TARGET = ("model", "revision", "weights_sha256", "dtype")
"""Facts of ``config.json`` that the target loaded now must share."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What the answers of a run were made with."""

    options: TargetOptions
    target: Target
    tasks: Mapping[str, PromptSet]


def reload_run(config: RunFacts, data_dir: Path | None) -> Reloaded:
    """Load target and prompts of a run, and check that they are the same.

    Args:
        config: the run's ``config.json``.
        data_dir: where its prompts are today, see `harness.plan.load_tasks`.

    Raises:
        UserError: they cannot be loaded here, or are not the same.
    """
    options = _target_options(config)
    check_target(options)
    tasks = prompts_of_run(config, data_dir)
    target = load_target(options)
    facts = target.describe()
    for name in _SAME_TARGET:
        began, now = config["target"].get(name), facts.get(name)
        if began != now:
            raise UserError(
                f"run {config['run_id']} was made by a target whose {name} was {began}, and the "
                f"one loaded now has {now}; put the target back as it was."
            )
    return Reloaded(options, target, tasks)


def _target_options(config: RunFacts) -> TargetOptions:
    facts = config["target"]
    device, dtype = facts.get("device", "cpu"), facts.get("dtype")
    if dtype not in WIDER:
        raise UserError(
            f"run {config['run_id']} was measured in dtype {dtype}; the audit knows "
            f"{', '.join(WIDER)}."
        )
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"run {config['run_id']} was measured on {device}, and there is none here; verify it "
            "on a machine that has one."
        )
    return TargetOptions(
        name=facts["name"],
        dtype=dtype,
        device=device,
        attn=facts.get("attn"),
        revision=facts.get("revision"),
        enable_thinking=facts.get("enable_thinking") or False,
        template_date=facts.get("template_date"),
    )
