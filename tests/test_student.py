"""A student of the target: what it starts from, its training, and its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from drafters import train as dispatch
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion import trainer as block_trainer
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.data import TrainingSequence, draw_anchors, make_blocks
from drafters.block_diffusion.workbench import open_workbench
from drafters.draft_model import DraftModelDrafter
from drafters.options import DrafterOptions
from drafters.student import trainer
from drafters.student.checkpoint import load, save
from drafters.student.drafter import StudentNetwork, build
from drafters.student.network import Student, choose_layers
from drafters.student.trainer import StudentWorkbench
from harness.decode import generate
from harness.errors import UserError
from harness.kv_cache import KVCache
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tests import toy
from tests.mangle import mangled_bytes, mangled_object
from tests.tiny_model import write_model, write_prompts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def one_thread(own_cache: Path) -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tiny: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        drafter="student",
        target=str(tiny),
        data=write_prompts(tmp_path / "prompts.jsonl"),
        output_dir=tmp_path / "out",
        steps=8,
        batch_size=4,
        block_size=4,
        num_layers=2,
        train_vocab_size=0,
        max_new_tokens=20,
        held_back=0.2,
        learning_rate=5e-3,
        dtype="float32",
        device="cpu",
        save_every=3,
    )


def loaded(config: TrainConfig) -> TransformersTarget:
    target = load_target(TargetOptions(name=config.target, dtype="float32"))
    assert isinstance(target, TransformersTarget)
    return target


def record(directory: Path) -> Any:
    return json.loads((directory / "training.json").read_text())


def same(left: Path, right: Path) -> bool:
    a, b = (load_file(place / "model.safetensors") for place in (left, right))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def copied(target: TransformersTarget, layers: tuple[int, ...]) -> Student:
    student = Student(target, layers)
    student.start_from_target(target)
    return student


# What it starts from


def test_it_starts_from_the_first_layers() -> None:
    assert [choose_layers(30, count) for count in (1, 2, 4)] == [(0,), (0, 1), (0, 1, 2, 3)]
    assert choose_layers(5, 5) == (0, 1, 2, 3, 4)


def test_more_layers_than_the_target_has() -> None:
    with pytest.raises(UserError, match="fewer --num-layers"):
        choose_layers(4, 5)


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_with_all_layers_it_is_the_target(name: str) -> None:
    target = toy.TARGETS[name]()
    student = copied(target, tuple(range(target.num_layers)))
    ids = torch.randint(0, toy.VOCAB, (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = target.model(input_ids=ids, use_cache=False).logits
        logits = target.lm_head(student.outputs(target.embed_tokens(ids)))
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        network, cache = StudentNetwork(student, target), KVCache(target.num_layers, 19)
        for start, end in ((0, 9), (9, 10), (10, 12), (12, 19)):
            row = network.logits(ids[0, start:end], cache)
            torch.testing.assert_close(row[0], expected[0, end - 1], rtol=1e-4, atol=1e-4)


def test_a_layer_keeps_its_kind_of_attention() -> None:
    target = toy.qwen3()  # every second layer looks back eight tokens only
    assert Student(target, (1, 2)).decoder.config.layer_types == [
        "sliding_attention",
        "full_attention",
    ]


def test_the_targets_weights_are_not_its_own(config: TrainConfig) -> None:
    target = loaded(config)
    student = copied(target, (0, 4))
    shapes = {parameter.shape for parameter in student.parameters()}
    assert (target.vocab_size, target.hidden_size) not in shapes
    before = target.decoder_layers[4].mlp.up_proj.weight.clone()
    for parameter in student.parameters():
        parameter.data.zero_()
    assert torch.equal(target.decoder_layers[4].mlp.up_proj.weight, before)


def test_outputs_stand_where_the_labels_are_predicted() -> None:
    """Against whole passes over each sequence alone."""
    target = toy.llama()
    student = copied(target, (0, 1))
    draw = np.random.default_rng(0)
    lengths, start = (9, 14, 6), 3
    sequences = [
        TrainingSequence(tuple(draw.integers(0, toy.VOCAB, length).tolist()), start)
        for length in lengths
    ]
    anchors = [draw_anchors(sequence, 3, draw) for sequence in sequences]
    blocks = make_blocks(sequences, anchors, 4)
    embedded = target.embed_tokens(torch.tensor([t for s in sequences for t in s.ids]))
    rows = student.drafts(blocks, embedded, target.embed_tokens.weight)
    assert rows.shape == (len(blocks.anchors), 3, target.hidden_size)
    checked = 0
    for block, (owner, anchor) in enumerate(zip(blocks.owner, blocks.anchors, strict=True)):
        alone = student.outputs(target.embed_tokens(torch.tensor([sequences[owner].ids])))[0]
        for place in range(3):
            if blocks.valid[block, place]:
                torch.testing.assert_close(rows[block, place], alone[anchor + place])
                checked += 1
    assert checked > 10


# Training


def test_a_step_trains_on_every_token_of_a_response(config: TrainConfig) -> None:
    found = open_workbench(config, [trainer.OBJECTIVE], layers=())
    bench = StudentWorkbench(found.target, found.corpus, found.head, found.replicas)
    indices = next(bench.order(config))
    (part,) = bench.passes(indices, 0, config)
    assert part is not None and part.expected is not None
    sequences = [bench.corpus.sequences[i] for i in indices]
    labels = [token for sequence in sequences for token in sequence.ids[sequence.start + 1 :]]
    assert part.blocks.labels[:, 0].tolist() == labels and bool(part.blocks.valid.all())
    ids = torch.tensor([token for sequence in sequences for token in sequence.ids])
    assert torch.equal(part.features, found.target.embed_tokens(ids))
    assert part.expected.shape == part.features.shape


def test_loss_falls(config: TrainConfig) -> None:
    """On what is trained on: the five held-back answers of a random target teach nothing."""
    (directory,) = trainer.train(dataclasses.replace(config, steps=60))
    assert directory.name == "student"
    history = record(directory)["measured"]
    losses = [entry["cross_entropy"] for entry in history]
    assert losses[-1] < 0.9 * losses[0]


def test_training_json_says_what_was_done(config: TrainConfig) -> None:
    (directory,) = trainer.train(config)
    body = record(directory)
    assert body["name"] == "student" and body["step"] == body["steps"] == 8
    assert body["objective"]["distill"] == 1
    assert body["initial_weights"] == "target's layers 0, 1"
    assert body["num_layers"] == 2 and "num_anchors" not in body
    assert len(body["target"]["weights_sha256"]) == 64
    config_json = json.loads((directory / "config.json").read_text())
    assert config_json["target_layer_ids"] == [0, 1]
    keys = load_file(directory / "model.safetensors").keys()
    assert "norm.weight" in keys and not any("embed" in key or "head" in key for key in keys)


def test_what_training_measures_is_what_drafting_does(config: TrainConfig) -> None:
    """Drafts token by token behind the true text, against the measurement's one pass."""
    (directory,) = trainer.train(dataclasses.replace(config, steps=24))
    measured = record(directory)["measured"][-1]["train_time_tau"]
    target = loaded(config)
    found = open_workbench(config, [trainer.OBJECTIVE], layers=())
    drafter = build(target, DrafterOptions(name="student", argument=str(directory), block_size=4))
    matches = blocks = 0
    for index in found.corpus.held_back:
        sequence = found.corpus.sequences[index]
        for anchor in draw_anchors(sequence, 16, np.random.default_rng(0)).tolist():
            drafter.start(torch.empty(0), None, Sampling())
            tokens = drafter.propose(sequence.ids[:anchor], sequence.ids[anchor], 3).tokens
            labels = sequence.ids[anchor + 1 : anchor + 4]
            hits = [own == its for own, its in zip(tokens.tolist(), labels, strict=False)]
            matches += [*hits, False].index(False)
            blocks += 1
    assert blocks > 20
    assert measured == pytest.approx(1 + matches / blocks)


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [1, 4])
def test_interrupted_and_resumed_ends_in_the_same_weights(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    (expected,) = trainer.train(config)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "second"))
    again = dataclasses.replace(config, output_dir=tmp_path / "again")
    real, calls = StudentWorkbench.passes, 0

    def stop(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise Stop
        return real(*args)

    monkeypatch.setattr(StudentWorkbench, "passes", stop)
    with pytest.raises(Stop):
        trainer.train(again)
    monkeypatch.setattr(StudentWorkbench, "passes", real)
    (found,) = trainer.train(again)
    assert same(expected, found)
    assert record(expected)["measured"] == record(found)["measured"]


def test_sigterm_finishes_the_step(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = StudentWorkbench.passes, 0

    def interrupt(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(*args)

    monkeypatch.setattr(StudentWorkbench, "passes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(config)
    (snapshot,) = (tmp_path / "cache" / "training").glob("student-*.pt")
    assert torch.load(snapshot)["step"] == 2


def test_small_passes_train_as_large_ones(config: TrainConfig, tmp_path: Path) -> None:
    """One label a block: passes weigh by what they hold, and only rounding is left."""
    curves = []
    for name, size in (("whole", None), ("parts", 3)):
        changed = dataclasses.replace(config, micro_batch=size, output_dir=tmp_path / name)
        (directory,) = trainer.train(changed)
        curves.append([entry["loss"] for entry in record(directory)["measured"]])
    np.testing.assert_allclose(*curves, rtol=1e-3)


def test_bfloat16_trains_as_float32_does(config: TrainConfig, tmp_path: Path) -> None:
    curves = []
    for dtype in ("float32", "bfloat16"):
        changed = dataclasses.replace(config, dtype=dtype, steps=24, output_dir=tmp_path / dtype)
        (directory,) = trainer.train(changed)
        curves.append([entry["loss"] for entry in record(directory)["measured"]])
    np.testing.assert_allclose(*curves, rtol=0.05)


def test_the_command_trains_objectives_and_students(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for module in (block_trainer, trainer):
        monkeypatch.setattr(module, "train", lambda config: asked.append(config.drafter) or [])
    for names in ("student", "all", "uniform, student,chain"):
        dispatch.train(dataclasses.replace(config, drafter=names))
    assert asked == ["student", "all", "uniform,chain", "student"]
    with pytest.raises(UserError, match="unknown objective 'nonsense'"):
        dispatch.train(dataclasses.replace(config, drafter="student,nonsense"))
    assert asked[4:] == []


# In front of its target


@pytest.mark.parametrize("block_size", (2, 5))
def test_a_trained_student_is_lossless(config: TrainConfig, block_size: int) -> None:
    (directory,) = trainer.train(dataclasses.replace(config, steps=30))
    target = loaded(config)
    drafter = build(
        target, DrafterOptions(name="student", argument=str(directory), block_size=block_size)
    )
    accepted = 0
    for word in range(1, 7):
        prompt = target.encode_chat([{"role": "user", "content": f"w{word} w2 w3"}])
        expected = toy.plain_greedy(target, [prompt], 30)[0]
        stops = [place for place, token in enumerate(expected) if token in target.stop_ids]
        if stops:
            expected = expected[: stops[0] + 1]
        done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=30)
        assert list(done.new_tokens) == expected
        assert done.rounds is not None
        accepted += sum(item.accepted for item in done.rounds)
    assert accepted > 5


def drafts_of(drafter: DraftModelDrafter, seed: int) -> list[int]:
    prompt = torch.randint(0, 40, (9,), generator=torch.Generator().manual_seed(seed))
    drafter.start(prompt, None, Sampling())
    return drafter.propose(prompt.tolist(), 7, 4).tokens.tolist()


def test_a_checkpoint_drafts_as_what_was_saved(config: TrainConfig, tmp_path: Path) -> None:
    target = loaded(config)
    student = copied(target, (0, 2))
    for parameter in student.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    save(tmp_path / "kept", student, target, {"name": "student"})
    drafter = build(target, DrafterOptions(name="student", argument=str(tmp_path / "kept")))
    own = DraftModelDrafter(StudentNetwork(student, target), target.device)
    assert [drafts_of(drafter, n) for n in range(5)] == [drafts_of(own, n) for n in range(5)]
    assert drafter.checkpoint is not None
    assert drafter.checkpoint["num_parameters"] == sum(p.numel() for p in student.parameters())
    assert load(str(tmp_path / "kept"), target).training == {"name": "student"}


def test_a_prepared_target_takes_a_student(config: TrainConfig, tmp_path: Path) -> None:
    """A target whose weights are laid out for decoding, as behind its first answer."""
    target = load_target(TargetOptions(name=config.target, dtype="bfloat16"))
    assert isinstance(target, TransformersTarget)
    save(tmp_path / "kept", copied(target, (0, 4)), target, {})
    before = drafts_of(build(target, wanted(tmp_path / "kept")), 1)
    target.prepare()
    assert drafts_of(build(target, wanted(tmp_path / "kept")), 1) == before


def test_only_the_trained_vocabulary_is_drafted_where_that_is_asked(
    config: TrainConfig,
) -> None:
    (directory,) = trainer.train(dataclasses.replace(config, train_vocab_size=9))
    kept = set(json.loads((directory / "draft_vocabulary.json").read_text())["token_ids"])
    assert len(kept) == 9
    target = loaded(config)
    part = build(target, wanted(directory, draft_vocab="trained", greedy=False))
    assert part.draft_vocab_size == 9
    part.start(torch.tensor([1, 2]), None, Sampling(temperature=2.0))
    proposal = part.propose([1, 2], 7, 4)
    assert set(proposal.tokens.tolist()) <= kept
    assert proposal.q is not None and proposal.q.shape == (4, target.vocab_size)
    assert set(proposal.q.sum(0).nonzero()[:, 0].tolist()) <= kept
    assert build(target, wanted(directory)).draft_vocab_size is None


def wanted(directory: Path, **options: Any) -> DrafterOptions:
    return DrafterOptions(name="student", argument=str(directory), **options)


@pytest.fixture
def saved(config: TrainConfig, tmp_path: Path) -> Path:
    target = loaded(config)
    save(tmp_path / "saved", copied(target, (0, 4)), target, {})
    return tmp_path / "saved"


def refusal(target: Any, options: DrafterOptions) -> str:
    with pytest.raises(UserError) as caught:
        build(target, options)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["DFlashDraftModel"]}, "not that of a student"),
        ({"target_layer_ids": [0, 9]}, "from 0 to 4"),
        ({"target_layer_ids": [4, 0]}, "distinct and ascending"),
        ({"target_layer_ids": "all"}, "should be a list"),
        ({"target_layer_ids": [0, 1, 4]}, "do not match its config.json"),
        ({"hidden_size": 64}, "made for another target: its hidden size is 64"),
        ({"vocab_size": "46"}, "should be int"),
    ],
)
def test_a_config_that_does_not_fit(
    config: TrainConfig, saved: Path, change: dict[str, Any], words: str
) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert words in refusal(loaded(config), wanted(saved))


def test_weights_that_do_not_fit(config: TrainConfig, saved: Path) -> None:
    target, weights = loaded(config), saved / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "truncated or broken" in refusal(target, wanted(saved))
    weights.write_bytes(whole)
    save_file({key: value.int() for key, value in load_file(weights).items()}, weights)
    assert "do not match" in refusal(target, wanted(saved))
    weights.unlink()
    assert "holds no .safetensors file" in refusal(target, wanted(saved))
    assert "no drafter directory" in refusal(target, wanted(saved / "absent"))


def test_a_block_without_a_draft_token(config: TrainConfig, saved: Path) -> None:
    assert "--block-size 1" in refusal(loaded(config), wanted(saved, block_size=1))


def test_none_was_trained(config: TrainConfig) -> None:
    with pytest.raises(checkpoint.MissingCheckpoint, match="train --drafter student"):
        build(loaded(config), DrafterOptions(name="student"))


def test_found_where_training_puts_it(config: TrainConfig) -> None:
    (directory,) = trainer.train(dataclasses.replace(config, output_dir=None, steps=2))
    target = loaded(config)
    assert directory == checkpoint.user_directory(target.name, "student")
    assert drafts_of(build(target, DrafterOptions(name="student")), 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a disk or an editor did to one file: a drafter that drafts, or one sentence."""
    target = toy.qwen3()
    directory = tmp_path / "damaged"
    save(directory, copied(target, (0, 2)), target, {"steps": 3}, torch.tensor([0, 4, 9]))
    name = data.draw(st.sampled_from(sorted(path.name for path in directory.iterdir())))
    whole = (directory / name).read_bytes()
    if name.endswith(".safetensors"):
        (directory / name).write_bytes(data.draw(mangled_bytes(whole)))
    else:
        (directory / name).write_bytes(data.draw(mangled_object(json.loads(whole))))
    try:
        found = drafts_of(build(target, wanted(directory, draft_vocab="trained")), 0)
        assert all(0 <= token < target.vocab_size for token in found)
    except UserError as error:
        assert "\n" not in str(error)
