"""How tokens are drawn, and from which stream of random numbers."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    file: (("tests/test_sampling.py", "-k", chosen), *others)
    for file, chosen, *others in (
        ("harness/sampling.py", "not draft"),
        ("drafters/draft_model.py", "draft and draft_model"),
        (
            "drafters/self_selection.py",
            "draft and self_selection",
            ("tests/test_self_selection.py",),
        ),
        ("drafters/block_diffusion/drafter.py", "draft and dflash"),
        ("drafters/block_diffusion/candidate_selector.py", "draft and dflash2"),
        ("drafters/d2sd.py", "draft and d2sd"),
        ("drafters/diffusion_lm/drafter.py", "draft and diffuspec"),
        ("drafters/synthetic.py", "draft and synthetic"),
    )
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/sampling.py": (
        ("- ordered >= self.top_p", "- ordered > self.top_p"),
        ("- ordered >= self.top_p", ">= self.top_p"),
        ("scaled < floor", "scaled <= floor"),
        ("0 < self.top_k < scaled.shape[-1]", "0 < self.top_k < scaled.shape[-1] - 1"),
        ("_hash(seed, task, prompt_id, turn, repeat)", "_hash(seed, prompt_id, turn, repeat)"),
        ("_hash(seed, task, prompt_id, turn, repeat)", "_hash(seed, task, turn, repeat)"),
        ("_hash(seed, task, prompt_id, turn, repeat)", "_hash(seed, task, prompt_id, repeat)"),
        ("_hash(seed, task, prompt_id, turn, repeat)", "_hash(seed, task, prompt_id, turn)"),
        ("_hash(seed, task, prompt_id, turn, repeat)", "_hash(task, prompt_id, turn, repeat)"),
        ("_hash(self.seed, stream)", "_hash(self.seed)"),
        ("_hash(self.seed, stream)", "_hash(stream)"),
        ('"\\x1f".join', '"".join'),
        ("logits.float() / self.temperature", "logits.float() * self.temperature"),
        ("logits.float() / self.temperature", "logits / self.temperature"),
        ("            probs = probs / probs.sum(-1, keepdim=True)\n", ""),
        ("scatter_(-1, best, 1.0)", "scatter_(-1, best, 0.5)"),
        ("if not 0 < self.top_p <= 1:", "if not 0 <= self.top_p <= 1:"),
        ("if self.top_k < 0:", "if self.top_k < -1:"),
    ),
    "drafters/draft_model.py": (
        ('sampling.generator("draft"', 'sampling.generator("verify"'),
        ("best_tokens(q / clocks)", "best_tokens(q.sqrt() / clocks)"),
        ("network.widen(q)\n", "network.widen(q.sqrt() / q.sqrt().sum())\n"),
    ),
    "drafters/self_selection.py": (
        ('sampling.generator("draft"', 'sampling.generator("verify"'),
        ("            q, self._settings.chains", "            q.sqrt(), self._settings.chains"),
        ("replacement=True", "replacement=False"),
    ),
    "drafters/block_diffusion/drafter.py": (
        ('sampling.generator("draft"', 'sampling.generator("verify"'),
        ("torch.multinomial(q, 1", "torch.multinomial(q.sqrt(), 1"),
        ("self.head.widen(q))", "self.head.widen(q.sqrt()))"),
    ),
    "drafters/block_diffusion/candidate_selector.py": (
        ("torch.multinomial(rows[-1], 1", "torch.multinomial(rows[-1].sqrt(), 1"),
    ),
    "drafters/d2sd.py": (('sampling.generator("draft"', 'sampling.generator("verify"'),),
    "drafters/diffusion_lm/drafter.py": (
        ('sampling.generator("draft"', 'sampling.generator("verify"'),
        ("torch.multinomial(q, 1", "torch.multinomial(q.sqrt(), 1"),
    ),
    "drafters/synthetic.py": (('sampling.generator("draft")', 'sampling.generator("verify")'),),
}
