"""Pages: numbers in words, the best of a column, ranks, marks."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "reports/formatting.py": (
        (
            "tests/test_formatting.py",
            "tests/test_reports.py",
            "-k",
            "units or names_what or formatted",
        ),
    ),
    "reports/grid.py": (
        ("tests/test_grid.py", "tests/test_reports.py", "-k", "grid or best_is_marked"),
    ),
    "reports/ranking.py": (("tests/test_reports.py", "-k", "rank or ties or differences"),),
    "reports/load_mark.py": (("tests/test_reports.py", "-k", "marked or load"),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "reports/formatting.py": (
        ('f"{100 * value:.1f}"\n\n\ndef percents', 'f"{value:.1f}"\n\n\ndef percents'),
        ("seconds * 1e3", "seconds * 1e6"),
        ("value / 2**30", "value / 10**9"),
        ("or low == high:", "or low >= high:"),
        ("if value >= 1000 else", "if value > 1000 else"),
        ("value[:12]", "value[:8]"),
        ("math.ceil(8 * value / top)", "math.floor(8 * value / top)"),
        ('if facts["top_p"] < 1:', 'if facts["top_p"] <= 1:'),
        ("if value == 1 else", "if value <= 1 else"),
        ('replace("-", "−") if value else "0.0"', 'replace("-", "−")'),
        ('if facts["top_k"]:', 'if facts["top_k"] > 1:'),
        ('False: "", None', 'None: "", False'),
    ),
    "reports/grid.py": (
        (
            'pick = max if column.best == "high" else min',
            'pick = min if column.best == "high" else max',
        ),
        ("for cell in cells}) < 2:", "for cell in cells}) < 1:"),
        ("            and not row.cells[index].struck\n", ""),
        ("            and not row.unranked\n", ""),
        ("groups[-1][1] + 1)", "groups[-1][1])"),
        (
            "cell.detail and cell.value is not None and not cell.struck",
            "cell.detail and not cell.struck",
        ),
    ),
    "reports/ranking.py": (
        ("if not ratio.excludes(1):", "if not ratio.excludes(0):"),
        ("(ratio.value or 0.0) > 1", "(ratio.value or 0.0) < 1"),
        ("        faster[loser] += 1\n", "        faster[winner] += 1\n"),
        ("best=1 + faster[place]", "best=faster[place]"),
        ("worst=len(ranked) - slower[place]", "worst=len(ranked)"),
        ("if self.best == self.worst else", "if self.best >= 1 else"),
    ),
    "reports/load_mark.py": (
        ("if any(cell.text.endswith(MARK)", "if any(cell.text"),
        ("if cores is None or label", "if cores is not None or label"),
        ("label.text == form.BLANK", "label.text != form.BLANK"),
        ("if cores is not None)", "if cores)"),
    ),
}
