"""Training of a diffusion LM: what it is shown, that it learns, that stopping changes nothing."""

from __future__ import annotations

import dataclasses
import json
import signal
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from drafters import train as dispatch
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import TrainingSequence, draw_anchors
from drafters.build import build_drafter
from drafters.diffusion_lm import trainer
from drafters.diffusion_lm.denoiser import AdaptedTarget, private_decoder
from drafters.diffusion_lm.drafter import DiffusionDrafter
from drafters.diffusion_lm.low_rank import merge
from drafters.diffusion_lm.masking import Masking, pack
from drafters.ngram_model import NgramModel
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_target
from tests.sittings import Sitting
from tests.tiny_model import write_model, write_prompts

MASK, STOP = 99, 2
MASKING = Masking(mask_token_id=MASK, longest=6, stop_ids=frozenset({STOP}), max_context=20)
ENDED = TrainingSequence((10, 11, 12, 13, 14, 15, STOP), 3)
CUT = TrainingSequence((10, 11, 12, 13, 14, 15, 16), 3)


def test_a_block_shows_nothing_behind_its_masks() -> None:
    view = MASKING.block(CUT, 4, 5)
    assert view.ids.tolist() == [10, 11, 12, 13, 14, *[MASK] * 5]
    assert view.places.tolist() == [5, 6] and view.labels.tolist() == [15, 16]
    assert view.weights.tolist() == [0.5, 0.5]


def test_behind_the_end_the_stop_token_goes_on() -> None:
    view = MASKING.block(ENDED, 4, 5)
    assert view.labels.tolist() == [15, STOP, STOP, STOP, STOP]
    assert view.places.tolist() == [5, 6, 7, 8, 9]
    assert view.weights.sum() == pytest.approx(1)


def test_a_block_stays_within_the_context() -> None:
    small = dataclasses.replace(MASKING, max_context=7)
    assert len(small.block(ENDED, 4, 5).ids) == 7


@given(seed=st.integers(0, 10_000))
def test_masks_at_random_are_the_responses_own(seed: int) -> None:
    view = MASKING.at_random(ENDED, np.random.default_rng(seed))
    ids = np.array(ENDED.ids)
    assert (view.places >= ENDED.start).all()
    assert view.labels.tolist() == ids[view.places].tolist()
    ids[view.places] = MASK
    assert view.ids.tolist() == ids.tolist()
    assert (view.weights <= 1).all() and (view.weights >= 0.25).all()


def test_masks_at_random_weigh_as_llada_has_it() -> None:
    """E[Σ 1 / (t · N)] over t ~ U(0, 1) is 1, and each token is masked half of the time."""
    views = [MASKING.at_random(ENDED, np.random.default_rng(i)) for i in range(4000)]
    assert np.mean([view.weights.sum() for view in views]) == pytest.approx(1, abs=0.05)
    # t is 1/4 at least: (1/4)² + ∫ from 1/4 to 1 of t dt.
    share = np.mean([len(view.places) / 4 for view in views])
    assert share == pytest.approx(1 / 16 + (1 - 1 / 16) / 2, abs=0.02)


def test_views_are_of_both_forms_and_of_the_lengths_a_draft_has() -> None:
    long = TrainingSequence(tuple(range(10, 22)), 3)
    drawn = [MASKING.draw(long, np.random.default_rng(i)) for i in range(800)]
    tails = [int((view.ids[::-1] != MASK).argmax()) for view in drawn]
    longer = {
        tail for view, tail in zip(drawn, tails, strict=True) if len(view.ids) > len(long.ids)
    }
    assert longer == {4, 5, 6}
    # A response masked at random ends in four masks, too, once in five times: E[t⁴].
    assert np.mean([tail >= 4 for tail in tails]) == pytest.approx(0.75 + 0.25 / 5, abs=0.05)


@pytest.mark.parametrize("shifted", [True, False])
def test_packed_rows_are_those_that_speak_of_the_places(shifted: bool) -> None:
    views = [MASKING.block(CUT, 4, 2), MASKING.block(ENDED, 3, 3)]
    packed = pack(views, torch.device("cpu"), shifted=shifted)
    assert packed.lengths == (7, 7)
    assert packed.ids.tolist() == [*views[0].ids, *views[1].ids]
    assert (packed.rows + shifted).tolist() == [5, 6, 7 + 4, 7 + 5, 7 + 6]
    assert packed.labels.tolist() == [15, 16, 14, 15, STOP]
    assert packed.weights.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def config(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return TrainConfig(
        drafter="dlm",
        target=str(tiny),
        data=write_prompts(tmp_path / "prompts.jsonl"),
        output_dir=tmp_path / "out",
        steps=8,
        batch_size=4,
        block_size=7,
        max_new_tokens=20,
        held_back=0.2,
        dtype="float32",
        device="cpu",
        save_every=3,
    )


def trained(config: TrainConfig, **changes: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    (directory,) = trainer.train(dataclasses.replace(config, **changes))
    body = json.loads((directory / "training.json").read_text())
    return load_file(directory / "model.safetensors"), body


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_it_learns_and_drafts_losslessly(config: TrainConfig, tmp_path: Path) -> None:
    weights, body = trained(config, steps=80, batch_size=8, learning_rate=5e-3)
    losses = [entry["loss"] for entry in body["measured"]]
    assert np.mean(losses[-2:]) < 0.85 * losses[0]  # of ten steps each
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    assert any(value.abs().max() > 0 for key, value in weights.items() if key.endswith(".up"))

    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    prompt = target.encode_chat([{"role": "user", "content": "w1 w2 w3"}])
    plain = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=30)
    assert config.output_dir is not None
    for name in ("dlm", "diffuspec"):
        options = DrafterOptions(name=name, argument=str(config.output_dir / "dlm"))
        drafter = build_drafter(target, options)
        done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=30)
        assert done.new_tokens == plain.new_tokens


def test_training_json_says_what_was_done(config: TrainConfig) -> None:
    _, body = trained(config, steps=2)
    assert body["name"] == "dlm"
    assert body["method"] == {
        "rank": 32,
        "shifted": True,
        "mask_token_id": 5,  # <never>
        "random_share": 0.25,
    }
    assert (body["step"], body["steps"], body["seed"], body["block_size"]) == (2, 2, 0, 7)
    assert len(body["data"]["sha256"]) == len(body["target"]["weights_sha256"]) == 64
    assert body["data"]["files"][0]["location"] == "prompts.jsonl"
    assert body["measured"][-1]["step"] == 2
    assert "num_anchors" not in body and "objective" not in body


def test_the_ngram_model_is_of_the_responses_trained_on(config: TrainConfig) -> None:
    trained(config, steps=1)
    assert config.output_dir is not None
    bench = trainer.open_bench(config)
    sequences = [bench.data.sequences[i] for i in bench.data.train]
    expected = NgramModel.fit(sequences, bench.target.vocab_size)
    found = NgramModel.load(config.output_dir / "dlm", bench.target.vocab_size)
    assert np.array_equal(found.trigrams, expected.trigrams)
    assert np.array_equal(found.counts, expected.counts)


def test_interrupted_and_resumed_ends_in_the_same_weights(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = trained(config)
    real, calls = trainer.take_step, 0

    def interrupt(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
        if calls == 7:
            raise OSError("the machine goes down")
        real(*args)

    again = dataclasses.replace(config, output_dir=tmp_path / "again")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "second"))
    monkeypatch.setattr(trainer, "take_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(again)
    (snapshot,) = (tmp_path / "second" / "training").glob("dlm-*.pt")
    assert torch.load(snapshot)["step"] == 2
    with pytest.raises(OSError):
        trainer.train(again)
    assert torch.load(snapshot)["step"] == 6
    monkeypatch.setattr(trainer, "take_step", real)
    found, _ = trained(again)
    assert_same(found, expected)


def test_two_processes_train_as_one(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (1, 2):
        root = tmp_path / str(size)
        monkeypatch.setenv("HARNESS_CACHE_DIR", str(root / "cache"))
        asked = {"steps": 4, "batch-size": 3, "block-size": 7, "max-new-tokens": 16}
        numbers = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        arguments = [
            *("train", "--drafter", "dlm", "--target", config.target, "--data", str(config.data)),
            *("--output-dir", str(root), "--dtype", "float32", "--device", "cpu", *numbers),
        ]
        sitting = Sitting(arguments, root / "log", size)
        assert sitting.wait(120)
        assert sitting.statuses == [0] * size, (root / "log.err0").read_text()
        found.append(json.loads((root / "dlm" / "training.json").read_text()))
    one, two = found
    assert (one["num_processes"], two["num_processes"]) == (1, 2)
    for left, right in zip(one["measured"], two["measured"], strict=True):
        assert left == pytest.approx(right, rel=1e-3)


def test_small_passes_are_a_large_one(config: TrainConfig, tmp_path: Path) -> None:
    (_, whole), (_, parts) = (
        trained(config, steps=3, micro_batch=size, output_dir=tmp_path / str(size))
        for size in (None, 1)
    )
    losses = [[entry["loss"] for entry in body["measured"]] for body in (whole, parts)]
    assert len(losses[0]) == 3
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_train_time_tau_is_what_the_drafter_would_get(config: TrainConfig) -> None:
    bench = trainer.open_bench(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for factor in bench.factors.values():
            factor.copy_(0.05 * torch.randn(factor.shape, generator=draw))
    decoder = private_decoder(bench.target)
    merge(decoder, bench.factors)
    denoiser = AdaptedTarget(decoder, bench.target, shifted=True)
    drafter = DiffusionDrafter(denoiser, bench.target, bench.masking.mask_token_id, 7)
    accepted = []
    for index in bench.data.held_back:
        sequence = bench.data.sequences[index]
        for anchor in draw_anchors(sequence, 2, np.random.default_rng(0)).tolist():
            drafter.reset()
            proposal = drafter.propose(sequence.ids[:anchor], sequence.ids[anchor], 100)
            pairs = zip(proposal.tokens.tolist(), sequence.ids[anchor + 1 :], strict=False)
            accepted.append(len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))))
    assert trainer.measure(bench) == pytest.approx(1 + np.mean(accepted))
    assert max(accepted) > 0


def test_another_seed_is_another_training(config: TrainConfig, tmp_path: Path) -> None:
    first, _ = trained(config, steps=2)
    other, _ = trained(config, steps=2, seed=1, output_dir=tmp_path / "other")
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 3}, {"num_anchors": 4}, {"train_vocab_size": 0}, {"features": "none"}],
)
def test_flags_without_meaning_are_refused(config: TrainConfig, changes: dict[str, Any]) -> None:
    flag = next(iter(changes)).replace("_", "-")
    with pytest.raises(UserError, match=f"--{flag} has no meaning for dlm"):
        trainer.train(dataclasses.replace(config, **changes))


def test_names_go_to_their_trainers(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def noted(which: str) -> Any:
        return lambda config: [asked.append((which, config.drafter)) or Path(which)]

    monkeypatch.setattr("drafters.block_diffusion.trainer.train", noted("blocks"))
    monkeypatch.setattr("drafters.diffusion_lm.trainer.train", noted("dlm"))

    def made(names: str) -> list[Path]:
        asked.clear()
        return dispatch.train(dataclasses.replace(config, drafter=names))

    assert made("all") == [Path("blocks")] and asked == [("blocks", "all")]
    assert made("combined, dlm,uniform,dlm") == [Path("blocks"), Path("dlm")]
    assert asked == [("blocks", "combined,uniform"), ("dlm", "dlm")]
    assert made("diffuspec") == [Path("dlm")]
    with pytest.raises(UserError, match="unknown objective 'ngram'"):
        made("ngram")
    assert asked == []
