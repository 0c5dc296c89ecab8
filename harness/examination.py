"""What follows the answers of a run: the times of a round's parts, the audit and the scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness import run_files
from harness.audit_records import read_audits
from harness.distribution import checks, describe_check, num_wrong
from harness.doubts import doubts
from harness.draws import read_draws
from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.forecast import Forecast
from harness.methods import Method
from harness.plan import Plan
from harness.progress import duration, say
from harness.records import Generation
from harness.run_files import RunFiles
from harness.sampling import Sampling
from harness.score_records import read_scored
from harness.stages import read_stages
from harness.verdicts import describe_mismatch, mismatches, unjudged_lines

if TYPE_CHECKING:
    from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found."""

    num_mismatches: int | None = None
    """Answers, or above temperature 0 methods, that are not the target's; None where none was
    audited."""
    num_scored: int = 0
    problem: UserError | None = None
    """What could not be done."""


def examine(
    plan: Plan,
    target: Target,
    methods: Sequence[Method],
    files: RunFiles,
    generations: Sequence[Generation],
    forecast: Forecast,
) -> Examination:
    """Time the parts of a round, audit and score, as far as that was not done before."""
    num_mismatches, num_scored = None, 0
    problems: list[UserError] = []
    with _collected(problems):
        _measure_stages(plan, target, methods, files, generations, forecast)
    with _collected(problems):
        num_mismatches = _audit(plan, target, files, generations, forecast)
    with _collected(problems):
        num_scored = _score(plan, files, generations)
    with _collected(problems):
        stages = read_stages(files.stages)
        for method, doubt in doubts(generations, stages, greedy=plan.config.temperature == 0):
            say(f"doubt    {method}: {doubt}")
    for later in problems[1:]:
        say(str(later))
    problem = problems[0] if problems else None
    return Examination(num_mismatches=num_mismatches, num_scored=num_scored, problem=problem)


@contextlib.contextmanager
def _collected(problems: list[UserError]) -> Iterator[None]:
    """Let one part fail without keeping the next from being done."""
    try:
        yield
    except UserError as error:
        problems.append(error)


def _measure_stages(
    plan: Plan,
    target: Target,
    methods: Sequence[Method],
    files: RunFiles,
    generations: Sequence[Generation],
    forecast: Forecast,
) -> None:
    """Time the parts of a round, once a run; again where a method failed at that."""
    answers = [item for item in generations if item.method == "ar_loop"]
    known = read_stages(files.stages)
    timed = {item.name for item in methods if item.has_stages}
    if not answers or (known is not None and timed <= known.methods.keys()):
        return
    from harness.stage_clock import measure_stages

    say(f"timing the parts of a round, about {duration(forecast.stages_s())}")
    try:
        stages = measure_stages(plan, target, methods, answers, after=forecast.after_stages_s)
    except FAILURES as error:
        raise_ctrl_c(error)
        say(f"the parts of a round were not timed: {one_line(error)}")
        return
    if stages is not None:
        run_files.save_json(files.stages, stages.to_json())


def _audit(
    plan: Plan,
    target: Target,
    files: RunFiles,
    generations: Sequence[Generation],
    forecast: Forecast,
) -> int | None:
    """Re-score every answer and say what is not the target's; how many.

    At temperature 0 answers are judged one by one, above it the draws of each method as a whole.
    """
    audit = _audit_greedy if plan.config.temperature == 0 else _audit_draws
    return audit(plan, target, generations, files, forecast)


def _audit_greedy(
    plan: Plan,
    target: Target,
    generations: Sequence[Generation],
    files: RunFiles,
    forecast: Forecast,
) -> int | None:
    from harness.auditor import NotAudited, audit_answers

    try:
        audits = audit_answers(
            plan.target,
            target,
            plan.tasks,
            generations,
            files.audit,
            max_new_tokens=plan.max_new_tokens,
            exact=plan.config.exact,
            after=forecast.scores_s,
        )
    except NotAudited as error:  # what was audited before is judged all the same
        say(str(error))
        audits = dict(read_audits(files.audit, generations))
    found = mismatches(audits.values())
    for audit, deviation in found:
        say(describe_mismatch(audit, deviation))
    for line in unjudged_lines(audits.values()):
        say(line)
    return len(found) if audits else None


def _audit_draws(
    plan: Plan,
    target: Target,
    generations: Sequence[Generation],
    files: RunFiles,
    forecast: Forecast,
) -> int | None:
    from harness.auditor import NotAudited
    from harness.draw_auditor import audit_draws

    config = plan.config
    sampling = Sampling(config.temperature, config.top_p, config.top_k)
    try:
        draws = audit_draws(
            target,
            plan.tasks,
            sampling,
            generations,
            files.draws,
            max_new_tokens=plan.max_new_tokens,
            after=forecast.scores_s,
        )
    except NotAudited as error:
        say(str(error))
        draws = read_draws(files.draws, generations)
    found = checks(generations, draws)
    for method, check in found.items():
        say(describe_check(method, check))
    return num_wrong(found)


def _score(plan: Plan, files: RunFiles, generations: Sequence[Generation]) -> int:
    """Score what can be scored and say what was not run; how many answers are scored."""
    from harness.scorer import FLAG, NotScored, score_answers

    allowed = plan.config.confirm_run_unsafe_code
    try:
        scored = score_answers(plan.tasks, generations, files, run_code=allowed)
    except NotScored as error:
        say(str(error))
        return _num_scored(files, generations)
    num_not_run = scored.num_not_run(generations)
    if num_not_run and not allowed:
        say(f"{num_not_run} programs in answers were not run; {FLAG} runs and scores them")
    return len(scored.scores)


def _num_scored(files: RunFiles, generations: Sequence[Generation]) -> int:
    """Answers with a score on disk; none where the files cannot be read."""
    try:
        return len(read_scored(files, generations).scores)
    except UserError:
        return 0
