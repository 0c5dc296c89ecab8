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

from tests.bench.mutant_tables import MUTANTS, TESTS

ROOT = Path(__file__).resolve().parent.parent.parent
_PARTS = ("harness", "drafters", "targets", "tasks", "reports", "tests", "pyproject.toml")

_CPU_S = 120
_MEMORY = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class Options:
    """Put mistakes into a copy of the tree and see which the tests notice."""

    only: str = ""
    """Mutants whose "file: line" contains this."""


def main(options: Options) -> int:
    """0 where every mutant was killed."""
    torch.set_num_threads(1)
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
