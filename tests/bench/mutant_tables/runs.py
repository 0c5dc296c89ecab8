"""A run: its baselines, the order of its questions, and the audit behind it."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/baselines.py": (("tests/test_decode.py", "-k", "generate"),),
    "harness/session.py": (
        ("tests/test_runner.py", "-k", "history or seed_of"),
        ("tests/test_runner.py", "-k", "not killed"),
    ),
    "harness/conversations.py": (("tests/test_runner.py", "-k", "history or turn"),),
    "harness/auditor.py": (("tests/test_auditor.py", "-k", "noise or partial or honest"),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/baselines.py": (
        ('            "top_p": sampling.top_p,\n', ""),
        ('            "top_k": sampling.top_k,\n', '            "top_k": 0,\n'),
        ('            "temperature": sampling.temperature,\n', ""),
        ('        model.set_attn_implementation("sdpa")\n', "        pass\n"),
        ("            model.set_attn_implementation(attn)\n", "            pass\n"),
        (
            "        started = clock.now()\n",
            "        started = clock.now()\n        target.prepare()\n",
        ),
        ("    target.prepare()\n", ""),
        ("watch.first_token_at - started", "finished - started"),
    ),
    "harness/session.py": (
        (
            '        if record.method == "ar_loop":\n',
            "        if True:\n            key = (*key[:3], 'ar_loop', key[4])\n",
        ),
        (
            "generation_seed(self._plan.config.seed, task, prompt_id, turn, repeat)",
            "generation_seed(self._plan.config.seed, task, prompt_id, turn, 0)",
        ),
        (
            "generation_seed(self._plan.config.seed, task, prompt_id, turn, repeat)",
            'generation_seed(self._plan.config.seed, "", prompt_id, turn, repeat)',
        ),
    ),
    "harness/conversations.py": (
        ('turn - 1, "ar_loop", 0)', 'turn - 1, "ar_loop", 1)'),
        ('            messages.append({"role": "assistant", "content": answer.text})\n', ""),
    ),
    "harness/auditor.py": (
        ("max(item.noise, noise.get(item.position, 0.0))", "noise.get(item.position, item.noise)"),
        ("last = max(item.position", "last = min(item.position"),
        ("tokens = new_tokens[: last + 1]", "tokens = new_tokens[:last]"),
        ("tokens = new_tokens[: last + 1]", "tokens = new_tokens"),
    ),
}
