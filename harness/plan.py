"""What a run will do, settled before any weights are loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drafters.build import check_drafter
from drafters.options import DrafterOptions
from harness import registry, run_files, template_date
from harness.config import BASELINES, RunConfig
from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.foreign import builder_of, foreign
from harness.run_facts import RunFacts, TaskFacts
from harness.whole_file import require_directory
from targets.base import TargetOptions
from targets.find import check_target
from tasks.base import PromptSet


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A `RunConfig` with every name resolved, every default filled in and every prompt chosen."""

    config: RunConfig
    target: TargetOptions
    baselines: tuple[str, ...]
    drafters: tuple[DrafterOptions, ...]
    tasks: Mapping[str, PromptSet]
    limit: int | None
    """Prompts a task; None for all."""
    max_new_tokens: int

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of baselines and drafters, in the order asked for."""
        return (*self.baselines, *(options.method for options in self.drafters))

    @property
    def num_generations(self) -> int:
        """Answers of all methods together."""
        turns = sum(
            len(prompt.turns) for chosen in self.tasks.values() for prompt in chosen.prompts
        )
        return turns * len(self.methods) * self.config.repeats


def make_plan(config: RunConfig) -> Plan:
    """Resolve names, load prompts and fill in the defaults of the device.

    Raises:
        UserError: an unknown or repeated name, or prompts that cannot be read.
    """
    greedy = config.temperature == 0
    drafters = tuple(
        dataclasses.replace(
            DrafterOptions.parse(text, config.block_size),
            greedy=greedy,
            draft_vocab=config.draft_vocab,
        )
        for text in config.drafter
    )
    for name in config.baseline:
        if name not in BASELINES:
            raise UserError(f"unknown baseline {name!r}; {registry.near_misses(name, BASELINES)}")
    _require_distinct((*config.baseline, *(options.method for options in drafters)))
    target = TargetOptions(
        name=config.target,
        dtype=config.dtype,
        revision=config.revision,
        enable_thinking=config.enable_thinking,
        template_date=_template_date(config),
        attn=config.attn,
    )
    require_directory(config.output_dir)
    if not config.fetch:
        check_target(target)
    for options in drafters:
        _require_drafter(options, config)
    device = resolve_device(config.device)
    limit, max_new_tokens = _sizes(config, on_gpu=device.startswith("cuda"))
    return Plan(
        config=config,
        target=dataclasses.replace(target, device=device),
        baselines=config.baseline,
        drafters=drafters,
        tasks=load_tasks(config.tasks, config.data_dir, limit),
        limit=limit,
        max_new_tokens=max_new_tokens,
    )


def describe(plan: Plan) -> Iterator[str]:
    """Lines for the reader: target, methods, tasks with their sources, and the sizes."""
    config, target = plan.config, plan.target
    yield f"target   {target.name} ({target.dtype}, {target.device})"
    yield f"methods  {', '.join(plan.methods)}"
    for name, chosen in plan.tasks.items():
        source = chosen.source
        kind = "our samples, not the benchmark" if not source.is_benchmark else source.kind
        yield (
            f"task     {name}: {len(chosen.prompts)} of {source.num_rows} prompts from "
            f"{source.location} ({kind}{'; ' if source.note else ''}{source.note})"
        )
    yield (
        f"sizes    {plan.num_generations} generations of up to {plan.max_new_tokens} tokens, "
        f"temperature {config.temperature:g}, {config.repeats} a prompt and method"
    )


def task_facts(plan: Plan) -> list[TaskFacts]:
    """The ``tasks`` part of ``config.json``."""
    found: list[TaskFacts] = []
    for name, chosen in plan.tasks.items():
        facts: TaskFacts = {
            "task": name,
            "source": chosen.source.facts(),
            "prompt_ids": [prompt.prompt_id for prompt in chosen.prompts],
            "num_turns": [len(prompt.turns) for prompt in chosen.prompts],
        }
        if elsewhere := foreign(*builder_of("tasks", name)):
            facts["foreign"] = elsewhere
        found.append(facts)
    return found


def _template_date(config: RunConfig) -> str | None:
    """See `harness.template_date.to_use`."""
    began = None
    if config.resume is not None:
        began = run_files.find(config.resume, config.output_dir).config
    return template_date.to_use(config.template_date, began)


def _require_distinct(methods: tuple[str, ...]) -> None:
    for name in methods:
        if methods.count(name) > 1:
            raise UserError(f"method {name!r} is asked for twice; label one: {name}@LABEL.")


def _require_drafter(options: DrafterOptions, config: RunConfig) -> None:
    """Names, settings and checkpoints; what is to be trained first need not be there."""
    from drafters.block_diffusion.checkpoint import MissingCheckpoint

    try:
        check_drafter(options, config.target)
    except MissingCheckpoint:
        if not config.train_if_missing:
            raise


def resolve_device(name: str) -> str:
    """The device meant by ``--device``."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device {name!r} is unknown; write auto, cpu, cuda or cuda:1.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} is not there; write --device cpu.")
    return name


def _sizes(config: RunConfig, *, on_gpu: bool) -> tuple[int | None, int]:
    """Prompts a task (None for all) and the longest answer."""
    limit = None if config.limit == "all" else config.limit or (128 if on_gpu else 16)
    return limit, config.max_new_tokens or (2048 if on_gpu else 128)


def load_tasks(
    tasks: tuple[str, ...], data_dir: Path | None, limit: int | None
) -> dict[str, PromptSet]:
    """Prompts of the tasks named, or of all; from ``data_dir``, else the environment's.

    Raises:
        UserError: an unknown or repeated name, or prompts that cannot be read.
    """
    names = tuple(registry.table("tasks")) if tasks == ("all",) else tasks
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"task {name!r} is asked for twice; write it once.")
    rows = {name: registry.resolve("tasks", name) for name in names}
    data_dir = data_dir or _environment_data_dir()
    if data_dir is not None and not data_dir.is_dir():
        raise UserError(f"data directory {data_dir} is not a directory that can be read.")
    return {name: _load_task(name, row, data_dir, limit) for name, row in rows.items()}


def _load_task(
    name: str, row: registry.Entry, data_dir: Path | None, limit: int | None
) -> PromptSet:
    """The prompts of one task, which may be code from elsewhere."""
    try:
        found = row.load().load(data_dir, limit)
    except (UserError, OSError):
        raise
    except FAILURES as error:
        raise_ctrl_c(error)
        raise UserError(
            f"task {name} cannot be loaded ({one_line(error)}); a task is an object with "
            "load(data_dir, limit), as tasks.base.Task says."
        ) from error
    if not isinstance(found, PromptSet):
        raise UserError(
            f"task {name} returned a {type(found).__name__} and no tasks.base.PromptSet; correct "
            "its load(data_dir, limit)."
        )
    return found


def prompts_of_run(
    config: RunFacts, data_dir: Path | None, names: Sequence[str] | None = None
) -> dict[str, PromptSet]:
    """Prompts of a run, from where they are today; they must be the same.

    Args:
        config: the run's.
        data_dir: as in `load_tasks`.
        names: tasks of the run to load, None for all.

    Raises:
        UserError: other prompts than the run's; and as `load_tasks`.
    """
    facts = {item["task"]: item for item in config["tasks"]}
    tasks = load_tasks(tuple(facts if names is None else names), data_dir, config.get("limit"))
    for name, chosen in tasks.items():
        source = facts[name]["source"]
        ids = [prompt.prompt_id for prompt in chosen.prompts]
        if chosen.source.digest != source["digest"] or ids != facts[name]["prompt_ids"]:
            raise UserError(
                f"the prompts of {name} here ({chosen.source.location}) are not those of "
                f"run {config['run_id']} ({source['location']}); name the run's data with "
                "--data-dir."
            )
    return tasks


def _environment_data_dir() -> Path | None:
    value = os.environ.get("HARNESS_DATA_DIR")
    return Path(value) if value else None
