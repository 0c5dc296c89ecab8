"""Learning curves of a study: a drawing where matplotlib is installed, and the table beneath it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from harness.study_curves import Point
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table
from reports.study_view import StudyView

_VALUES: tuple[tuple[str, Callable[[Point], float | None]], ...] = (
    ("training loss", lambda point: point.loss),
    ("train-time τ", lambda point: point.train_time_tau),
    ("replayed τ, held back", lambda point: point.tau),
)

_INK = "#010203"
"""Stands for the text's colour until the page's own takes its place."""
_SERIES = tuple(f"#0102{place:02x}" for place in range(16, 24))
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """A figure and its numbers."""

    svg: str
    """Empty where it could not be drawn."""
    table: Table


@dataclass(frozen=True, slots=True)
class _Line:
    """One objective: its seeds, and their mean at the steps that all of them have."""

    name: str
    seeds: tuple[tuple[Point, ...], ...]

    def mean(self, value: Callable[[Point], float | None]) -> list[tuple[int, float]]:
        """Steps and means; a step at which a seed has no value is left out."""
        tables = [{p.step: value(p) for p in points} for points in self.seeds]
        found = []
        for step in sorted(set.intersection(*(set(table) for table in tables))):
            values = [table[step] for table in tables]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                found.append((step, fmean(known)))
        return found


def learning_curves(view: StudyView) -> Curves | None:
    """Every objective at the headline budget; None where none was measured on its way."""
    steps = view.headline[0]
    curves = view.curves()
    lines = []
    for name in view.objectives:
        recipe = view.recipe(name, steps)
        seeds = [tuple(points) for arm, points in curves.items() if arm.recipe == recipe]
        if seeds and any(len(points) > 1 for points in seeds):
            lines.append(_Line(name, tuple(seeds)))
    if not lines:
        return None
    return Curves(svg=draw(lines), table=_table(lines, steps))


def _table(lines: Sequence[_Line], steps: int) -> Table:
    rows = []
    for line in lines:
        values = [dict(line.mean(value)) for _, value in _VALUES]
        num_answers = {p.step: p.num_answers for points in line.seeds for p in points}
        for step in sorted({step for column in values for step in column}):
            known = [column.get(step) for column in values]
            rows.append(
                Row(
                    cells=(
                        Cell(text=line.name),
                        Cell(text=form.count(step), value=step),
                        *(Cell(text=form.ratio(value), value=value) for value in known),
                        Cell(text=str(len(line.seeds)), value=len(line.seeds)),
                        Cell(text=form.count(num_answers[step]), value=num_answers[step]),
                    )
                )
            )
    return Table(
        title="Learning curves",
        note=f"Trainings of {form.count(steps)} steps, mean over seeds. Loss is the mean since the "
        "point before, each objective's own and not comparable among them; train-time τ is at "
        "fixed anchors over the training vocabulary; replayed τ is on the first held-back answers.",
        columns=(
            Column(title="Objective", kind="label"),
            Column(title="Step"),
            *(Column(title=title[:1].upper() + title[1:]) for title, _ in _VALUES),
            Column(title="Seeds"),
            Column(title="Answers replayed"),
        ),
        rows=tuple(rows),
    )


def draw(lines: Sequence[_Line]) -> str:
    """An SVG in the page's own colours, the same bytes each time; empty without matplotlib."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return ""
    style = {
        "svg.hashsalt": "study",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        **{name: _INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor")},
        **{name: _INK for name in ("xtick.color", "ytick.color")},
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        for axes, (title, value) in zip(figure.subplots(1, len(_VALUES)), _VALUES, strict=True):
            axes.set_title(title)
            axes.set_xlabel("step")
            for place, line in enumerate(lines):
                look = {
                    "color": _SERIES[place % len(_SERIES)],
                    "linestyle": _DASHES[place // len(_SERIES) % len(_DASHES)],
                }
                for points in line.seeds:
                    known = [(p.step, value(p)) for p in points if value(p) is not None]
                    axes.plot(*zip(*known, strict=True), alpha=0.3, linewidth=0.8, **look)
                axes.plot(*zip(*line.mean(value), strict=True), label=line.name, **look)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    return _inline(text.getvalue())


def _inline(svg: str) -> str:
    """A drawing as part of a page: no prologue, no fixed size, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = svg.replace(">*{", ">.drawing *{", 1)  # a style in a page is the whole page's
    svg = svg.replace("<svg ", '<svg class="drawing" role="img" aria-label="Learning curves" ', 1)
    svg = svg.replace(_INK, "currentColor")
    for place, colour in enumerate(_SERIES, start=1):
        svg = svg.replace(colour, f"var(--series-{place})")
    return svg
