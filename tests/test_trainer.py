"""Training end to end on a tiny model: data, resume, shared order, checkpoints that decode."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from drafters.block_diffusion import features, trainer
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import build_corpus
from drafters.block_diffusion.data import batches
from drafters.block_diffusion.drafter import build
from drafters.block_diffusion.features import FeatureStore, LiveFeatures
from drafters.block_diffusion.model import build_target_layer_ids
from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from drafters.block_diffusion.optimizer import cosine_with_warmup
from drafters.block_diffusion.shape import drafter_config
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import (
    LOGGED,
    block_loss,
    initial_model,
    label_rows,
    start_from_target,
)
from drafters.block_diffusion.workbench import Workbench, open_workbench
from drafters.none import build as build_none
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from harness.user_cache import user_cache
from reports.spread_tables import recipe
from targets.base import TargetOptions
from targets.load import load_target
from tests.tiny_model import write_model, write_prompts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def one_thread(own_cache: Path) -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tiny, tmp_path):
    return TrainConfig(
        drafter="uniform,combined",
        target=str(tiny),
        data=write_prompts(tmp_path / "prompts.jsonl"),
        output_dir=tmp_path / "out",
        steps=8,
        batch_size=4,
        num_anchors=6,
        block_size=4,
        num_layers=1,
        num_features=2,
        train_vocab_size=0,
        max_new_tokens=20,
        held_back=0.2,
        dtype="float32",
        device="cpu",
        save_every=3,
    )


def weights(directory):
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def same(left, right):
    a, b = weights(left), weights(right)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_trains_and_decodes_losslessly(config):
    uniform, combined = trainer.train(config)
    assert not same(uniform, combined)
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    drafter = build(target, DrafterOptions(name="combined", argument=str(combined)))
    prompt = target.encode_chat([{"role": "user", "content": "w1 w2 w3"}])
    plain = generate(
        target,
        build_none(target, DrafterOptions(name="none")),
        prompt,
        sampling=Sampling(),
        max_new_tokens=30,
    )
    drafted = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=30)
    assert drafted.new_tokens == plain.new_tokens


def test_training_json_says_what_was_done(config):
    directory = trainer.train(config)[0]
    body = json.loads((directory / "training.json").read_text())
    assert body["objective"] == {
        "gamma": None,
        "alpha_focal": 0.0,
        "alpha_chain": 0.0,
        "ce_reduction": "weighted_mean",
        "alpha_ce": 1.0,
        "dpace_alpha": None,
        "ce_until_error": False,
        "distill": 0.0,
        "reward": "mean",
        "prefix_decay": None,
    }
    assert body["step"] == body["steps"] == 8
    assert body["seed"] == 0
    assert body["held_back"] == 0.2
    assert body["initial_weights"] == "target's last layers"
    assert body["data"]["num_sequences"] + body["data"]["num_held_back"] <= 24
    (file,) = body["data"]["files"]
    assert body["data"]["kind"] == "directory"
    assert body["data"]["name"] == file["location"] == "prompts.jsonl"
    assert file["revision"] is None
    assert file["sha256"] == hashlib.sha256(config.data.read_bytes()).hexdigest()
    assert len(body["data"]["sha256"]) == len(body["target"]["weights_sha256"]) == 64
    assert body["data"]["vocabulary_coverage"] == 1
    assert body["measured"][-1]["step"] == 8
    assert body["measured"][-1]["train_time_tau"] >= 1
    assert body["num_processes"] == 1
    assert all(np.isfinite(entry[name]) for entry in body["measured"] for name in LOGGED)


def test_another_seed_is_another_training_of_one_recipe(config, tmp_path):
    """Reports sum up trainings that share a recipe; every fact but the seed's own belongs to it."""

    def trained(name, **changes):
        changed = dataclasses.replace(
            config, drafter="uniform", steps=2, output_dir=tmp_path / name, **changes
        )
        (directory,) = trainer.train(changed)
        return directory, json.loads((directory / "training.json").read_text())

    (first, facts), (second, other) = trained("a"), trained("b", seed=1)
    assert not same(first, second) and (facts["seed"], other["seed"]) == (0, 1)
    assert recipe({}, facts) == recipe({}, other)
    _, slower = trained("c", learning_rate=1e-4)
    assert recipe({}, facts) != recipe({}, slower)


def test_a_checkpoint_names_the_vocabulary_it_was_trained_on(config):
    directory = trainer.train(dataclasses.replace(config, train_vocab_size=5))[0]
    kept = json.loads((directory / "draft_vocabulary.json").read_text())["token_ids"]
    assert len(kept) == 5
    whole = trainer.train(config)[0]
    assert not (whole / "draft_vocabulary.json").exists()


def test_the_mask_is_a_token_that_text_never_uses(config):
    directory = trainer.train(dataclasses.replace(config, steps=1))[0]
    body = json.loads((directory / "config.json").read_text())
    assert body["dflash_config"]["mask_token_id"] == 5  # <never>


class Stop(Exception):
    pass


def test_ctrl_c_finishes_the_step_and_resumes(config, tmp_path, monkeypatch):
    expected = trainer.train(config)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "second"))
    again = dataclasses.replace(config, output_dir=tmp_path / "again")
    real, calls = trainer.block_loss, 0

    def interrupt(*args):
        nonlocal calls
        calls += 1
        if calls == 3:  # amid the second step: each takes one call a variant
            signal.raise_signal(signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(trainer, "block_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(again)
    snapshots = list((tmp_path / "second" / "training").glob("*.pt"))
    assert [torch.load(path)["step"] for path in snapshots] == [2, 2]
    monkeypatch.setattr(trainer, "block_loss", real)
    for left, right in zip(expected, trainer.train(again), strict=True):
        assert same(left, right)


@pytest.mark.parametrize("at", [1, 3, 5])
def test_interrupted_and_resumed_ends_in_the_same_weights(config, tmp_path, monkeypatch, at):
    expected = trainer.train(config)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "second"))
    again = dataclasses.replace(config, output_dir=tmp_path / "again")
    real, calls = Workbench.passes, 0

    def stop(*args):
        nonlocal calls
        calls += 1
        if calls > at:
            raise Stop
        return real(*args)

    monkeypatch.setattr(Workbench, "passes", stop)
    with pytest.raises(Stop):
        trainer.train(again)
    monkeypatch.setattr(Workbench, "passes", real)
    for left, right in zip(expected, trainer.train(again), strict=True):
        assert same(left, right)


def test_a_variant_trained_alone_equals_the_one_trained_beside_others(config, tmp_path):
    _, combined = trainer.train(config)
    alone = dataclasses.replace(config, drafter="combined", output_dir=tmp_path / "alone")
    # A cache of its own, or the finished snapshot would be taken up.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "second"))
        assert same(combined, trainer.train(alone)[0])


def test_passes_of_a_step_add_up(config, monkeypatch):
    """Two passes weigh by their blocks; with one term and full blocks that is one pass."""
    bench = open_workbench(config, ())
    indices = next(bench.order(config))
    head, objective = bench.head, OBJECTIVES["uniform"]
    model = initial_model(drafter_config(bench.target, config, head.scales), head, 0, torch.float32)

    def gradient(config):
        passes = [part for part in bench.passes(indices, 0, config) if part is not None]
        own = [float(part.blocks.valid[:, 0].sum()) for part in passes]
        model.zero_grad()
        for part, count in zip(passes, own, strict=True):
            loss = block_loss(model, part.blocks, part.features, head, objective)
            (loss.chain_reward * count / sum(own)).backward()
        return len(passes), model.fc.weight.grad.clone()

    (one, whole), (two, parts) = (
        gradient(dataclasses.replace(config, micro_batch=size)) for size in (None, 3)
    )
    assert (one, two) == (1, 2)
    torch.testing.assert_close(parts, whole)
    assert whole.abs().max() > 0


def test_small_passes_train_as_large_ones(config, tmp_path):
    """But for the weight of the last blocks, which are short, and rounding."""
    curves = []
    for name, size in (("whole", None), ("parts", 2)):
        changed = dataclasses.replace(config, micro_batch=size, output_dir=tmp_path / name)
        body = json.loads((trainer.train(changed)[1] / "training.json").read_text())
        assert body["micro_batch"] == size
        curves.append([entry["loss"] for entry in body["measured"]])
    np.testing.assert_allclose(*curves, rtol=0.05)


def test_features_made_anew_are_the_stored_ones(config, tmp_path):
    bench = open_workbench(dataclasses.replace(config, features="disk"), ())
    live = open_workbench(dataclasses.replace(config, features="none"), ())
    assert isinstance(bench.corpus.features, FeatureStore)
    assert isinstance(live.corpus.features, LiveFeatures)
    assert torch.equal(bench.corpus.scale, live.corpus.scale)
    indices = [5, 2, 9]
    stored, made = bench.corpus.features.packed(indices), live.corpus.features.packed(indices)
    assert len(stored) == sum(len(bench.corpus.sequences[i].ids) for i in indices)
    # Batches of other widths round otherwise; bfloat16 then differs by a unit in the last place.
    torch.testing.assert_close(stored, made, rtol=1e-2, atol=1e-3)


def test_a_distilled_variant_sees_the_targets_distribution(config):
    """The cross-entropy is written out here, from the target's own logits."""
    objective = Objective(distill=1, description="")
    bench = open_workbench(config, [objective])
    part = bench.passes(next(bench.order(config)), 0, config)[0]
    assert part is not None and part.expected is not None
    model = initial_model(
        drafter_config(bench.target, config, bench.head.scales), bench.head, 0, torch.float32
    )
    loss = block_loss(
        model, part.blocks, part.features, bench.head, objective, expected=part.expected
    )
    hidden, _, valid = label_rows(model, part.blocks, part.features, bench.head)
    log_q = (hidden @ bench.head.lm_head.T).log_softmax(-1)
    indices = next(bench.order(config))
    logits = []
    for owner, index in enumerate(indices):
        ids = torch.tensor([bench.corpus.sequences[index].ids])
        every = bench.target.model(input_ids=ids, use_cache=False).logits[0]
        mine = part.blocks.owner == owner
        places = part.blocks.anchors[mine][:, None] + torch.arange(config.block_size - 1)
        logits.append(every[places[valid[mine]]])
    expected = -(torch.cat(logits).softmax(-1) * log_q).sum(-1).mean()
    assert loss.cross_entropy.item() == pytest.approx(expected.item(), rel=1e-2)
    trained = trainer.train_variants(bench, config, {"soft": objective})[0]
    assert trained.history[-1]["cross_entropy"] < loss.cross_entropy.item()


def test_dividing_by_the_scale_loses_nothing(config):
    bench = open_workbench(config, ())
    scale = bench.corpus.scale
    assert torch.equal(scale.log2().round().exp2(), scale)
    raw = bench.corpus.features.packed([1, 2]).float()
    assert torch.equal(bench.features([1, 2]).float() * scale, raw)


def test_without_room_features_are_made_anew_and_that_is_said(config, monkeypatch, caplog):
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda path: full)
    bench = open_workbench(config, ())
    assert isinstance(bench.corpus.features, LiveFeatures)
    assert "computed at every step" in caplog.text


def test_bfloat16_trains_as_float32_does(config, tmp_path):
    curves = []
    for dtype in ("float32", "bfloat16"):
        changed = dataclasses.replace(
            config, dtype=dtype, steps=40, drafter="combined", output_dir=tmp_path / dtype
        )
        body = json.loads((trainer.train(changed)[0] / "training.json").read_text())
        curves.append([entry["cross_entropy"] for entry in body["measured"]])
    np.testing.assert_allclose(*curves, rtol=0.03)
    assert curves[0][-1] < curves[0][0]


def test_all_trains_the_five(config):
    config = dataclasses.replace(config, drafter="all", steps=2)
    names = [path.name for path in trainer.train(config)]
    assert names == ["uniform", "positional", "focal", "chain", "combined"]


def test_loss_falls(config):
    config = dataclasses.replace(config, drafter="uniform", steps=60, learning_rate=5e-3)
    body = json.loads((trainer.train(config)[0] / "training.json").read_text())
    history = [entry["train_time_tau"] for entry in body["measured"]]
    assert history[-1] > history[0]


def test_responses_and_features_are_computed_once(config, monkeypatch):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    layers = build_target_layer_ids(target.num_layers, 2)
    first = build_corpus(config, target, layers)
    monkeypatch.setattr(target, "features_of", None)
    monkeypatch.setattr(BatchGenerator, "generate", None)
    second = build_corpus(config, target, layers)
    assert first.sequences == second.sequences
    assert torch.equal(first.features.get(3), second.features.get(3))


def test_stored_features_are_the_targets(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    layers = build_target_layer_ids(target.num_layers, 2)
    corpus = build_corpus(config, target, layers)
    ids = torch.tensor([corpus.sequences[2].ids])
    expected = target.features_of(ids, torch.ones_like(ids), layers)[0]
    torch.testing.assert_close(corpus.features.get(2), expected.bfloat16())


def test_responses_are_the_targets_own(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    corpus = build_corpus(config, target, build_target_layer_ids(target.num_layers, 2))
    none = build_none(target, DrafterOptions(name="none"))
    for sequence in corpus.sequences[:4]:
        prompt = list(sequence.ids[: sequence.start])
        answer = generate(target, none, prompt, sampling=Sampling(), max_new_tokens=20)
        assert answer.new_tokens == sequence.ids[sequence.start :]


def test_a_torn_line_of_the_response_cache_is_made_again(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    layers = build_target_layer_ids(target.num_layers, 2)
    first = build_corpus(config, target, layers)
    (cache,) = (user_cache() / "responses").glob("*.jsonl")
    whole = cache.read_text().splitlines()
    cache.write_text("\n".join([*whole[:3], whole[3][:20]]))
    assert build_corpus(config, target, layers).sequences == first.sequences
    assert sorted(cache.read_text().splitlines()) == sorted(whole)


def test_held_back_prompts_are_never_drawn(config):
    bench = open_workbench(config, ())
    corpus = bench.corpus
    assert not set(corpus.train) & set(corpus.held_back)
    order = bench.order(config)
    drawn = {index for _ in range(40) for index in next(order)}
    assert drawn == set(corpus.train)


def test_an_epoch_holds_every_sequence_once_and_depends_on_the_seed():
    lengths = [5 + (7 * i) % 31 for i in range(50)]
    first, other = (
        np.concatenate(list(itertools.islice(batches(lengths, 4, seed), 13))) for seed in (0, 1)
    )
    assert sorted(first) == list(range(50))
    assert not np.array_equal(first, other)


def test_schedule():
    values = [cosine_with_warmup(step, 100, 0.1) for step in range(100)]
    assert values[9] == 1
    assert values[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(values[9:]))
    assert 0 < values[-1] < 0.001


def test_responses_of_another_tokenizer_are_refused(config, tmp_path):
    path = tmp_path / "foreign.jsonl"
    rows = [{"prompt": f"w{i}", "response_ids": [9000, 1, 2]} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="another tokenizer"):
        trainer.train(dataclasses.replace(config, data=path))


def test_weights_start_as_the_targets_last_layers(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(drafter_config(target, config, head.scales), head, 0, torch.float32)
    scale = torch.linspace(1, 2, 2 * target.hidden_size)
    assert start_from_target(model, target, scale)
    last = target.decoder_layers[-1]
    assert torch.equal(model.layers[0].mlp.up_proj.weight, last.mlp.up_proj.weight)
    assert torch.equal(model.hidden_norm.weight, last.input_layernorm.weight)
    # In units of the scaled features, fc hands on the last layer's raw ones.
    raw = torch.randn(3, 2 * target.hidden_size)
    torch.testing.assert_close(model.fc(raw / scale), raw[:, target.hidden_size :])


def test_a_narrower_mlp_starts_as_the_targets_strongest_units(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    mlp = target.decoder_layers[-1].mlp
    width = mlp.up_proj.weight.shape[0]
    kept = [1, 2, width - 1]
    with torch.no_grad():
        mlp.down_proj.weight[:, kept] *= 1000
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    shape = drafter_config(target, dataclasses.replace(config, mlp_width=3), head.scales)
    model = initial_model(shape, head, 0, torch.float32)
    assert start_from_target(model, target, torch.ones(2 * target.hidden_size))
    own = model.layers[0].mlp
    assert torch.equal(own.gate_proj.weight, mlp.gate_proj.weight[kept])
    assert torch.equal(own.up_proj.weight, mlp.up_proj.weight[kept])
    assert torch.equal(own.down_proj.weight, mlp.down_proj.weight[:, kept])


def test_weights_stay_random_where_the_layers_differ(config):
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    shape = drafter_config(target, config, head.scales)
    model = initial_model(dataclasses.replace(shape, intermediate_size=99), head, 0, torch.float32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert not start_from_target(model, target, torch.ones(2 * target.hidden_size))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
