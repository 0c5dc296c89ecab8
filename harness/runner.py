"""A run: every method on every prompt, back to back, one record at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness import plan as planning
from harness import run_files
from harness.config import RunConfig
from harness.distribution import checks, describe_check, num_wrong
from harness.methods import Method, build_methods
from harness.plan import Plan
from harness.progress import Progress, duration, say
from harness.provenance import environment
from harness.records import Generation, Record, read_records
from harness.run_files import RecordWriter, RunFiles
from harness.sampling import Sampling
from harness.session import Session
from harness.verdicts import describe_mismatch, mismatches

if TYPE_CHECKING:
    from targets.base import Target


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Where a run's files are, and how it went."""

    files: RunFiles
    num_generations: int
    num_failures: int
    num_mismatches: int | None
    """Answers, or above temperature 0 methods, that are not the target's; None where none was
    audited."""
    num_scored: int
    interrupted: bool


def run(config: RunConfig, argv: Sequence[str]) -> RunResult:
    """Measure what ``config`` asks for, or finish a run that was cut off.

    Ctrl-C ends it early and keeps what was measured.

    Raises:
        UserError: anything the user can put right.
    """
    plan = planning.make_plan(config)
    for line in planning.describe(plan):
        say(line)
    from targets.load import load_target

    target = load_target(plan.target)
    methods = build_methods(plan, target)
    if config.exact:
        _hold_exact(target, methods)
    files, before = _open(plan, config_facts(plan, target, methods), environment(argv))
    say(f"run      {files.directory}")
    session = Session(plan, target, methods, before)
    interrupted = False
    num_mismatches, num_scored = None, 0
    try:
        _write_all(session, plan, files)
        if session.baseline_answers and not files.stages.exists():
            _measure_stages(session, plan, target, methods, files)
        num_mismatches = _audit(plan, target, files)
        num_scored = _score(plan, files)
    except KeyboardInterrupt:
        interrupted = True
        say(f"interrupted; the same command with --resume {files.run_id} goes on from here")
    return RunResult(
        files=files,
        num_generations=session.num_generations,
        num_failures=session.num_failures,
        num_mismatches=num_mismatches,
        num_scored=num_scored,
        interrupted=interrupted,
    )


def _hold_exact(target: Target, methods: Sequence[Method]) -> None:
    """Put the target in exact mode, for passes as large as any of the methods makes."""
    from targets.exact import hold

    rows = 1 + max(method.drafter.max_nodes for method in methods if method.drafter is not None)
    hold(target, rows)
    say(f"exact    every pass has {rows} rows; chains had the bits of one-token passes")


def _write_all(session: Session, plan: Plan, files: RunFiles) -> None:
    """Put every record on the disk as it comes."""
    if not session.num_left:
        return
    full_s = session.warm_up()
    say(
        f"{plan.target.device}: {session.num_left} answers of up to {plan.max_new_tokens} tokens, "
        f"at most {duration(full_s)}"
    )
    with RecordWriter(files.records) as writer, Progress(session.num_left) as progress:
        for record in session.records():
            writer.append(record)
            progress.step(f"{record.method} {record.task}")


def _measure_stages(
    session: Session, plan: Plan, target: Target, methods: Sequence[Method], files: RunFiles
) -> None:
    """Time the parts of a round, once a run."""
    from harness.stage_clock import measure_stages

    say("timing the parts of a round")
    stages = measure_stages(plan, target, methods, session.baseline_answers)
    if stages is not None:
        run_files.write_json(files.stages, stages.to_json())


def _audit(plan: Plan, target: Target, files: RunFiles) -> int | None:
    """Re-score every answer and say what is not the target's; how many.

    At temperature 0 answers are judged one by one, above it the draws of each method as a whole.
    """
    from harness.auditor import NotAudited

    generations = _generations(files)
    audit = _audit_greedy if plan.config.temperature == 0 else _audit_draws
    try:
        return audit(plan, target, generations, files)
    except NotAudited as error:
        say(str(error))
        return None


def _audit_greedy(
    plan: Plan, target: Target, generations: Sequence[Generation], files: RunFiles
) -> int | None:
    from harness.auditor import audit_answers

    audits = audit_answers(
        plan.target, target, plan.tasks, generations, files.audit, exact=plan.config.exact
    )
    found = mismatches(audits.values())
    for audit, deviation in found:
        say(describe_mismatch(audit, deviation))
    return len(found) if audits else None


def _audit_draws(
    plan: Plan, target: Target, generations: Sequence[Generation], files: RunFiles
) -> int | None:
    from harness.draw_auditor import audit_draws

    config = plan.config
    sampling = Sampling(config.temperature, config.top_p, config.top_k)
    draws = audit_draws(target, plan.tasks, sampling, generations, files.draws)
    found = checks(generations, draws)
    for method, check in found.items():
        say(describe_check(method, check))
    return num_wrong(found)


def _score(plan: Plan, files: RunFiles) -> int:
    """Score what can be scored and say what was not run; how many answers are scored."""
    from harness.scorer import FLAG, NotScored, score_answers

    allowed = plan.config.confirm_run_unsafe_code
    generations = _generations(files)
    try:
        scored = score_answers(plan.tasks, generations, files, run_code=allowed)
    except NotScored as error:
        say(str(error))
        return 0
    num_not_run = scored.num_not_run(generations)
    if num_not_run and not allowed:
        say(f"{num_not_run} programs in answers were not run; {FLAG} runs and scores them")
    return len(scored.scores)


def _generations(files: RunFiles) -> list[Generation]:
    return [item for item in read_records(files.records) if isinstance(item, Generation)]


def config_facts(plan: Plan, target: Target, methods: Sequence[Method]) -> dict[str, Any]:
    """``config.json`` without the run id: all that makes two runs the same run."""
    config = plan.config
    return {
        "schema_version": 1,
        "target": {"name": plan.target.name, **target.describe()},
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


def _open(
    plan: Plan, facts: dict[str, Any], where: dict[str, Any]
) -> tuple[RunFiles, list[Record]]:
    """A new run directory, or the one to resume and its records."""
    config = plan.config
    if config.resume is None:
        return run_files.create(config.output_dir, facts, where), []
    files = run_files.find(config.resume, config.output_dir)
    records, torn = run_files.reopen(files, facts, where)
    if torn:
        say(f"cut off a torn last record ({torn} bytes)")
    say(f"resuming with {len(records)} of {plan.num_generations} records there")
    return files, records
