"""The block size to decode with: measured on what training never saw, noted, and then used."""

import dataclasses
import json
from pathlib import Path

import pytest

from drafters.block_diffusion import checkpoint, trainer, tuning
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.drafter import build
from drafters.block_diffusion.prompts import is_held_back, training_prompts
from drafters.block_diffusion.tune_config import TuneConfig
from drafters.options import DrafterOptions
from harness import cli
from harness.decode import Decoded
from harness.errors import UserError
from targets.base import TargetOptions
from targets.load import load_target
from tests.tiny_model import write_model, write_prompts


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Settings of a training whose checkpoint is in the output directory."""
    root = tmp_path_factory.mktemp("trained")
    config = TrainConfig(
        drafter="uniform",
        target=str(write_model(root / "model")),
        data=write_prompts(root / "prompts.jsonl"),
        output_dir=root / "out",
        steps=1,
        num_anchors=4,
        block_size=6,
        num_layers=1,
        num_features=2,
        train_vocab_size=0,
        max_new_tokens=12,
        held_back=0.2,
        dtype="float32",
        device="cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(root / "cache"))
        trainer.train(config)
    return config


@pytest.fixture
def asked(trained: TrainConfig, own_cache: Path) -> TuneConfig:
    assert trained.data is not None
    return TuneConfig(
        data=trained.data,
        drafter=f"uniform={trained.output_dir}/uniform",
        target=trained.target,
        block_sizes="2,4,6,16",
        num_prompts=2,
        max_new_tokens=8,
        dtype="float32",
        device="cpu",
    )


def _answer(num_tokens: int, decode_s: float) -> Decoded:
    return Decoded(
        new_tokens=tuple(range(num_tokens)),
        rounds=(),
        prefill_s=1.0,
        decode_s=decode_s,
        finish_reason="length",
        peak_memory_bytes=None,
    )


def test_the_size_with_the_most_tokens_a_second_over_all_answers_is_recommended() -> None:
    found = tuning.recommendation(
        {
            1: [_answer(11, 10.0), _answer(11, 10.0)],
            4: [_answer(11, 2.0), _answer(11, 8.0)],  # faster on one prompt, 20 tokens in 10 s
            8: [_answer(11, 4.0), _answer(11, 4.0)],  # 20 tokens in 8 s
        }
    )
    assert found == {"block_size": 8, "decode_speedups": {"4": 2.0, "8": 2.5}}


def test_what_was_found_is_noted_and_decoded_with(asked: TuneConfig, trained: TrainConfig) -> None:
    place = trained.output_dir / "uniform"
    before = json.loads((place / "training.json").read_text())
    directory, found = tuning.tune(asked)
    assert directory == place and found["num_prompts"] == 2
    assert set(found["decode_speedups"]) == {"2", "4", "6"}  # 16 is more than it was trained for
    after = json.loads((place / "training.json").read_text())
    assert after.pop("recommended_block_size") == {"cpu": found}
    assert after == before

    target = load_target(TargetOptions(name=trained.target, dtype="float32"))
    options = DrafterOptions.parse(asked.drafter)
    assert build(target, options).block_size == found["block_size"]
    assert build(target, dataclasses.replace(options, block_size=3)).block_size == 3
    note = {**after, "recommended_block_size": {"cuda": {"block_size": 2}}}
    (place / "training.json").write_text(json.dumps(note))
    assert build(target, options).block_size == 6  # a GPU's size says nothing of a CPU


def test_only_held_back_prompts_are_asked(
    asked: TuneConfig, trained: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(asked, num_prompts=1000)
    rows = tuning._held_back(asked, {"held_back": trained.held_back})
    told = {conversation[0]["content"] for conversation in rows}
    every = training_prompts(asked.data, "target").rows
    assert told == {row.prompt for row in every if is_held_back(row, trained.held_back)}
    assert 0 < len(told) < len(every)
    with pytest.raises(UserError, match="held back"):
        tuning._held_back(asked, {"held_back": 1e-9})


def test_what_cannot_be_tuned_is_a_sentence(
    asked: TuneConfig, trained: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for drafter, says in (
        ("ngram", "no block size to choose"),
        (f"{asked.drafter.replace('=', '+ddtree=')}", "no block size to choose"),
        ("combined", "has been trained"),
    ):
        with pytest.raises(UserError, match=says):
            tuning.tune(dataclasses.replace(asked, drafter=drafter))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for file in (trained.output_dir / "uniform").iterdir():
        if file.name != "training.json":
            (foreign / file.name).write_bytes(file.read_bytes())
    checkpoint.check("uniform", str(foreign), trained.target)
    with pytest.raises(UserError, match="was not trained here"):
        tuning.tune(dataclasses.replace(asked, drafter=f"uniform={foreign}"))
    for sizes in ("1,4", "four", ""):
        arguments = ["tune", "--data", str(asked.data), "--block-sizes", sizes]
        assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert "leaves nothing to draft" in said and "whole numbers" in said
