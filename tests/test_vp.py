"""The objective of D²SD's second drafter: what it is shown and taught, and that it trains."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from drafters.block_diffusion import trainer
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import (
    TrainingSequence,
    draw_anchors,
    make_blocks,
    visible_prefix,
)
from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model, label_rows, teacher_rows
from drafters.block_diffusion.workbench import Workbench, open_workbench
from drafters.build import build_drafter
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_target
from tests import toy
from tests.test_block_diffusion import small_config
from tests.test_trainer import Stop, weights
from tests.tiny_model import write_model, write_prompts

VP = OBJECTIVES["vp"]


def test_vp_is_the_published_row() -> None:
    assert (VP.gamma, VP.prefix_decay, VP.ce_reduction) == (7, 0.9, "weighted_mean")
    plain = Objective(gamma=7, prefix_decay=0.9, description=VP.description)
    assert plain == VP


# What is shown


@pytest.mark.parametrize(("decay", "depth"), [(0.9, 5), (0.5, 3), (1, 7), (0.9, 2)])
def test_visible_prefixes_are_drawn_in_a_falling_series(decay: float, depth: int) -> None:
    coins = torch.from_numpy(np.random.default_rng(0).random(20_000))
    counts = torch.bincount(visible_prefix(coins, decay, depth), minlength=depth)
    assert len(counts) == depth
    series = np.array([decay**j for j in range(depth)])
    assert chisquare(counts.numpy(), len(coins) * series / series.sum()).pvalue > 1e-4
    edges = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert visible_prefix(edges, decay, depth).tolist() == [0, depth - 1]
    assert visible_prefix(edges, decay, 1).tolist() == [0, 0]


@pytest.fixture
def target() -> toy.ToyTarget:
    return toy.qwen3()


BLOCK = 6
SEQUENCES = [TrainingSequence(tuple(range(3, 20)), 5), TrainingSequence(tuple(range(40, 52)), 4)]
ANCHORS = [np.array([5, 8, 9, 15]), np.array([4, 6])]
VISIBLE = torch.tensor([0, 3, 4, 1, 2, 4])
"""The fourth block has one label, which is shown: nothing of it is left to learn."""


def made(target: toy.ToyTarget, vocabulary: torch.Tensor):
    head = SharedHead.of(target, vocabulary)
    config = small_config(target, BLOCK)
    model = initial_model(config, head, seed=2, dtype=torch.float64).eval()
    for name in ("embedding", "lm_head"):
        head = dataclasses.replace(head, **{name: getattr(head, name).double()})
    blocks = make_blocks(SEQUENCES, ANCHORS, BLOCK)
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(
        sum(blocks.lengths), 2 * target.hidden_size, generator=draw, dtype=torch.float64
    )
    return model, blocks, features, head


def log_q_alone(model, head, features, sequence, anchor, shown):
    """``[K, V']`` of one block by itself, its ids written out."""
    ids = torch.full((1, BLOCK), model.config.mask_token_id)
    kept = torch.tensor(sequence.ids[anchor : anchor + 1 + shown])
    ids[0, : len(kept)] = kept
    alone = make_blocks([sequence], [np.array([anchor])], BLOCK)
    with torch.no_grad():
        outputs = model(head.embedding[ids], features, alone)[0]
    return (outputs @ head.lm_head.T).log_softmax(-1)


@pytest.mark.parametrize("some", (False, True))
def test_the_loss_is_that_written_out(target, some) -> None:
    """Eq. 7 by hand: offsets behind the visible ones, weights that count from there."""
    vocabulary = torch.arange(0, toy.VOCAB, 3 if some else 1)
    model, blocks, features, head = made(target, vocabulary)
    loss = block_loss(model, blocks, features, head, VP, visible=VISIBLE)
    total, mass, block = 0.0, 0.0, 0
    rows = features.split([len(s.ids) for s in SEQUENCES])
    for sequence, chosen, own in zip(SEQUENCES, ANCHORS, rows, strict=True):
        for anchor in chosen.tolist():
            shown = int(VISIBLE[block])
            log_q = log_q_alone(model, head, own, sequence, anchor, shown)
            for k in range(shown + 1, BLOCK):
                if anchor + k < len(sequence.ids):
                    row = int(head.label_of[sequence.ids[anchor + k]])
                    if row >= 0:
                        weight = math.exp(-(k - shown - 1) / 7)
                        total -= weight * float(log_q[k, row])
                        mass += weight
            block += 1
    assert float(loss.total) == pytest.approx(total / mass, rel=1e-5)
    assert loss.total.requires_grad


def test_what_is_shown_is_seen_and_what_is_not_is_not(target) -> None:
    """Outputs follow the visible labels and no other."""
    model, blocks, features, head = made(target, torch.arange(toy.VOCAB))
    before = model.drafts(blocks, features, head.embedding, VISIBLE)
    for k in range(BLOCK - 1):
        labels = blocks.labels.clone()
        labels[:, k] = (labels[:, k] + 7) % 60
        changed = dataclasses.replace(blocks, labels=labels)
        after = model.drafts(changed, features, head.embedding, VISIBLE)
        same_rows = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same_rows == [shown <= k for shown in VISIBLE.tolist()]
    nothing = torch.zeros_like(VISIBLE)
    shown_none = model.drafts(blocks, features, head.embedding, nothing)
    assert torch.equal(shown_none, model.drafts(blocks, features, head.embedding))


def test_nothing_visible_is_the_plain_loss_bit_for_bit(target) -> None:
    model, blocks, features, head = made(target, torch.arange(toy.VOCAB))
    plain = block_loss(model, blocks, features, head, Objective(gamma=7))
    none = block_loss(model, blocks, features, head, VP, visible=torch.zeros_like(VISIBLE))
    for field in dataclasses.fields(plain):
        assert torch.equal(getattr(plain, field.name), getattr(none, field.name))


def test_labels_outputs_and_teachers_move_together(target) -> None:
    model, blocks, features, head = made(target, torch.arange(toy.VOCAB))
    hidden, labels, valid = label_rows(model, blocks, features, head, VISIBLE)
    assert valid.sum(1).tolist() == [5, 2, 1, 0, 3, 1]
    ids = torch.tensor([*SEQUENCES[0].ids, *SEQUENCES[1].ids])
    assert torch.equal(ids[teacher_rows(blocks, VISIBLE)][valid] + 1, labels)
    out = model.drafts(blocks, features, head.embedding, VISIBLE)
    expected = torch.cat(
        [out[n, shown : shown + int(valid[n].sum())] for n, shown in enumerate(VISIBLE)]
    )
    assert torch.equal(hidden, expected)


def test_an_objective_is_shown_what_it_asks_for(target) -> None:
    model, blocks, features, head = made(target, torch.arange(toy.VOCAB))
    for objective, visible in ((VP, None), (OBJECTIVES["uniform"], VISIBLE)):
        with pytest.raises(AssertionError):
            block_loss(model, blocks, features, head, objective, visible=visible)


# The trainer


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> TrainConfig:
    root = tmp_path_factory.mktemp("vp")
    return TrainConfig(
        drafter="vp",
        target=str(write_model(root / "model")),
        data=write_prompts(root / "prompts.jsonl"),
        steps=8,
        batch_size=4,
        num_anchors=6,
        block_size=5,
        num_layers=1,
        num_features=2,
        train_vocab_size=0,
        max_new_tokens=20,
        held_back=0.2,
        dtype="float32",
        device="cpu",
        save_every=3,
    )


@pytest.fixture(scope="module")
def bench(config, tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield open_workbench(config, ())


def trained(bench, config, names, snapshots):
    """Weights after a training in step, by name."""
    objectives = {name: OBJECTIVES[name] for name in names}
    variants = trainer.train_variants(bench, config, objectives, snapshots)
    return {item.name: item.model.state_dict() for item in variants}


def alike(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_draws_follow_seed_step_and_sequence_alone(bench, config) -> None:
    """Anchors are those that were drawn before there were coins; passes cut neither short."""
    order = bench.order(config)
    drawn = []
    for step in range(60):
        indices = next(order)
        [whole] = bench.passes(indices, step, config)
        anchors = [
            draw_anchors(bench.corpus.sequences[i], 6, np.random.default_rng([0, step, i]))
            for i in indices
        ]
        assert whole.blocks.anchors.tolist() == np.concatenate(anchors).tolist()
        parts = bench.passes(indices, step, dataclasses.replace(config, micro_batch=1))
        assert torch.equal(torch.cat([part.coins for part in parts]), whole.coins)
        assert whole.visible(OBJECTIVES["uniform"]) is None
        drawn.append(whole.visible(VP))
    counts = torch.bincount(torch.cat(drawn), minlength=4).numpy()
    series = np.array([0.9**j for j in range(4)])
    assert counts.sum() > 1000
    assert chisquare(counts, counts.sum() * series / series.sum()).pvalue > 1e-4
    [other] = bench.passes(indices, step, dataclasses.replace(config, seed=1))
    assert not torch.equal(other.coins, whole.coins)


def test_variants_beside_a_vp_are_those_without_it(bench, config, tmp_path) -> None:
    """All five, bit for bit; and the other way round."""
    five = ("uniform", "positional", "focal", "chain", "combined")
    together = trained(bench, config, ("vp", *five), tmp_path / "together")
    without = trained(bench, config, five, tmp_path / "without")
    alone = trained(bench, config, ["vp"], tmp_path / "alone")
    assert all(alike(together[name], without[name]) for name in five)
    assert alike(together["vp"], alone["vp"])
    assert not alike(together["vp"], together["uniform"])


@pytest.mark.parametrize("at", [1, 5])
def test_interrupted_and_resumed_ends_in_the_same_weights(
    bench, config, tmp_path, monkeypatch, at
) -> None:
    expected = trained(bench, config, ["vp"], tmp_path / "whole")
    real, calls = Workbench.passes, 0

    def stop(*args):
        nonlocal calls
        calls += 1
        if calls > at:
            raise Stop
        return real(*args)

    monkeypatch.setattr(Workbench, "passes", stop)
    with pytest.raises(Stop):
        trained(bench, config, ["vp"], tmp_path / "parts")
    monkeypatch.setattr(Workbench, "passes", real)
    assert alike(expected["vp"], trained(bench, config, ["vp"], tmp_path / "parts")["vp"])


def test_it_trains_and_drafts_behind_uniform_losslessly(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    config = dataclasses.replace(
        config,
        drafter="uniform,vp",
        steps=60,
        learning_rate=5e-3,
        output_dir=tmp_path / "out",
    )
    uniform, vp = trainer.train(config)
    body = json.loads((vp / "training.json").read_text())
    assert (body["objective"]["gamma"], body["objective"]["prefix_decay"]) == (7, 0.9)
    losses = [entry["loss"] for entry in body["measured"]]
    assert losses[-1] < 0.8 * losses[0]
    assert weights(uniform).keys() == weights(vp).keys()
    assert (vp / "config.json").read_text() == (uniform / "config.json").read_text()

    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    drafters = [
        build_drafter(target, DrafterOptions.parse(text))
        for text in (f"vp={vp}", f"uniform+d2sd:second={vp}={uniform}")
    ]
    trees = 0
    for words in ("w1 w2 w3", "w30 w7", "w9 w9 w9 w12"):
        prompt = target.encode_chat([{"role": "user", "content": words}])
        plain = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=30)
        for drafter in drafters:
            done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=30)
            assert done.new_tokens == plain.new_tokens
            trees += sum(item.nodes > item.depth for item in done.rounds)
    assert trees > 0
