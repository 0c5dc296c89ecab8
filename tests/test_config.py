"""Flags: one definition for name, default, help and check."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.tune_config import TuneConfig
from harness.config import PRESETS, QualityConfig, RunConfig, paper, quick, standard
from harness.errors import UserError

FLAGS = """
--drafter --target --fetch --tasks --limit --data-dir --output-dir --temperature --top-p --top-k
--max-new-tokens --block-size --draft-vocab --dtype --attn --exact --device --seed --repeats
--resume --revision --enable-thinking --template-date --baseline --plugin --train-if-missing
--confirm-run-unsafe-code --dry-run --markdown
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
        ({"limit": 2**51}, "--limit must be at most 1,125,899,906,842,624"),
        ({"max_new_tokens": 2**51}, "--max-new-tokens must be at most"),
        ({"top_k": 2**51}, "--top-k must be at most"),
        ({"repeats": 2**16 + 1}, "--repeats must be at most 65,536"),
        ({"block_size": 2**12 + 1}, "--block-size must be at most 4,096"),
        ({"temperature": 65537.0}, "--temperature must be at most 65,536"),
        ({"seed": 2**64}, "--seed must be at most"),
        ({"seed": -(2**64)}, "--seed must be at least"),
        ({"drafter": ("combined", "")}, "--drafter has an empty name"),
        ({"tasks": ("",)}, "--tasks has an empty name"),
        ({"baseline": ("hf_generate",)}, "must include ar_loop"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig(**fields)  # type: ignore[arg-type]


def test_what_a_run_may_ask_for_its_config_may_hold() -> None:
    """The largest of each that a command line may give."""
    RunConfig(
        **{"limit": 2**50, "max_new_tokens": 2**50, "top_k": 2**50, "repeats": 2**16},
        **{"block_size": 2**12, "temperature": 2.0**16, "seed": 1 - 2**64},
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_size": 1}, "--block-size must be at least 2"),
        ({"block_size": 5000}, "--block-size must be at most 4,096"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"max_new_tokens": 2**51}, "--max-new-tokens must be at most"),
    ],
)
def test_quality_has_the_bounds_of_a_run(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        QualityConfig(**fields)  # type: ignore[arg-type]


def test_no_block_is_trained_that_no_run_could_measure() -> None:
    with pytest.raises(ValueError, match="block_size must be at most 4,096"):
        TrainConfig(block_size=5000)
    with pytest.raises(ValueError, match="blocks have at most 4,096 tokens"):
        TuneConfig(data=Path("data"), block_sizes="4,5000")


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.cli import main; main(['list'])\n"
        "heavy = {'torch', 'transformers', 'pandas', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "combined" in done.stdout and "gsm8k" in done.stdout
