"""Passes of the target, and exact mode."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "targets/attention.py": (("tests/test_targets.py", "-k", "position or tree or grouped"),),
    "targets/transformers_lm.py": (
        ("tests/test_targets.py", "-k", "pass or buffers or features or thinking or template"),
        ("tests/test_targets.py", "-k", "tree or layers or stop_ids"),
    ),
    "targets/exact.py": (("tests/test_exact.py", "-k", "bits or tree or without"),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "targets/attention.py": (
        ("(rows - (counts.cumsum(0) - counts)[owner[rows]])", "rows"),
        ("(rows - (counts.cumsum(0) - counts)[owner[rows]])", "(rows - past)"),
        ("(counts.cumsum(0) - counts)[owner[rows]]", "counts.cumsum(0)[owner[rows]]"),
        ("    rows = keys[past:]\n", "    rows = keys\n"),
    ),
    "targets/transformers_lm.py": (
        ("self.fixed_rows or max_nodes + 1", "self.fixed_rows or max_nodes"),
        ("self.fixed_rows or max_nodes + 1", "max_nodes + 1"),
        ("max_tokens + (self.fixed_rows", "max_tokens - 1 + (self.fixed_rows"),
        ("positions.clamp(max=self._most_tokens - 1)", "positions"),
        ("positions.clamp(max=self._most_tokens - 1)", "positions.clamp(max=self._most_tokens)"),
        ("self._most_tokens = min(max_tokens, self.max_context)", "self._most_tokens = max_tokens"),
    ),
    "targets/exact.py": (
        ("torch.equal(_logits", "torch.allclose(_logits"),
        ("1 < item <= most_rows", "1 < item < most_rows"),
    ),
}
