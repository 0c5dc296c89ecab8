"""Policies over marginals, and drafters without a network."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "drafters/adl.py": (("tests/test_adl.py",),),
    "drafters/cps.py": (("tests/test_cps.py",),),
    "drafters/ddtree.py": (("tests/test_ddtree.py",),),
    "drafters/ngram.py": (("tests/test_ngram.py",),),
    "drafters/ngram_model.py": (("tests/test_ngram_model.py",),),
    "drafters/policy.py": (
        (
            "tests/test_self_selection.py",
            "tests/test_policy.py",
            "-k",
            "share_their or record_holds",
        ),
    ),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "drafters/adl.py": (
        ("round(k_max * 2 / 3)", "round(k_max / 3)"),
        ("self.delta or max(1, round(k_max / 3))", "self.delta or max(1, round(k_max / 2))"),
        ("generated = next(stops, len(draft))", "generated = len(draft)"),
        ("(1 - rho) * self._mean_generated + rho", "rho * self._mean_generated + rho"),
        ("(1 - rho) * self._mean_accepted + rho", "(1 - rho) * self._mean_generated + rho"),
        ("if self._mean_accepted >= self._mean", "if self._mean_accepted > self._mean"),
        ("min(max(wanted, self._k_min), self._k_max)", "max(wanted, self._k_min)"),
        ("math.floor(self._mean_generated)", "math.ceil(self._mean_generated)"),
        ("        self._forget()\n        super().start", "        super().start"),
    ),
    "drafters/cps.py": (
        (".cumsum()[:-1] < settings.mass).sum()) + 1", ".cumsum()[:-1] < settings.mass).sum())"),
        ("new = ~np.isin(stops, kept)", "new = np.isin(stops, stops)"),
        ("(1 - settings.weight) * by_ngrams", "settings.weight * by_ngrams"),
        ("scores[ended][0] / depth > best_mean", "scores[ended][0] > best_mean"),
        ("paths[~ended][: settings.beam]", "paths[~ended][: settings.beam + 1]"),
        ("np.argsort(-new, axis=None", "np.argsort(new, axis=None"),
        ("np.array([prefix_ids[-1], pending]", "np.array([pending, prefix_ids[-1]]"),
        ("| (depth == len(columns))", "| (depth == len(columns) - 1)"),
    ),
    "drafters/ddtree.py": (
        (
            "cost = node.cost_above - log_probs[depth - 1][rank]",
            "cost = node.cost - log_probs[depth - 1][rank]",
        ),
        ("node.parent, node.cost_above))", "node.parent, node.cost))"),
        (
            "(*node.ranks, 0), len(found), node.cost)",
            "(*node.ranks, 0), len(found) - 1, node.cost)",
        ),
        ("if depth < len(log_probs):", "if depth < len(log_probs) - 1:"),
        ("rank < len(log_probs[depth - 1])", "rank < len(log_probs[depth - 1]) - 1"),
        ("ids[len(node.ranks) - 1][node.ranks[-1]]", "ids[len(node.ranks) - 1][0]"),
        ("best.values - logits.logsumexp(-1, keepdim=True)", "best.values"),
        ("min(self.max_nodes, logits.shape[1])", "min(2, logits.shape[1])"),
    ),
    "drafters/ngram.py": (
        ("LONGEST_NGRAM = 3", "LONGEST_NGRAM = 2"),
        (
            "min(LONGEST_NGRAM, len(self._ids)), 0, -1)",
            "min(LONGEST_NGRAM, len(self._ids)), 1, -1)",
        ),
        ("begin + budget)", "begin + budget + 1)"),
        ("tuple(self._ids[here - size :])] = here", "tuple(self._ids[here - size :])] = here + 1"),
        ("        self.reset()\n        self._read", "        self._read"),
        ("block_size < 2", "block_size < 1"),
    ),
    "drafters/ngram_model.py": (
        ("once / (once + 2 * twice)", "once / (once + twice)"),
        ("(counts - discount) / np.repeat", "counts / np.repeat"),
        ("max(sequence.start, 2)", "max(sequence.start + 1, 2)"),
        ("np.argsort(-counts, kind", "np.argsort(counts, kind"),
        ("np.minimum(counts, np.iinfo(kind).max)", "counts"),
        ("if vocab_size <= 2**16", "if vocab_size <= 2**17"),
        ("trigrams.max() >= vocab_size", "trigrams.max() > vocab_size"),
        ("(np.diff(keys) > 0).all()", "(np.diff(keys) >= 0).all()"),
    ),
    "drafters/policy.py": (
        ("(path[-1], token), len(nodes))", "(-1, token), len(nodes))"),
        ("for record in reversed(found)", "for record in found"),
        ("        path = [-1]\n", "        path = [0]\n"),
    ),
}
