"""Intervals, spreads and shares; how busy others were; what was asked through lm-eval."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/bootstrap.py": (("tests/test_metrics.py", "-k", "interval"),),
    "harness/quality.py": (("tests/test_quality.py",),),
    "harness/spread.py": (("tests/test_spread.py",),),
    "harness/load.py": (("tests/test_load.py", "-k", "not busy_process"),),
    "harness/progress.py": (("tests/test_progress.py",),),
    "harness/stage_clock.py": (
        ("tests/test_stages.py",),
        ("tests/test_runner.py", "-k", "parts_of_a_round"),
    ),
    "harness/stages.py": (("tests/test_stages.py", "-k", "prediction or token or seconds"),),
    "harness/gen_kwargs.py": (("tests/test_lm_eval_model.py",),),
    "harness/findings.py": (("tests/test_findings.py",),),
    "harness/kv_cache.py": (("tests/test_kv_cache.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/bootstrap.py": (
        ("np.percentile(values, [2.5, 97.5])", "np.percentile(values, [5, 95])"),
        ("_ratio(sums[:, 2:]) - _ratio(sums[:, :2])", "_ratio(sums[:, :2]) - _ratio(sums[:, 2:])"),
        ("(slow_s - slow_tokens) - (fast_s - fast_tokens)", "slow_s - fast_s"),
        ("default_rng([num_conversations, position])", "default_rng([num_conversations, 0])"),
        ("if len(names) < MIN_CONVERSATIONS:", "if len(names) <= MIN_CONVERSATIONS:"),
        ("if len(names) < MIN_CONVERSATIONS:", "if len(rows) < MIN_CONVERSATIONS:"),
        ("return math.exp(low), math.exp(high)", "return low, high"),
        ("NUM_DRAWS = 2000", "NUM_DRAWS = 100"),
        ("return len(generation.new_tokens) - 1, len", "return len(generation.new_tokens), len"),
    ),
    "harness/quality.py": (
        ('if verdict != "not run"', 'if verdict != "error"'),
        ("(self.num_won - self.num_lost) / self", "(self.num_lost - self.num_won) / self"),
        ("sides.count((True, False))", "sides.count((False, False))"),
        ("if item.repeat == 0]", "]"),
        ("score.task == task and score.repeat == 0 and", "score.task == task and"),
        ("proportion_ci(0.95", "proportion_ci(0.9"),
        (
            "binomtest(self.num_lost, self.num_lost + self.num_won)",
            "binomtest(self.num_lost, self.num_pairs)",
        ),
    ),
    "harness/load.py": (
        ("DISTURBED_CORES = 0.2", "DISTURBED_CORES = 2.0"),
        ("busy_s - own_s) / passed_s", "busy_s) / passed_s"),
        (
            "median if median > DISTURBED_CORES else None",
            "median if median < DISTURBED_CORES else None",
        ),
        ("statistics.median(known)", "max(known)"),
        ("passed_s < MIN_WALL_S or before is None", "before is None"),
    ),
    "harness/progress.py": (
        ("* (self._total - self._done)", "* self._total"),
        ("if seconds < 90:", "if seconds < 60:"),
        ("{seconds / 3600:.1f} h", "{seconds / 60:.1f} h"),
        ("LINE_EVERY_S = 30.0", "LINE_EVERY_S = 3.0"),
    ),
    "harness/stage_clock.py": (
        ("draft[2] - draft[1],", "draft[2],"),
        ("following[1] - verify[2] + verify[1] - draft[2],", "following[1] - verify[2],"),
        (
            "item.num_prompt_tokens + len(item.new_tokens) // 2 for item",
            "item.num_prompt_tokens for item",
        ),
        ("method.has_stages and method.drafter is not None", "method.drafter is not None"),
        ("if item.turn == 1 and item.repeat == 0]", "if item.repeat == 0]"),
    ),
    "harness/stages.py": (
        ("tau * ar_loop.round_s / method.round_s", "tau * method.round_s / ar_loop.round_s"),
        ("self.token_s - self.other_token_s", "self.other_token_s - self.token_s"),
        ("token_s=seconds / tau", "token_s=seconds"),
        ("cost.added_s, reverse=True", "cost.added_s, reverse=False"),
    ),
    "harness/spread.py": (
        ("if len(known) < 2:", "if len(known) < 3:"),
        ("statistics.stdev(known)", "statistics.pstdev(known)"),
        ("statistics.fmean(known)", "statistics.median(known)"),
        ("len(known))", "len(values))"),
    ),
    "harness/gen_kwargs.py": (
        ("DEFAULT_MAX_NEW_TOKENS = 256", "DEFAULT_MAX_NEW_TOKENS = 255"),
        ("1.0 if do_sample else 0.0", "0.0 if do_sample else 0.0"),
        ("if do_sample is False and temperature > 0:", "if not do_sample and temperature > 0:"),
        ("if len(limits) > 1:", "if len(limits) > 2:"),
        ("kind is int and value != int(value)", "kind is int and value != value"),
        ('"top_p", float, 1.0), _value(given, "top_k", int, 0)', '"top_p", float, 1.0), 0'),
    ),
    "harness/findings.py": (
        ("if generation is not None and belongs(item, generation):", "if generation is not None:"),
        ("json.dumps([generation.prompt_sha256, *answers])", "json.dumps([*answers])"),
        ("for item in (generation, *others))", "for item in (generation,))"),
    ),
    "harness/kv_cache.py": (
        ("start + row for row in rows", "row for row in rows"),
        ("        self.length = start + count\n", "        self.length = start + count - 1\n"),
        ("self.rewind(start + len(rows))", "self.rewind(start + len(rows) + 1)"),
        ("        if capacity > self.capacity:\n", "        if capacity >= 0:\n"),
        (
            "fresh.narrow(2, 0, self.length).copy_(kept)",
            "fresh.narrow(2, 0, 1).copy_(kept[:, :, :1])",
        ),
    ),
}
