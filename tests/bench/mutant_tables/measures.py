"""What is measured on the records of a run."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/metrics.py": (("tests/test_metrics.py", "-k", "not interval"),),
    "harness/positions.py": (("tests/test_positions.py",),),
    "harness/published.py": (("tests/test_published.py",),),
    "harness/waste.py": (("tests/test_waste.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/metrics.py": (
        (
            "sum(len(item.new_tokens) - 1 for item in answers) / num_rounds",
            "sum(len(item.new_tokens) for item in answers) / num_rounds",
        ),
        (
            "return sum(len(item.new_tokens) - 1 for item in answers) / num_rounds",
            "return tau_macro(generations)",
        ),
        (
            "[mean([item.committed for item in rounds]) for rounds in responses(generations)]",
            "[item.committed for item in rounds_of(generations)]",
        ),
        (
            "mean([item.committed for item in rounds])",
            "mean([item.accepted + 1 for item in rounds])",
        ),
        (
            "nodes = sum(item.nodes for item in rounds)",
            "nodes = sum(item.depth for item in rounds)",
        ),
        (
            "return sum(item.accepted for item in rounds) / nodes",
            "return sum(item.committed for item in rounds) / nodes",
        ),
        ("    return fast / slow\n", "    return slow / fast\n"),
        ("return before / after", "return after / before"),
        (
            "before = sum(item.prefill_s + item.decode_s for item, _ in both)",
            "before = sum(item.decode_s for item, _ in both)",
        ),
        (
            "tokens = sum(len(item.new_tokens) - 1 for item in answers)",
            "tokens = sum(len(item.new_tokens) for item in answers)",
        ),
        ("item.turn, item.repeat, item.prompt_sha256)", "item.turn, item.repeat)"),
        ("item.turn, item.repeat, item.prompt_sha256)", "item.turn, item.prompt_sha256)"),
        ("(item.task, item.prompt_id, item.turn", "(item.task, item.prompt_id"),
        ('            raise ValueError(f"two generations', '            print(f"two generations'),
        (
            "return math.exp(mean([math.log(value) for value in _complete(values)]))",
            "return mean(_complete(values))",
        ),
        ("    if len(known) < len(values):\n", "    if False:\n"),
        ("return max(speeds, key", "return min(speeds, key"),
        ("(sum(len({item.task for item in run}) for run in runs), speed)", "(0, speed)"),
        ("sum(len({item.task for item in run}) for run in runs)", "len(runs[-1])"),
        (
            "tokens_per_s([item for generations in runs for item in generations])",
            "tokens_per_s(runs[0])",
        ),
        (
            "return tau([b for _, b in both]) - tau([a for a, _ in both])",
            "return tau(second) - tau(first)",
        ),
        ("if a.rounds and b.rounds]", "]"),
        ("return max(measured, default=None)", "return max(measured, default=0)"),
        ("for item in answers if item.rounds) / num_rounds", "for item in answers) / num_rounds"),
        ("num_rounds = len(rounds_of(answers))", "num_rounds = len(rounds_of(generations))"),
        ("    answers = timed(generations)\n    tokens", "    answers = generations\n    tokens"),
        ("return pairs(timed(baseline), timed(method))", "return pairs(baseline, method)"),
        ("return speedup(*second) / speedup(*first)", "return speedup(*first) / speedup(*second)"),
        (
            "return tau_difference(*second) - tau_difference(*first)",
            "return tau_difference(*first) - tau_difference(*second)",
        ),
    ),
    "harness/positions.py": (
        ("int(weight[accepted == k].sum())", "int((accepted == k).sum())"),
        ("range(deepest + 1)),", "range(deepest)),"),
        ("weight[accepted >= k].sum()", "weight[accepted > k].sum()"),
        ("(accepted >= k - 1) & (depth >= k)", "accepted >= k - 1"),
        ("(accepted >= k - 1) & (depth >= k)", "(accepted >= k) & (depth >= k)"),
        ("deepest = int(depth.max())", "deepest = int(accepted.max())"),
        ("kept / reached if reached else None", "kept / reached if reached else 0.0"),
        ("kept / self.num_rounds for", "kept / self.kept[0] for"),
        ("kept / self.num_rounds for", "kept / self.reached[0] for"),
        ("self.kept, self.reached, strict", "self.kept, self.histogram[1:], strict"),
    ),
    "harness/published.py": (
        (
            "return mean([item.accepted + 1 for item in rounds_of(generations)])",
            "return mean([item.committed for item in rounds_of(generations)])",
        ),
        (
            "[mean([item.accepted + 1 for item in rounds]) for rounds in responses(generations)]",
            "[item.accepted + 1 for item in rounds_of(generations)]",
        ),
        (
            "mean([item.accepted + 1 for item in rounds])",
            "mean([item.committed for item in rounds])",
        ),
        ("item.decode_s / len(item.new_tokens)", "item.decode_s / (len(item.new_tokens) - 1)"),
        ("    return slow / fast\n", "    return fast / slow\n"),
        ("    return fast / slow\n", "    return slow / fast\n"),
        ("if slow == 0 or fast == 0:", "if False:"),
        ("(item.task, item.prompt_id, item.repeat)", "(item.task, item.prompt_id, item.turn)"),
        ("(item.task, item.prompt_id, item.repeat)", "(item.prompt_id, item.repeat)"),
        ("(item.task, item.prompt_id, item.repeat)", "(item.task, item.prompt_id)"),
        ("+= len(item.new_tokens)", "+= len(item.new_tokens) - 1"),
        ("+= item.prefill_s + item.decode_s", "+= item.decode_s"),
        ("    if not all(seconds.values()):", "    if not any(seconds.values()):"),
    ),
    "harness/waste.py": (
        ("self.wasted + self.wrong\n", "self.wasted + self.wrong + self.behind_end\n"),
        ("return (self.accepted + self.bonus) / self.judged", "return self.accepted / self.judged"),
        ("self.wasted / (self.accepted + self.bonus", "self.wasted / (self.accepted"),
        ("correct = self.accepted + self.wasted", "correct = self.accepted"),
        ("if any(item.is_tree", "if all(item.is_tree"),
        (
            "new_tokens[start + 1 : start + 1 + item.depth]",
            "new_tokens[start : start + item.depth]",
        ),
        ("        start += item.committed\n", "        start += item.accepted\n"),
        ("if total.accepted + total.wasted", "if total.wasted"),
        ("kept = min(item.accepted, item.committed)", "kept = item.accepted"),
        ("draft_tokens[kept : len(answer)]", "draft_tokens[kept:]"),
        ("draft == own for", "draft != own for"),
        ("item.depth - len(answer) + 1 - bonus", "item.depth - len(answer)"),
    ),
}
