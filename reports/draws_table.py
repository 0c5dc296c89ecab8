"""Whether sampled tokens follow the target's distribution, method by method."""

from __future__ import annotations

from harness.distribution import Check
from reports import formatting as form
from reports.grid import Cell, Column, Row, Table
from reports.group import Comparison


def draws_table(group: Comparison) -> Table | None:
    """The distribution check of every method; None where no draws were audited."""
    rows = []
    for run, item in group.ranked():
        found = group.checks[run.run_id]
        if item["method"] in found:
            cells = (group.label(run, item["method"]), *_cells(found[item["method"]]))
            rows.append(Row(cells=cells, muted=item["kind"] == "baseline"))
    if not rows:
        return None
    return Table(
        title="Losslessness",
        note="Kolmogorov-Smirnov test of every token's place in the target's distribution at its "
        "own prefix. The last two columns say how large a fault would have been noticed nine "
        "times in ten: probability moved one way, to more or to less probable tokens, and tokens "
        "taken as the most probable instead of drawn.",
        columns=(
            Column(title="Drafter", kind="label"),
            Column(title="Verdict", kind="text"),
            Column(title="Tokens"),
            Column(title="Distance"),
            Column(title="Allowance"),
            Column(title="p"),
            Column(title="Noticeable shift %"),
            Column(title="Noticeable greed %"),
        ),
        rows=tuple(rows),
        badge=group.badge,
    )


def _cells(found: Check | None) -> list[Cell]:
    if found is None:
        return [Cell(text="too few tokens"), *[Cell(text=form.BLANK)] * 6]
    shares = (found.noticeable_shift, found.noticeable_greed)
    return [
        Cell(text=found.verdict),
        Cell(text=form.count(found.num_tokens), value=found.num_tokens),
        Cell(text=f"{found.distance:.4f}", value=found.distance),
        Cell(text=f"{found.allowance:.4f}", value=found.allowance),
        Cell(text=f"{found.p_value:.3g}", value=found.p_value),
        *(
            Cell(text=form.BLANK if share is None else f"{100 * share:.1f}", value=share)
            for share in shares
        ),
    ]
