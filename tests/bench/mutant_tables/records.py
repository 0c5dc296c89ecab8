"""Records on disk, and the audits of them."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/records.py": (("tests/test_records.py", "tests/test_run_files.py"),),
    "harness/reading.py": (("tests/test_reading.py", "tests/test_records.py"),),
    "harness/audit.py": (("tests/test_audit.py", "-k", "not honest"),),
    "harness/verdicts.py": (("tests/test_verdicts.py",),),
    "harness/distribution.py": (("tests/test_distribution.py", "-k", "not run and not rule"),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/records.py": (
        ("0 <= self.accepted <= self.depth <= self.nodes:", "0 <= self.accepted <= self.nodes:"),
        ("0 <= self.accepted <= self.depth <= self.nodes:", "0 <= self.accepted <= self.depth:"),
        ("1 <= self.committed <= self.accepted + 1:", "0 <= self.committed <= self.accepted + 1:"),
        ("1 <= self.committed <= self.accepted + 1:", "1 <= self.committed <= self.accepted + 2:"),
        ("len(self.draft_tokens) != self.depth:", "len(self.draft_tokens) > self.depth:"),
        ("_require(len(self.new_tokens) >= 1", "_require(len(self.new_tokens) >= 0"),
        ("_require(self.num_prompt_tokens >= 1", "_require(self.num_prompt_tokens >= 0"),
        (
            "_require(self.finish_reason in get_args(FinishReason)",
            "_require(bool(self.finish_reason)",
        ),
        ("_require(math.isfinite(value) and value >= 0", "_require(value >= 0"),
        ("_require(math.isfinite(value) and value >= 0", "_require(math.isfinite(value)"),
        (
            "            1 + committed == len(self.new_tokens),",
            "            committed <= len(self.new_tokens),",
        ),
        (
            "            all(item.committed == item.accepted + 1",
            "            any(item.committed == item.accepted + 1",
        ),
        ("for item in self.rounds[:-1]),", "for item in self.rounds[:-2]),"),
        ("    if version != SCHEMA_VERSION or", "    if"),
        (
            "return (record.task, record.prompt_id, record.turn, record.method, record.repeat)",
            "return (record.task, record.prompt_id, record.turn, record.method, 0)",
        ),
    ),
    "harness/reading.py": (
        ('            if line.endswith(b"\\n"):\n', "            if line:\n"),
        ('readline(limit + 1), b""), start=1)', 'readline(limit + 1), b""), start=0)'),
        ("            if len(line) > limit:", "            if len(line) > limit + 1:"),
        (" if number == 1 else line", " if number == 0 else line"),
        ("byte {error.start + 1}", "byte {error.start}"),
        ("size - (begin + found + 1)", "size - (found + 1)"),
    ),
    "harness/audit.py": (
        ("margins = reference.amax(-1)", "margins = own.amax(-1)"),
        ("torch.cat((best, tokens[rows, None]), 1)", "best"),
        ("(error.gather(1, looked_at) - shift)", "error.gather(1, looked_at)"),
        (".abs().amax(1)\n    positions", ".abs().mean(1)\n    positions"),
        ("positions = (rows + first)", "positions = rows"),
        ("enumerate(before) if token", "enumerate(answer.new_tokens) if token"),
        ("limit = min(max_new_tokens, room)", "limit = max_new_tokens"),
        ("    if length > limit:", "    if length > limit + 1:"),
        ('"stop" if last in stop_ids else None', "None"),
        ("reason is None and length == limit", "length == limit"),
        ('"length" if max_new_tokens <= room', '"length" if max_new_tokens < room'),
        (' and reason != "stop"):', "):"),
        ("    if said == reason or", "    if reason or"),
    ),
    "harness/verdicts.py": (
        ("TOLERANCE = 3.0", "TOLERANCE = 30.0"),
        ("deviation.margin <= TOLERANCE", "deviation.margin < TOLERANCE"),
        ("if any(not stands(item)", "if all(not stands(item)"),
        ("audit.deviations) or ends_elsewhere(audit):", "audit.deviations):"),
        ("    if audit.wrong_end:", "    if audit.wrong_end and audit.first_divergence is None:"),
        ("if self.mismatch:", "if self.mismatch > 1:"),
        ("== min(audit.num_tokens, audit.num_ar_loop_tokens)", "== audit.num_tokens"),
    ),
    "harness/distribution.py": (
        ("self.p_value < FALSE_ALARM", "self.p_value < FALSE_ALARM * 1e-9"),
        ("self.p_value < FALSE_ALARM", "self.p_value < 0.1"),
        ("np.asarray(draws.above) + v", "np.asarray(draws.above) + 0 * v"),
        ("+ v * np.asarray(draws.given)", "+ v"),
        ("if num_tokens < MIN_TOKENS:", "if num_tokens < MIN_TOKENS - 1:"),
        ("stats.norm.ppf(POWER)", "stats.norm.ppf(1 - POWER)"),
        ("math.sqrt(num_tokens)", "num_tokens"),
        ("shift / effect if shift <= effect else None", "shift if shift <= effect else None"),
        ("setdefault(item.method, [])", 'setdefault("", [])'),
        ('item.verdict == "MISMATCH" for item in judged', "bool(item) for item in judged"),
        ("(share - grid).max()", "(grid - share).max()"),
    ),
}
