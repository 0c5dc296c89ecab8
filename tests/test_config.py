"""Flags: one definition for name, default, help and check."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from harness.config import PRESETS, RunConfig, paper, quick, standard
from harness.errors import UserError

FLAGS = """
--drafter --target --fetch --tasks --limit --data-dir --output-dir --temperature --top-p --top-k
--max-new-tokens --block-size --draft-vocab --dtype --attn --exact --device --seed --repeats
--resume --revision --enable-thinking --template-date --baseline --plugin --train-if-missing
--confirm-run-unsafe-code --dry-run
"""


def test_the_flags_are_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.cli import main

    assert main(["run", "--help"]) == 0
    assert (
        re.findall(r"^\W{1,2}(--[a-z][a-z-]+)", capsys.readouterr().out, re.MULTILINE)
        == FLAGS.split()
    )
    names = [field.name.replace("_", "-") for field in dataclasses.fields(RunConfig)]
    assert [f"--{name}" for name in names] == FLAGS.split()


def test_presets_replace_fields_of_the_standard() -> None:
    assert standard() == RunConfig()
    assert quick() == dataclasses.replace(
        standard(), drafter=("combined", "uniform"), limit=2, max_new_tokens=64
    )
    assert (paper().limit, paper().max_new_tokens, paper().repeats) == (128, 2048, 3)
    assert all(make.__doc__ for make in PRESETS.values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": 0}, "--limit must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens must be at least 1"),
        ({"repeats": -1}, "--repeats must be at least 1"),
        ({"block_size": 1}, "--block-size must be at least 2"),
        ({"temperature": -0.5}, "--temperature must be at least 0"),
        ({"temperature": float("nan")}, "--temperature must be a number"),
        ({"temperature": float("inf")}, "--temperature must be a number"),
        ({"top_p": 0.0}, r"--top-p must be in \(0, 1\]"),
        ({"top_p": 1.5}, r"--top-p must be in \(0, 1\]"),
        ({"top_k": -1}, "--top-k must be at least 0"),
        ({"drafter": ("combined", "")}, "--drafter has an empty name"),
        ({"tasks": ("",)}, "--tasks has an empty name"),
        ({"baseline": ("hf_generate",)}, "must include ar_loop"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig(**fields)  # type: ignore[arg-type]


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.cli import main; main(['list'])\n"
        "heavy = {'torch', 'transformers', 'pandas', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "combined" in done.stdout and "gsm8k" in done.stdout
