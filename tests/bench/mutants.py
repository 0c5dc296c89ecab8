"""Small mistakes put into the harness one at a time; the tests of the module must notice each.

    python -m tests.bench.mutants
    python -m tests.bench.mutants --only metrics

Each mutant is a line changed in a copy of the tree. Exit status 1 where one survives or its line
is no longer there: the first asks for a test, the second for a new mutant.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401
import pytest
import torch
import transformers.models.llama.modeling_llama
import transformers.models.qwen3.modeling_qwen3  # noqa: F401
import tyro

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent.parent
_PARTS = ("harness", "drafters", "targets", "tasks", "reports", "tests", "pyproject.toml")

_CPU_S = 120
_MEMORY = 4 * 2**30

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "harness/verify.py": (
        ("tests/test_verify.py", "-k", "not joint and not planted"),
        ("tests/test_verify.py", "-k", "joint"),
    ),
    "harness/decode.py": (
        ("tests/test_decode.py",),
        ("tests/test_lossless.py", "-k", "limits or context or earlier"),
    ),
    "harness/metrics.py": (("tests/test_metrics.py", "-k", "not interval"),),
    "harness/records.py": (("tests/test_records.py", "tests/test_run_files.py"),),
    "harness/stopping.py": (("tests/test_stopping.py",),),
    "harness/audit.py": (("tests/test_audit.py", "-k", "not honest"),),
    "harness/verdicts.py": (("tests/test_verdicts.py",),),
}
"""Tests that mirror each module, in calls of pytest, the quickest first."""

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "harness/verify.py": (
        # greedy and match
        ("    return logits.max(-1).indices", "    return logits.max(0).indices"),
        ("    return logits.max(-1).indices", "    return logits.flip(-1).max(-1).indices"),
        ("children.get((node, own[node + 1]))", "children.get((node, own[node]))"),
        ("for item in path), own[node + 1])", "for item in path), own[node])"),
        ("for item in path), own[node + 1])", "for item in path), own[-1])"),
        ('proposal.rule == "rejection" and proposal.q is not None', "proposal.q is None"),
        # rejection
        ("coins * q.gather(1, column)[:, 0] < p", "coins * q.gather(1, column)[:, 0] > p"),
        ("coins * q.gather(1, column)[:, 0] < p", "coins < p"),
        ("    accepted = passed.long().cumprod(0)", "    accepted = passed.long()"),
        ("accepted.clamp(max=n - 1))[0] * (accepted < n)", "accepted.clamp(max=n - 1))[0]"),
        ("(row - refused).clamp_(min=0), row", "row, row"),
        ("(row - refused).clamp_(min=0), row", "(row - refused).abs_(), row"),
        ("    row = p.index_select(0, accepted)[0]\n    # After", "    row = p[0]\n    # After"),
        ("tuple(chain[:count]), next_token)", "tuple(chain[: count + 1]), next_token)"),
        # select
        ("steps.cumprod(1).sum(1).argmax", "steps.cumprod(1).sum(1).argmin"),
        ("steps.cumprod(1).sum(1).argmax", "steps.sum(1).argmax"),
        ("given = p[parents + 1]", "given = p[parents]"),
        ("coins < chances", "coins < chances * 1.1"),
        ("row.scatter(0, tokens[refused], 0.0)", "row"),
        ("nodes[accepted] + 1)[0]", "nodes[accepted])[0]"),
        ("torch.where(refused >= 0, without, row)", "without"),
        ("    weights = torch.where(weights.sum() > 0, weights, otherwise)\n", ""),
    ),
    "harness/decode.py": (
        ("            prefilled = clock.now()\n", "            prefilled = started\n"),
        ("        prefill_s=prefilled - started", "        prefill_s=finished - started"),
        ("        decode_s=finished - prefilled", "        decode_s=finished - started"),
        ("        drafter.reset()\n", "        pass\n"),
        ("budget = stopping.remaining - 1", "budget = stopping.remaining"),
        ("budget = stopping.remaining - 1", "budget = stopping.remaining - 2"),
        ("if budget > 0 else nothing", "if budget >= 0 else nothing"),
        ("(*verdict.tokens, verdict.next_token))", "(*verdict.tokens,) or (verdict.next_token,))"),
        ("top, verdict.accepted, committed", "top, committed - 1, committed"),
        ("top, verdict.accepted, committed", "top, verdict.accepted, verdict.accepted + 1"),
        ("len(proposal.parents), top", "len(top), top"),
        ("target.commit(verdict.path)", "target.commit(())"),
        ("prefix += (pending, *verdict.tokens)", "prefix += verdict.tokens"),
        ("        pending = verdict.next_token\n", ""),
        ("proposal.tokens.clone() if", "proposal.tokens if"),
        ("if nodes > max_nodes:", "if nodes > max_nodes + 9:"),
        ("if depth > budget:", "if depth > budget + 9:"),
        ("path.insert(0, proposal.parents[path[0]])", "path.append(proposal.parents[path[0]])"),
        ("features[: len(path) + 1]", "features[: len(path)]"),
        ("[0, *(node + 1 for node in path)]", "[0, *path]"),
        ("    if room < 1:", "    if room < 0:"),
    ),
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
            "_mean([item.committed for item in rounds])",
            "_mean([item.accepted + 1 for item in rounds])",
        ),
        (
            "_mean([item.accepted + 1 for item in rounds])",
            "_mean([item.accepted for item in rounds])",
        ),
        (
            "_mean([item.accepted + 1 for item in rounds])",
            "_mean([item.committed for item in rounds])",
        ),
        (
            "nodes = sum(item.nodes for item in rounds)",
            "nodes = sum(item.depth for item in rounds)",
        ),
        (
            "return sum(item.accepted for item in rounds) / nodes",
            "return sum(item.committed for item in rounds) / nodes",
        ),
        ("kept = int(weight[accepted >= k].sum())", "kept = int(weight[accepted > k].sum())"),
        ("(accepted >= k - 1) & (depth >= k)", "accepted >= k - 1"),
        ("kept / int(weight[depth >= k].sum())", "kept / int(weight.sum())"),
        (
            "conditional.append(kept / reached if reached else None)",
            "conditional.append(kept / reached if reached else 0.0)",
        ),
        ("    return fast / slow\n", "    return slow / fast\n"),
        ("return before / after", "return after / before"),
        (
            "before = sum(item.prefill_s + item.decode_s for item, _ in both)",
            "before = sum(item.decode_s for item, _ in both)",
        ),
        (
            "tokens = sum(len(item.new_tokens) - 1 for item in generations)",
            "tokens = sum(len(item.new_tokens) for item in generations)",
        ),
        ("item.turn, item.repeat, item.prompt_sha256)", "item.turn, item.repeat)"),
        ("item.turn, item.repeat, item.prompt_sha256)", "item.turn, item.prompt_sha256)"),
        ("(item.task, item.prompt_id, item.turn", "(item.task, item.prompt_id"),
        ('            raise ValueError(f"two generations', '            print(f"two generations'),
        (
            "return math.exp(_mean([math.log(value) for value in _complete(values)]))",
            "return _mean(_complete(values))",
        ),
        ("    if len(known) < len(values):\n", "    if False:\n"),
        ("return max(speeds, key", "return min(speeds, key"),
        ("(len({item.task for item in generations}), speed)", "(0, speed)"),
        (
            "return tau([b for _, b in both]) - tau([a for a, _ in both])",
            "return tau(second) - tau(first)",
        ),
        ("if a.rounds and b.rounds]", "]"),
        ("return max(measured, default=None)", "return max(measured, default=0)"),
        (
            "for item in generations if item.rounds) / num_rounds",
            "for item in generations) / num_rounds",
        ),
        ("return speedup(*second) / speedup(*first)", "return speedup(*first) / speedup(*second)"),
    ),
    "harness/records.py": (
        ("0 <= self.accepted <= self.depth <= self.nodes,", "0 <= self.accepted <= self.nodes,"),
        ("0 <= self.accepted <= self.depth <= self.nodes,", "0 <= self.accepted <= self.depth,"),
        ("1 <= self.committed <= self.accepted + 1,", "0 <= self.committed <= self.accepted + 1,"),
        ("1 <= self.committed <= self.accepted + 1,", "1 <= self.committed <= self.accepted + 2,"),
        (
            "_require(len(self.draft_tokens) == self.depth",
            "_require(len(self.draft_tokens) <= self.depth",
        ),
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
        ('            if not line.endswith("\\n"):\n                return\n', ""),
        ("enumerate(lines, start=1)", "enumerate(lines)"),
    ),
    "harness/stopping.py": (
        ("kept = tokens[: self.remaining]", "kept = tokens[: self.remaining + 1]"),
        ('kept, reason = kept[:count], "stop"', 'kept, reason = kept[: count - 1], "stop"'),
        ("self._limit = min(max_new_tokens, room)", "self._limit = max_new_tokens"),
        ("if max_new_tokens <= room else", "if max_new_tokens < room else"),
        ('kept, reason = kept[:completed], "stop_string"', 'reason = "stop_string"'),
    ),
    "harness/audit.py": (
        ("margins = reference.amax(-1)", "margins = own.amax(-1)"),
        ("torch.cat((best, tokens[rows, None]), 1)", "best"),
        ("(error.gather(1, looked_at) - shift)", "error.gather(1, looked_at)"),
        (".abs().amax(1)\n    positions", ".abs().mean(1)\n    positions"),
        ("positions = (rows + first)", "positions = rows"),
    ),
    "harness/verdicts.py": (
        ("TOLERANCE = 3.0", "TOLERANCE = 30.0"),
        ("deviation.margin <= TOLERANCE", "deviation.margin < TOLERANCE"),
        ("if any(not stands(item)", "if all(not stands(item)"),
        ("audit.deviations) or ends_elsewhere(audit):", "audit.deviations):"),
        ("if self.mismatch:", "if self.mismatch > 1:"),
        ("== min(audit.num_tokens, audit.num_ar_loop_tokens)", "== audit.num_tokens"),
    ),
}
"""By file: a fragment that occurs once, and what a careless hand would write instead."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Put mistakes into a copy of the tree and see which the tests notice."""

    only: str = ""
    """Mutants whose "file: line" contains this."""


def main(options: Options) -> int:
    """0 where every mutant was killed."""
    bad = 0
    chosen = {
        file: some
        for file, mutants in MUTANTS.items()
        if (some := [pair for pair in mutants if options.only in f"{file}: {pair[0]}"])
    }
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        _copy(tree)
        for file, mutants in chosen.items():
            whole = (ROOT / file).read_text(encoding="utf-8")
            if not _passes(tree, file):
                print(f"{file}: its tests fail as they are")
                return 1
            for old, new in mutants:
                began = time.perf_counter()
                if whole.count(old) != 1:
                    state = f"STALE ({whole.count(old)} places)"
                else:
                    (tree / file).write_text(whole.replace(old, new), encoding="utf-8")
                    state = "SURVIVED" if _passes(tree, file) else "killed"
                    (tree / file).write_text(whole, encoding="utf-8")
                bad += state != "killed"
                seconds = time.perf_counter() - began
                print(f"{state:<9} {seconds:5.1f} s  {file}: {old!r} -> {new!r}", flush=True)
    total = sum(map(len, chosen.values()))
    print(f"{total - bad} of {total} killed")
    return 1 if bad else 0


def _copy(tree: Path) -> None:
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    # A mutant that few draws kill, more would kill too; an honest rule passes with any number.
    draws = tree / "tests/test_verify.py"
    draws.write_text(draws.read_text(encoding="utf-8").replace("DRAWS = 20_000", "DRAWS = 3_000"))


def _passes(tree: Path, file: str) -> bool:
    """Whether the tests of ``file`` pass in the copy."""
    return all(_pytest(tree, arguments) == 0 for arguments in TESTS[file])


def _pytest(tree: Path, arguments: tuple[str, ...]) -> int:
    """Exit status of pytest in a child that shares what is slow to import, and nothing of ours."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # A mutant may loop for ever or fill the memory: dying of it is being noticed.
            resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
            os.chdir(tree)
            sys.path[:] = [str(tree), *(item for item in sys.path if item not in ("", str(ROOT)))]
            os.environ["PYTHONPATH"] = str(tree)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            flags = ["-x", "-q", "--tb=no", "--no-showlocals", "-p", "no:cacheprovider"]
            status = int(pytest.main([*flags, *arguments]))
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.exit(main(tyro.cli(Options)))
