"""Run directories to a leaderboard: Markdown, and one HTML page that needs nothing else.

The same records give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.run_facts import TargetFacts
from harness.whole_file import write_text
from reports import details, evidence
from reports import formatting as form
from reports.definitions import DEFINITIONS
from reports.draws_table import draws_table
from reports.grid import Table
from reports.group import Comparison
from reports.lead import lead
from reports.leaderboard import main_table, notes
from reports.page import render
from reports.policy_tables import policy_tables
from reports.quality import quality_table
from reports.run import comparable_groups, load_run
from reports.spread_tables import repeat_table, seed_table
from reports.stage_table import stage_table
from reports.titles import titles
from reports.waste_table import waste_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Everything the page says about one group of comparable runs."""

    title: str
    lead: str
    badge: str
    facts: tuple[tuple[str, str, str], ...]
    """Name, value, and the value in full where it is shortened."""
    notes: tuple[str, ...]
    main: Table
    details: tuple[Table, ...]


def write_leaderboard(run_dirs: Sequence[Path], output_dir: Path) -> tuple[Path, Path]:
    """Write ``leaderboard.md`` and ``leaderboard.html`` into ``output_dir``; their paths.

    Raises:
        UserError: a run directory cannot be read, or the output cannot be written.
    """
    return write_pages(sections(run_dirs), output_dir)


def write_pages(found: Sequence[Section], output_dir: Path) -> tuple[Path, Path]:
    """The same of sections that are there already.

    Raises:
        UserError: the output cannot be written.
    """
    paths = output_dir / "leaderboard.md", output_dir / "leaderboard.html"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for path in paths:
            write_text(path, _render(f"{path.name}.j2", found))
    except OSError as error:
        raise UserError(
            f"the leaderboard cannot be written to {output_dir} ({error.strerror}); make room, or "
            "name another place: harness report RUN --output-dir PLACE."
        ) from error
    return paths


def leaderboard_text(run_dirs: Sequence[Path]) -> str:
    """The leaderboard in Markdown.

    Raises:
        UserError: a run directory cannot be read.
    """
    return _render("leaderboard.md.j2", sections(run_dirs))


def _render(template: str, found: Sequence[Section]) -> str:
    return render(template, sections=found, definitions=DEFINITIONS)


def sections(run_dirs: Sequence[Path]) -> list[Section]:
    """What the page says of runs, one section for each group that may be compared.

    Raises:
        UserError: a run directory cannot be read.
    """
    if not run_dirs:
        raise UserError("no run directory given; name at least one.")
    runs = [load_run(path) for path in run_dirs]
    groups = comparable_groups(runs)
    return [
        _section(Comparison.of(group), title)
        for group, title in zip(groups, titles(groups), strict=True)
    ]


def _section(group: Comparison, title: str) -> Section:
    tables = (
        *policy_tables(group),
        quality_table(group),
        details.difference_table(group),
        *details.position_tables(group),
        waste_table(group),
        repeat_table(group),
        seed_table(group),
        evidence.checkpoint_table(group),
        stage_table(group),
        details.task_table(group),
        evidence.audit_table(group),
        evidence.mismatch_table(group),
        draws_table(group),
        evidence.failure_table(group),
        evidence.source_table(group),
        evidence.run_table(group),
    )
    return Section(
        title=title,
        lead=lead(group),
        badge=group.badge,
        facts=_facts(group),
        notes=tuple(notes(group)),
        main=main_table(group),
        details=tuple(table for table in tables if table is not None),
    )


def _facts(group: Comparison) -> tuple[tuple[str, str, str], ...]:
    run = group.first
    target = run.config["target"]
    thinking = target.get("enable_thinking")
    prompts = [f"{len(task['prompt_ids'])} {task['task']}" for task in run.config["tasks"]]
    short = {
        name: (form.digest(value), form.text(value))
        for name, value in (
            ("Revision", target.get("revision")),
            ("Weights SHA-256", target.get("weights_sha256")),
            ("Template SHA-256", target.get("template_sha256")),
        )
    }
    date = target.get("template_date")
    dated = {} if date is None else {"Template date": (form.text(date), "")}
    facts = {
        "Target": (form.text(target.get("model")), ""),
        **short,
        "Precision": (_precision(target), ""),
        "Device": (form.text(target.get("device")), ""),
        "Hardware": (form.hardware(run.environment["hardware"]), ""),
        "Sampling": (form.sampling(run.config["sampling"]), ""),
        "Answer limit": (f"{run.config['max_new_tokens']} tokens", ""),
        "Thinking": ("on" if thinking else "off", ""),
        **dated,
        "Prompts": (", ".join(prompts), ""),
        "Runs": (", ".join(item.run_id for item in group.runs), ""),
    }
    return tuple((name, *value) for name, value in facts.items())


def _precision(target: TargetFacts) -> str:
    """Dtype and attention; in exact mode that every pass has one size."""
    words = f"{form.text(target.get('dtype'))}, {form.text(target.get('attn'))}"
    rows = target.get("exact_rows")
    return f"{words}, exact mode: {rows} rows in every pass" if rows else words
