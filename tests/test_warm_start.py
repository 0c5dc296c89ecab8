"""Trainings that go on from a checkpoint, and trainings that share a cache of features."""

import dataclasses
import json
import threading

import pytest
import torch
from safetensors.torch import load_file

from drafters import train as trainers
from drafters.block_diffusion import checkpoint, trainer
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.features import build_store
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.warm_start import find_start, started_model
from harness.errors import UserError
from reports.evidence import _steps
from targets.base import TargetOptions
from targets.digest import weights_digest
from targets.load import load_target
from tests.tiny_model import write_model, write_prompts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def first(tiny, tmp_path_factory):
    """Settings of a training, and the checkpoints it left."""
    root = tmp_path_factory.mktemp("first")
    config = TrainConfig(
        drafter="uniform,combined",
        target=str(tiny),
        data=write_prompts(root / "prompts.jsonl"),
        output_dir=root / "out",
        steps=3,
        batch_size=4,
        num_anchors=4,
        block_size=4,
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
def going_on(first, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    return dataclasses.replace(
        first, start_from=first.output_dir, output_dir=tmp_path / "out", block_size=6
    )


def test_a_drafter_drafts_as_the_checkpoint_it_starts_from(going_on):
    target = load_target(TargetOptions(name=going_on.target, dtype="float32"))
    found = find_start("combined", going_on, target)
    scale = torch.rand(2 * target.hidden_size) + 0.5
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = started_model(found, going_on, scale, torch.float32, head)
    assert model.config == dataclasses.replace(found.model.config, block_size=6)
    features = torch.randn(1, 9, 2 * target.hidden_size)
    torch.testing.assert_close(model.context(features / scale), found.model.context(features))
    own, its = model.state_dict(), found.model.state_dict()
    same = {name for name in its if torch.equal(own[name], its[name])}
    assert its.keys() - same == {"fc.weight"}


def test_each_variant_goes_on_from_its_own_checkpoint_and_says_so(first, going_on):
    still = dataclasses.replace(going_on, learning_rate=1e-9)
    for directory in trainer.train(still):
        start = first.output_dir / directory.name
        before, after = (load_file(place / "model.safetensors") for place in (start, directory))
        for name, value in before.items():
            torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6)
        body = json.loads((directory / "training.json").read_text())
        assert body["initial_weights"] == "a checkpoint"
        assert body["start_from"] == {
            "weights_sha256": weights_digest([start / "model.safetensors"]),
            "training": json.loads((start / "training.json").read_text()),
        }
        assert body["block_size"] == 6 and body["start_from"]["training"]["block_size"] == 4
        assert str(first.output_dir) not in json.dumps(body)
        cell = _steps(body)
        assert (cell.text, cell.value) == ("3 after 3", 6)


def test_a_single_checkpoint_serves_every_variant(first, going_on):
    one = dataclasses.replace(going_on, start_from=first.output_dir / "uniform")
    facts = [
        json.loads((directory / "training.json").read_text())["start_from"]["training"]["name"]
        for directory in trainer.train(one)
    ]
    assert facts == ["uniform", "uniform"]


def test_another_start_is_another_training(first, going_on):
    """A snapshot is not taken up by a training that began elsewhere."""
    cold = dataclasses.replace(going_on, start_from=None, drafter="uniform")
    warm = dataclasses.replace(going_on, drafter="uniform", output_dir=going_on.output_dir / "warm")
    weights = [load_file(trainer.train(c)[0] / "model.safetensors") for c in (cold, warm)]
    assert not torch.equal(weights[0]["fc.weight"], weights[1]["fc.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_layers": 2}, "--num-layers 1"),
        ({"num_features": 1}, "--num-features 2"),
        ({"mlp_width": 7}, "leave out --mlp-width"),
        ({"drafter": "focal"}, "no checkpoint to start focal from"),
    ],
)
def test_what_cannot_be_started_from_is_a_sentence(going_on, change, words):
    with pytest.raises(UserError, match=words):
        trainer.train(dataclasses.replace(going_on, **change))


def test_layers_that_only_decode_are_refused(first, going_on, tmp_path):
    target = load_target(TargetOptions(name=going_on.target, dtype="float32"))
    source = first.output_dir / "uniform"
    body = json.loads((source / "config.json").read_text())
    body |= {"layer_types": ["sliding_attention"], "sliding_window": 8}
    body["use_sliding_window"] = True
    place = tmp_path / "sliding"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(body))
    (place / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    assert checkpoint.load(str(place), target).model.config.spans
    with pytest.raises(UserError, match="decode only"):
        find_start("uniform", dataclasses.replace(going_on, start_from=place), target)


def test_only_block_diffusion_drafters_go_on(going_on):
    asked = dataclasses.replace(going_on, drafter="uniform,student")
    with pytest.raises(UserError, match="student is none"):
        trainers.train(asked)


def test_features_wanted_by_two_at_once_are_computed_once(tmp_path):
    sequences = [tuple(range(1, length)) for length in (5, 7, 4, 9)]
    seen, entered = [], threading.Event()

    def compute(ids, mask):
        seen.extend(tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True))
        entered.wait(0.2)  # time for the other to come in, if it could
        return ids[..., None].expand(*ids.shape, 3).float()

    stores = []

    def open_store():
        stores.append(build_store(tmp_path, sequences, 3, compute, batch_tokens=16))

    threads = [threading.Thread(target=open_store) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(sequences)
    for store in stores:
        for index, ids in enumerate(sequences):
            assert store.get(index)[:, 0].tolist() == list(ids)
