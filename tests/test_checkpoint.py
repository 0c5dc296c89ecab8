"""Checkpoints: the DFlash layout both ways, and every way a checkpoint can be wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.drafter import BlockDiffusionDrafter, build
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from tests import toy
from tests.test_block_diffusion import small_config


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


def random_model(target, seed=1):
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    return initial_model(small_config(target), head, seed=seed, dtype=torch.float32)


@pytest.fixture
def saved(target, tmp_path):
    directory = tmp_path / "drafter"
    checkpoint.save(directory, random_model(target), {"name": "uniform"})
    return directory


def test_round_trip(target, saved):
    found = checkpoint.load(str(saved), target)
    expected = random_model(target)
    assert found.model.config == expected.config
    assert found.training == {"name": "uniform"}
    for key, value in expected.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value)


def test_a_draft_vocabulary_comes_back_and_is_kept_to(target, tmp_path):
    some = torch.tensor([0, 4, 9])
    checkpoint.save(tmp_path / "part", random_model(target), {}, some)
    found = checkpoint.load(str(tmp_path / "part"), target)
    assert found.vocabulary is not None and torch.equal(found.vocabulary, some)
    features = torch.randn(5, 2 * target.hidden_size)
    options = DrafterOptions(name="uniform", argument=str(tmp_path / "part"))

    def proposed(options):
        drafter = build(target, options)
        drafter.start(torch.arange(5), features, Sampling())
        return drafter.draft_vocab_size, set(drafter.propose(range(5), 9, 3).tokens.tolist())

    size, tokens = proposed(dataclasses.replace(options, draft_vocab="trained"))
    assert size == 3 and tokens <= {0, 4, 9}
    size, tokens = proposed(options)
    assert size is None and not tokens <= {0, 4, 9}


def test_without_a_draft_vocabulary_all_tokens_are_drafted(target, saved):
    found = checkpoint.load(str(saved), target)
    assert found.vocabulary is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[1, 2]",
        '{"token_ids": []}',
        '{"token_ids": [2, 1]}',
        '{"token_ids": [1, 1]}',
        '{"token_ids": [1, 99999]}',
        '{"token_ids": [-1]}',
        '{"token_ids": ["1"]}',
    ],
)
def test_a_broken_draft_vocabulary(target, saved, text):
    (saved / "draft_vocabulary.json").write_text(text)
    refuses(target, saved, "draft_vocabulary.json")


def test_others_may_read_a_checkpoint(saved):
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()}
    assert modes == dict.fromkeys(("config.json", "model.safetensors", "training.json"), 0o644)
    assert saved.stat().st_mode & 0o777 == 0o755


def test_layout_is_dflashs(target, saved):
    body = json.loads((saved / "config.json").read_text())
    assert body["architectures"] == ["DFlashDraftModel"]
    assert body["dflash_config"] == {"mask_token_id": 63, "target_layer_ids": [0, 2]}
    from safetensors import safe_open

    with safe_open(saved / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    layer = {
        f"layers.{i}.{name}.weight"
        for i in range(2)
        for name in (
            "input_layernorm",
            "post_attention_layernorm",
            *(f"self_attn.{p}" for p in ("q_proj", "k_proj", "v_proj", "o_proj")),
            "self_attn.q_norm",
            "self_attn.k_norm",
            *(f"mlp.{p}_proj" for p in ("gate", "up", "down")),
        )
    }
    assert keys == layer | {"fc.weight", "hidden_norm.weight", "norm.weight"}


def test_older_configs_with_top_level_fields_load(target, saved):
    body = json.loads((saved / "config.json").read_text())
    body.update(body.pop("dflash_config"))
    del body["rope_parameters"]
    body["rope_theta"] = 10_000.0
    (saved / "config.json").write_text(json.dumps(body))
    assert checkpoint.load(str(saved), target).model.config == dataclasses.replace(
        small_config(target), rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}
    )


def test_equals_the_pypi_package(target, saved):
    """A checkpoint written here, in the class of the PyPI package ``dflash``, token for token."""
    dflash = pytest.importorskip("dflash.model", reason="pip install --no-deps dflash==0.1.0")
    theirs = dflash.DFlashDraftModel.from_pretrained(saved, dtype=torch.float32).eval()
    ours = BlockDiffusionDrafter(checkpoint.load(str(saved), target).model, target, 4)
    for seed in range(3):
        prompt = torch.randint(0, 60, (1, 9), generator=torch.Generator().manual_seed(seed))
        expected = dflash.dflash_generate(theirs, target.model, prompt, 24, None)
        answer = generate(target, ours, prompt[0].tolist(), sampling=Sampling(), max_new_tokens=24)
        assert list(answer.new_tokens) == expected[0, 9:].tolist()


def test_drafts_equal_those_of_the_pypi_package(target, saved):
    dflash = pytest.importorskip("dflash.model", reason="pip install --no-deps dflash==0.1.0")
    theirs = dflash.DFlashDraftModel.from_pretrained(saved, dtype=torch.float32).eval()
    model = checkpoint.load(str(saved), target).model
    ids = torch.randint(0, 60, (12,), generator=torch.Generator().manual_seed(0))
    features = target.features_of(ids[None], torch.ones(1, 12), (0, 2))
    drafter = BlockDiffusionDrafter(model, target, 4)
    drafter.start(ids[:11], features[0, :11], Sampling())
    with torch.inference_mode():
        ours = drafter._block(int(ids[11]))
        block = torch.full((1, 4), 63)
        block[0, 0] = ids[11]
        out = theirs(
            target_hidden=features[:, :11],
            noise_embedding=target.embed_tokens(block),
            position_ids=torch.arange(15)[None],
        )
    torch.testing.assert_close(ours, out[0], atol=1e-5, rtol=1e-5)


def refuses(target, directory, words):
    with pytest.raises(UserError) as caught:
        build(target, DrafterOptions(name="dflash", argument=str(directory)))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message


def test_for_another_target(saved):
    refuses(toy.llama(), saved, "another target")


def trained_for(target, directory, weights):
    checkpoint.save(directory, random_model(target), {"target": {"weights_sha256": weights}})
    return checkpoint.load(str(directory), target)


def test_trained_for_other_weights_of_the_same_shapes(target, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(target.facts, "weights_sha256", "a" * 64)
    trained_for(target, tmp_path / "same", "a" * 64)
    assert not caplog.records
    trained_for(target, tmp_path / "other", "b" * 64)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert "was trained for other weights" in message
    assert "b" * 12 in message and "a" * 12 in message and str(tmp_path / "other") in message


@pytest.mark.parametrize("training", [None, {"target": "a name"}, {"target": {}}])
def test_a_record_that_names_no_weights_gives_no_warning(target, saved, caplog, training):
    (saved / "training.json").unlink()
    if training is not None:
        (saved / "training.json").write_text(json.dumps(training))
    assert checkpoint.load(str(saved), target).training == training
    assert not caplog.records


def test_a_checkpoint_from_the_hub_records_its_commit(target, saved, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = saved.rename(tmp_path / commit)
    asked = []

    def download(repo, allow_patterns, local_files_only):
        asked.append(repo)
        return str(snapshot)

    monkeypatch.setattr("harness.hub.is_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    drafter = build(target, DrafterOptions(name="dflash", argument="somebody/drafter"))
    assert drafter.checkpoint["path"] == "somebody/drafter"
    assert drafter.checkpoint["revision"] == commit
    assert asked == ["somebody/drafter"]


def test_missing_directory(target, tmp_path):
    refuses(target, tmp_path / "nowhere", "no drafter directory")


def test_no_hub(target, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refuses(target, "nobody/no-such-drafter", "neither a directory nor to be had from the hub")


def test_missing_weights(target, saved):
    (saved / "model.safetensors").unlink()
    refuses(target, saved, "holds no .safetensors file")


@given(share=st.floats(0, 0.99))
@settings(max_examples=20, deadline=None)
def test_truncated_weights(target, tmp_path_factory, share):
    directory = tmp_path_factory.mktemp("cut") / "drafter"
    checkpoint.save(directory, random_model(target), {})
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * share)])
    refuses(target, directory, "truncated or broken")


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"hidden_size": 32}'])
def test_broken_config(target, saved, text):
    (saved / "config.json").write_text(text)
    refuses(target, saved, "config")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 3}, "do not match its config.json"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"attention_bias": True}, "attention_bias"),
        ({"layer_types": ["sliding_attention"] * 2}, "sliding_attention"),
        ({"architectures": ["DSparkDraftModel"]}, "'DSparkDraftModel'"),
        ({"block_size": "big"}, "not a DFlash config"),
    ],
)
def test_foreign_config(target, saved, change, words):
    body = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**body, **change}))
    refuses(target, saved, words)


def test_no_checkpoint_names_the_command(target, monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    with pytest.raises(checkpoint.MissingCheckpoint) as caught:
        build(target, DrafterOptions(name="combined"))
    command = f"python -m harness train --drafter combined --target {target.name}"
    assert command in str(caught.value)


def test_order_of_resolution(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "OWN", tmp_path / "own")
    own = tmp_path / "own" / "me--model" / "chain"
    user = checkpoint.user_directory("me/model", "chain")
    for directory in (own, user):
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
    assert checkpoint.find("chain", None, "me/model") == str(user)
    (user / "config.json").unlink()
    assert checkpoint.find("chain", None, "me/model") == str(own)
    assert checkpoint.find("chain", "a/path", "me/model") == "a/path"


def test_an_interrupted_save_leaves_the_old_checkpoint(target, saved, monkeypatch):
    before = (saved / "model.safetensors").read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError):
        checkpoint.save(saved, random_model(target, seed=9), {})
    assert (saved / "model.safetensors").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**9}, "do not match its config.json .first: the number of layers"),
        ({"hidden_size": "32"}, "config.hidden_size should be int"),
        ({"head_dim": 7}, "head_dim must be even"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be at least 1"),
        ({"dflash_config": [1]}, "dflash_config should be an object"),
        ({"layer_types": 5}, "layer_types should be a list"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "cannot be built"),
    ],
)
def test_a_config_that_asks_for_what_cannot_be(target, saved, change, message):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        checkpoint.load(str(saved), target)


def test_a_training_record_of_another_shape(target, saved):
    (saved / "training.json").write_text(json.dumps({"objective": "uniform"}))
    with pytest.raises(UserError, match="objective should be an object and is of type str"):
        checkpoint.load(str(saved), target)


def test_weights_of_whole_numbers(target, saved):
    from safetensors.torch import load_file, save_file

    path = saved / "model.safetensors"
    save_file({key: value.to(torch.int32) for key, value in load_file(path).items()}, path)
    with pytest.raises(UserError, match=r"do not match its config\.json"):
        checkpoint.load(str(saved), target)


@pytest.mark.parametrize("name", ["..", "a/..", "/", "../../x", "."])
def test_no_target_name_leaves_the_cache(name):
    root = checkpoint.user_cache() / "drafters"
    assert checkpoint.user_directory(name, "uniform").resolve().is_relative_to(root.resolve())
