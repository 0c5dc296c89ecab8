"""Scores of a run's answers, apart from their timing; programs run in a sandbox, if at all.

A text that several methods gave to one prompt is tried once, and each answer gets its line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import registry, run_files
from harness.errors import FAILURES, UserError, one_line
from harness.findings import found_before
from harness.line_writers import ScoreWriter
from harness.plan import prompts_of_run
from harness.progress import Progress, say
from harness.records import Generation, RecordKey, key_of
from harness.run_facts import RunFacts
from harness.run_files import RunFiles
from harness.score_records import (
    CodeFacts,
    Score,
    Scored,
    Scoring,
    TaskRule,
    read_scores,
    read_scoring,
    remove_both,
    scoring_json,
    text_sha256,
)
from tasks.base import Prompt, PromptSet
from tasks.grading import Grader, Outcome, Runs, grader_of

if TYPE_CHECKING:
    from tasks.sandbox import Sandbox

FLAG = "--confirm-run-unsafe-code"

Scores = dict[RecordKey, Score]
_Place = tuple[str, str, str]
"""Task, prompt and digest of the text: what a verdict depends on."""


class NotScored(UserError):
    """Answers cannot be scored here; the run itself is none the worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One text to judge, and the answers that hold it."""

    grader: Grader
    prompt: Prompt
    answers: list[Generation]
    known: Outcome | None


def graders_of(names: Sequence[str]) -> dict[str, Grader]:
    """Rules of the tasks that have one.

    Raises:
        UserError: an unknown task.
    """
    found = {name: grader_of(registry.resolve("tasks", name).load()) for name in names}
    return {name: grader for name, grader in found.items() if grader is not None}


def score_run(
    config: RunFacts,
    generations: Sequence[Generation],
    files: RunFiles,
    data_dir: Path | None,
    *,
    run_code: bool,
) -> Scored:
    """Score a run from its directory alone: prompts are found again, no target is needed.

    Raises:
        UserError: prompts that are not the run's; and as `score_answers`.
    """
    names = list(graders_of([task["task"] for task in config["tasks"]]))
    tasks = prompts_of_run(config, data_dir, names)
    return score_answers(tasks, generations, files, run_code=run_code)


def score_answers(
    tasks: Mapping[str, PromptSet],
    generations: Sequence[Generation],
    files: RunFiles,
    *,
    run_code: bool,
) -> Scored:
    """Score every answer that is not scored yet; all scores there are then.

    Args:
        tasks: the run's prompts; tasks without a grader are left out.
        generations: the run's answers.
        files: ``scores.jsonl`` is appended to, one line an answer.
        run_code: whether programs in answers may be run.

    Raises:
        NotScored: no program can be started, or earlier scores were made in another way.
        UserError: files that cannot be read or written.
    """
    graders = graders_of(list(tasks))
    rules = {name: _task_rule(grader, tasks[name]) for name, grader in graders.items()}
    if not rules:
        return Scored(None, {})
    before = _scoring_before(files, rules)
    scoring = Scoring(tasks=rules, code=before.code if before else None)
    found = found_before(
        files.scores,
        lambda: read_scores(files.scores, scoring, generations),
        "score",
        remove_both(files),
    )
    jobs = list(_jobs(tasks, graders, generations, found, run_code=run_code))
    programs, rest = _apart(jobs)
    if scoring != before:
        run_files.save_json(files.scoring, scoring_json(scoring))
    # Numbers first: they need no sandbox, and are there whatever becomes of it.
    broken = _score_all(rest, None, files, found)
    if programs:
        sandbox, code = _sandbox()
        if scoring.code not in (None, code):
            raise NotScored(
                f"{files.scores} holds scores of programs that ran under other limits or "
                f"containment; {remove_both(files)}"
            )
        scoring = dataclasses.replace(scoring, code=code)
        run_files.save_json(files.scoring, scoring_json(scoring))
        broken += _score_all(programs, sandbox, files, found)
    if broken:
        raise NotScored(f"texts not scored: {len(broken)}, the first because {broken[0]}.")
    return Scored(scoring, found)


def _apart(jobs: Sequence[_Job]) -> tuple[list[_Job], list[_Job]]:
    """Those that run a program, and the rest."""
    programs: list[_Job] = []
    rest: list[_Job] = []
    for job in jobs:
        (programs if job.known is None and job.grader.runs_code else rest).append(job)
    return programs, rest


def _score_all(
    jobs: Sequence[_Job], runs: Runs | None, files: RunFiles, found: Scores
) -> list[str]:
    """Score into file and ``found``; why rules failed."""
    num_answers = sum(len(job.answers) for job in jobs)
    broken: list[str] = []
    if not num_answers:
        return broken
    say(f"scoring  {num_answers} answers")
    pool = ThreadPoolExecutor(num_cores())
    try:
        with ScoreWriter(files.scores) as writer, Progress(num_answers, "scores") as progress:
            waiting = {pool.submit(_outcome, job, runs): job for job in jobs}
            for done in as_completed(waiting):
                job = waiting[done]
                try:
                    scores = _scores(job, _result(done))
                except UserError:
                    raise
                except FAILURES as error:
                    broken.append(_failure(job, error))
                    continue
                for score in scores:
                    writer.append(score)
                    found[key_of(score)] = score
                for answer in job.answers:
                    progress.step(f"{answer.method} {answer.task}")
    finally:
        pool.shutdown(cancel_futures=True)
    return broken


def num_cores() -> int:
    """Cores this process may use, where the system tells."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _failure(job: _Job, error: BaseException) -> str:
    place = f"{job.prompt.task} {job.prompt.prompt_id}"
    return f"rule {job.grader.rule} failed on {place} ({one_line(error)})"


def _outcome(job: _Job, runs: Runs | None) -> Outcome:
    return job.known or job.grader.grade(job.prompt, job.answers[0].text, runs)


def _result(done: Future[Outcome]) -> Outcome:
    try:
        return done.result()
    except UserError as error:
        raise NotScored(
            f"no more answers are scored ({str(error).rstrip('.')}); what was scored stays: call "
            "harness score on the run."
        ) from error


def _scores(job: _Job, outcome: Outcome) -> list[Score]:
    if outcome.verdict == "not run":
        return []
    return [_score(answer, outcome, job.grader) for answer in job.answers]


def _score(answer: Generation, outcome: Outcome, grader: Grader) -> Score:
    return Score(
        task=answer.task,
        prompt_id=answer.prompt_id,
        turn=answer.turn,
        method=answer.method,
        repeat=answer.repeat,
        verdict=outcome.verdict,
        detail=outcome.detail,
        text_sha256=text_sha256(answer.text),
        rule=grader.rule,
    )


def _jobs(
    tasks: Mapping[str, PromptSet],
    graders: Mapping[str, Grader],
    generations: Sequence[Generation],
    found: Scores,
    *,
    run_code: bool,
) -> Iterator[_Job]:
    """Texts with answers that have no score, in the order of their first answers."""
    known = {_place(score): Outcome(score.verdict, score.detail) for score in found.values()}
    prompts = {(p.task, p.prompt_id): p for chosen in tasks.values() for p in chosen.prompts}
    texts: dict[_Place, list[Generation]] = {}
    for item in generations:
        grader, prompt = graders.get(item.task), prompts.get((item.task, item.prompt_id))
        if grader is None or key_of(item) in found or (grader.runs_code and not run_code):
            continue
        if prompt is not None:
            place = item.task, item.prompt_id, text_sha256(item.text)
            texts.setdefault(place, []).append(item)
    for place, answers in texts.items():
        yield _Job(
            grader=graders[place[0]],
            prompt=prompts[place[:2]],
            answers=answers,
            known=known.get(place),
        )


def _place(score: Score) -> _Place:
    return score.task, score.prompt_id, score.text_sha256


def _sandbox() -> tuple[Sandbox, CodeFacts]:
    """The sandbox, and what ``scoring.json`` says of it."""
    from tasks.sandbox import Sandbox

    try:
        sandbox = Sandbox()
    except UserError as error:
        raise NotScored(f"programs are not scored: {error}") from error
    return sandbox, CodeFacts.of(sandbox)


def _task_rule(grader: Grader, chosen: PromptSet) -> TaskRule:
    tests = [[prompt.prompt_id, dict(prompt.reference)] for prompt in chosen.prompts]
    digest = hashlib.sha256(json.dumps(tests, sort_keys=True, default=str).encode()).hexdigest()
    return TaskRule(rule=grader.rule, runs_code=grader.runs_code, tests_sha256=digest)


def _scoring_before(files: RunFiles, rules: Mapping[str, TaskRule]) -> Scoring | None:
    """What earlier scores were made with; a task's tests must still be the same."""
    try:
        before = read_scoring(files.scoring)
        if before is None and files.scores.exists() and files.scores.stat().st_size:
            raise NotScored(
                f"{files.scores} holds scores that no {files.scoring.name} describes; "
                f"{remove_both(files)}"
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; {remove_both(files)}") from error
    for name, rule in (before.tasks if before else {}).items():
        if name in rules and rules[name].tests_sha256 != rule.tests_sha256:
            raise NotScored(
                f"{files.scores} holds scores of {name} by other tests than are here; "
                f"{remove_both(files)}"
            )
    return before
