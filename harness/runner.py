"""A run: every method on every prompt, back to back, one record at a time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plan as planning
from harness import run_files, same_run, shards
from harness.errors import UserError
from harness.examination import Examination, examine
from harness.forecast import Cost, Forecast
from harness.foreign import builder_of, found_foreign, modules_of
from harness.interrupt import sigterm_as_ctrl_c
from harness.line_writers import RecordWriter
from harness.methods import Method, build_methods
from harness.plan import Plan
from harness.progress import Progress, duration, say
from harness.provenance import environment
from harness.records import Generation, Record
from harness.run_facts import ConfigFacts
from harness.run_files import RunFiles
from harness.session import Session, keys_in_order
from harness.shards import Place, Ring
from harness.typed_json import typed

if TYPE_CHECKING:
    from targets.base import Target


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where a run's files are, and how it went."""

    files: RunFiles
    num_generations: int
    num_failures: int
    """Answers that failed in this sitting."""
    found: Examination
    interrupted: bool
    is_first: bool = True
    """Whether this process reports; the others of a run only measure."""


def run(plan: Plan, argv: Sequence[str]) -> RunResult:
    """Measure what ``plan`` asks for, or finish a run that was cut off.

    Ctrl-C and SIGTERM end it early and keep what was measured. Under a launcher each process
    asks its share of the conversations; the first one merges them and does the rest.

    Raises:
        UserError: anything the user can put right.
    """
    place, config = shards.place(), plan.config
    if place.size > 1 and config.train_if_missing:
        raise UserError("--train-if-missing is for one process; call harness train first.")
    with sigterm_as_ctrl_c():
        if place.is_first:
            for line in planning.describe(plan):
                say(line)
        ring = Ring(place, plan.target.device)
        from targets.load import load_target

        target = load_target(plan.target)
        methods = build_methods(plan, target)
        if config.exact:
            _hold_exact(target, methods)
        facts = config_facts(plan, target, methods)
        if place.is_first and (date := facts["target"].get("template_date")):
            say(f"template writes the date: {date}, for the whole run and what reads it later")
        if place.is_first and (switch := facts["target"].get("rope_switch")):
            say(
                f"rope     factors change at {switch} tokens; each answer has one set of them, "
                f"that of its prompt and {plan.max_new_tokens} tokens"
            )
        with contextlib.ExitStack() as held:
            files = _open(plan, methods, facts, environment(argv), ring, held)
            return _measure(plan, target, methods, files, ring)


def _measure(
    plan: Plan, target: Target, methods: Sequence[Method], files: RunFiles, ring: Ring
) -> RunResult:
    """Ask this process's share; in the first one, do also what follows the answers."""
    place = ring.place
    share = place.share(plan)
    session = Session(share, target, methods, shards.within(_records(files), share))
    num_failures: int | None = None
    found = Examination()
    interrupted = False
    began = time.monotonic()
    try:
        timed = [method.name for method in methods if method.has_stages]
        forecast = _write_all(session, share, files, place, partial(Forecast, plan, timed))
        num_failures = sum(ring.exchange(session.num_failures))
        ring.leave()
        if place.is_first:
            run_files.merge(files, keys_in_order(plan, methods))
            found = examine(plan, target, methods, files, _generations(files), forecast)
            say(f"took     {duration(time.monotonic() - began)}")
    except KeyboardInterrupt:
        interrupted = True
        if place.is_first:
            say(f"interrupted; the same command with --resume {files.run_id} goes on from here")
    own = share.num_generations - session.num_left
    return RunResult(
        files=files,
        # The others must not read the files that the first one is merging.
        num_generations=len(_generations(files)) if place.is_first else own,
        num_failures=session.num_failures if num_failures is None else num_failures,
        found=found,
        interrupted=interrupted,
        is_first=place.is_first,
    )


def _hold_exact(target: Target, methods: Sequence[Method]) -> None:
    """Put the target in exact mode, for passes as large as any of the methods makes."""
    from targets.exact import hold

    rows = 1 + max(method.drafter.max_nodes for method in methods if method.drafter is not None)
    hold(target, rows)
    say(f"exact    every pass has {rows} rows; chains had the bits of one-token passes")


def _write_all(
    session: Session,
    share: Plan,
    files: RunFiles,
    place: Place,
    foresee: Callable[[Mapping[str, Cost]], Forecast],
) -> Forecast:
    """Put every record on the disk as it comes; what is foreseen for the rest of the run."""
    forecast = foresee(session.warm_up())
    if not session.num_left:
        return forecast
    if place.is_first:
        answers_s = forecast.answers_s(session.left())
        say(
            f"{share.target.device}: {session.num_left} answers of up to {share.max_new_tokens} "
            f"tokens, about {duration(answers_s)} where none ends early; with stage times, audit "
            f"and scores {duration(answers_s + forecast.after_answers_s())}"
        )
    path = files.records if place.size == 1 else files.records_of(place.rank)
    with (
        RecordWriter(path) as writer,
        Progress(
            session.num_left,
            shown=place.is_first,
            left=lambda: forecast.answers_s(session.left()),
            after=forecast.after_answers_s,
        ) as progress,
    ):
        for record in session.records():
            writer.append(place.sign(record))
            forecast.note(record)
            progress.step(f"{record.method} {record.task}")
    return forecast


def _records(files: RunFiles) -> list[Record]:
    """What this run and its unmerged processes recorded."""
    try:
        return run_files.read_all(files)
    except (OSError, ValueError) as error:
        raise UserError(f"the records of run {files.run_id} cannot be read: {error}.") from error


def _generations(files: RunFiles) -> list[Generation]:
    return [item for item in _records(files) if isinstance(item, Generation)]


def config_facts(plan: Plan, target: Target, methods: Sequence[Method]) -> ConfigFacts:
    """``config.json`` without the run id: all that makes two runs the same run.

    Raises:
        UserError: facts of plug-ins that no report could read.
    """
    config = plan.config
    facts = {
        "schema_version": 1,
        "target": {
            "name": plan.target.name,
            **target.describe(),
            **found_foreign(*builder_of("targets", plan.target.name), *modules_of(target)),
        },
        "methods": [method.facts for method in methods],
        "tasks": planning.task_facts(plan),
        "sampling": {
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        },
        "max_new_tokens": plan.max_new_tokens,
        "seed": config.seed,
        "repeats": config.repeats,
        "limit": plan.limit,
    }
    try:
        return typed(ConfigFacts, json.loads(json.dumps(facts)), "this run")
    except (TypeError, ValueError) as error:
        raise UserError(f"this run could not be reported: {error}.") from error


def _open(
    plan: Plan,
    methods: Sequence[Method],
    facts: ConfigFacts,
    where: dict[str, Any],
    ring: Ring,
    held: contextlib.ExitStack,
) -> RunFiles:
    """A new run directory or the one to resume, opened by the first process for all.

    While ``held`` is open, no other run may work on it.
    """
    own = {
        "config": shards.without_device(facts),
        "environment": same_run.machine(where),
        "plugins": same_run.plugins(where),
    }
    directory = None
    if ring.place.is_first:
        files = _open_alone(plan, methods, facts, where, held)
        say(f"run      {files.directory}")
        directory = str(files.directory.resolve())
    told = ring.exchange({**own, "directory": directory})
    ring.require_alike(told)
    files = RunFiles(Path(told[0]["directory"]))
    if not files.config.is_file():
        raise UserError(
            f"process {ring.place.rank} does not see {files.directory}; --output-dir must be a "
            "directory that all hosts share."
        )
    return files


def _open_alone(
    plan: Plan,
    methods: Sequence[Method],
    facts: ConfigFacts,
    where: dict[str, Any],
    held: contextlib.ExitStack,
) -> RunFiles:
    config = plan.config
    if config.resume is None:
        files = run_files.create(config.output_dir, facts, where)
        held.enter_context(run_files.alone(files))
        return files
    files = run_files.find(config.resume, config.output_dir)
    held.enter_context(run_files.alone(files))
    records, torn = run_files.reopen(files, facts, where)
    if torn:
        say(f"cut off a torn last record ({torn} bytes)")
    say(f"resuming with {len(records)} of {plan.num_generations} records there")
    run_files.merge(files, keys_in_order(plan, methods))
    return files
