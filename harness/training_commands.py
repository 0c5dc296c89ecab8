"""The commands that make drafters: data, train, study."""

from __future__ import annotations

from pathlib import Path

from harness.arguments import parse
from harness.config import StudyCommand, TrainCommand, TuneCommand
from harness.visible import put, put_json


def data(arguments: list[str]) -> int:
    """Build a training corpus: prompts that no task asks, answered by the target."""
    from harness.data_config import DataConfig

    config = parse(DataConfig, arguments, "data")
    from drafters.block_diffusion.corpus_builder import build_data

    manifest = build_data(config)
    shown = ("num_rows", "num_prompts", "num_response_tokens", "num_with_reference", "num_left_out")
    summary = {
        "corpus": str(config.output_dir / "corpus.jsonl"),
        "manifest": str(config.output_dir / "corpus.json"),
        "num_removed": manifest["contamination"]["num_removed"],
        **{name: manifest[name] for name in shown},
        "tokens_per_s": manifest["last_sitting"].get("tokens_per_s"),
    }
    put_json(summary)
    return 0


def train(arguments: list[str]) -> int:
    """Train drafters for a target."""
    command = parse(TrainCommand, arguments, "train")
    from drafters.train import train

    for checkpoint in train(command.config):
        put(str(checkpoint))
    return 0


def tune(arguments: list[str]) -> int:
    """Choose a drafter's block size for this machine, by speed on held-back training prompts."""
    command = parse(TuneCommand, arguments, "tune")
    from drafters.block_diffusion.tuning import tune

    directory, found = tune(command.config)
    for size, speedup in found["decode_speedups"].items():
        chosen = "  chosen" if int(size) == found["block_size"] else ""
        put(f"block size {size:>2}  {speedup:.2f}x decode speedup over ar_loop{chosen}")
    put_json({"checkpoint": str(directory), **found})
    return 0


def study(arguments: list[str]) -> int:
    """Train objectives over seeds and budgets from one TOML file, replay and compare them."""
    command = parse(StudyCommand, arguments, "study")
    from harness.study_runner import run_study
    from harness.study_toml import read_study

    asked = read_study(command.study)
    directory = command.output_dir or Path("studies") / command.study.stem
    files = run_study(asked, directory, ["study", *arguments])
    with files.lock():  # others who share the study write the same pages
        show_study(directory, directory, whole=command.markdown)
    return 0


def show_study(directory: Path, output_dir: Path, *, whole: bool) -> None:
    """Write and print the report of a study, then the line of JSON for programs."""
    from reports.terminal import publish_study

    page = publish_study(directory, output_dir, whole=whole)
    put(page.text)
    summary = {"study_dir": directory, "study_md": page.markdown, "study_html": page.html}
    put_json({name: str(path) for name, path in summary.items()})
