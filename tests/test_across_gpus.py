"""A target on several devices: what each takes, and that nothing else changes.

There are two kinds of second device here. Layers on the disk are run by the library's own hooks,
to the same bits. Layers on an imagined GPU have shapes and devices and no values: tensors that meet
on two devices are an error, as on real ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3ForCausalLM
from transformers.integrations.accelerate import _get_device_map

from drafters.block_diffusion import batch_generator, shared_head, variant
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.head import expected_rows
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.responses import Query
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.trainer import train
from drafters.block_diffusion.variant import start_from_target
from harness.errors import UserError
from targets import across_gpus, pretrained
from targets.across_gpus import share_out
from targets.base import TargetOptions
from targets.load import load_target
from targets.scales import Scales
from targets.transformers_lm import TransformersTarget
from tests import toy
from tests.test_block_diffusion import small_config
from tests.tiny_model import write_model, write_prompts

GIB = 2**30
SIZES = st.integers(min_value=0, max_value=200 * GIB)


# What each GPU takes


def test_weights_that_leave_half_of_the_first_gpu_stay_there() -> None:
    free = {2: 80 * GIB, 3: 80 * GIB}
    assert share_out("w", 40 * GIB, free) is None
    assert share_out("w", 40 * GIB + 1, free) == {2: 40 * GIB, 3: 72 * GIB}
    assert share_out("w", 40 * GIB + 1, {2: 80 * GIB}) is None


def test_a_tight_gpu_is_taken_where_the_others_are_no_help() -> None:
    assert share_out("w", 70 * GIB, {0: 80 * GIB, 1: 10 * GIB}) is None
    assert share_out("w", 80 * GIB, {0: 80 * GIB, 1: 10 * GIB}) is None


@given(needed=SIZES, free=st.lists(SIZES, min_size=1, max_size=8))
def test_shares_hold_the_weights_and_leave_room(needed: int, free: list[int]) -> None:
    by_gpu = dict(enumerate(free))
    try:
        room = share_out("w", needed, by_gpu)
    except UserError:
        assert needed > free[0]
        assert needed > free[0] // 2 + sum(size * 0.9 for size in free[1:]) - 8
        return
    if room is None:
        assert needed <= free[0]
        return
    assert list(room) == list(by_gpu) and sum(room.values()) >= needed > room[0]
    assert room[0] <= free[0] / 2
    assert all(room[gpu] <= 0.9 * free[gpu] + 1 for gpu in by_gpu if gpu)


@pytest.mark.parametrize(
    ("free", "says"),
    [
        ({4: 70 * GIB}, "and GPU 4 has 70.0 GiB free; choose"),
        (
            {4: 80 * GIB, 5: 80 * GIB, 6: 1 * GIB},
            "and GPUs 4 to 6 have 161.0 GiB free, 112.9 GiB of that for weights; choose",
        ),
    ],
)
def test_too_little_is_one_sentence_with_numbers(free: dict[int, int], says: str) -> None:
    with pytest.raises(UserError) as caught:
        share_out("owner/model in bfloat16", 141 * GIB, free)
    message = str(caught.value)
    assert message.startswith("owner/model in bfloat16 needs 141.0 GiB, ") and says in message
    assert "fewer processes" in message and message.count(". ") == 0 and len(message) < 400


def on_meta(num_layers: int) -> Any:
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


@pytest.mark.parametrize("gpus", [(0, 1), (2, 3), (5, 6, 7), (4, 5, 6, 7)])
@pytest.mark.parametrize("filled", [0.5, 0.75])
def test_the_library_keeps_to_the_shares(gpus: tuple[int, ...], filled: float) -> None:
    """In float32, as made; the first GPU of the process begins with the embedding."""
    model = on_meta(24)
    needed = sum(item.numel() * item.itemsize for item in model.parameters())
    whole = needed / filled / (0.5 + 0.9 * (len(gpus) - 1))
    room = share_out("w", needed, dict.fromkeys(gpus, int(whole)))
    assert room is not None
    places = _get_device_map(model, "balanced", dict(room), None)
    held = dict.fromkeys(gpus, 0)
    for name, item in model.named_parameters():
        (gpu,) = {place for part, place in places.items() if f"{name}.".startswith(f"{part}.")}
        held[gpu] += item.numel() * item.itemsize
    assert all(held[gpu] <= room[gpu] for gpu in gpus)
    assert places["model.embed_tokens"] == gpus[0] and min(held.values()) > 0


def test_layers_that_found_no_gpu_are_refused() -> None:
    model = on_meta(2)
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    across_gpus.require_placed(model, "w", {0: GIB, 1: GIB})
    model.hf_device_map["model.layers.1"] = "disk"
    with pytest.raises(UserError, match=r"the 2\.0 GiB that GPUs 0 to 1 have for weights do not"):
        across_gpus.require_placed(model, "w", {0: GIB, 1: GIB})


# Layers on the disk

PLACES = {
    **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu"),
    **{f"model.layers.{layer}": "disk" if layer in (1, 3) else "cpu" for layer in range(5)},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@contextlib.contextmanager
def found_too_large(scratch: Path) -> Iterator[list[Any]]:
    """Every model loaded here lies as in `PLACES`; yields the list of them."""
    load, loaded = pretrained.AutoModelForCausalLM.from_pretrained, []

    def placed(*args: Any, **kwargs: Any) -> Any:
        assert (kwargs["device_map"], kwargs["max_memory"]) == ("balanced", {0: 1})
        places = {"device_map": PLACES, "max_memory": None, "offload_folder": scratch}
        found = load(*args, **{**kwargs, **places})
        loaded.append(found[0])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "_room", lambda *args: {0: 1})
        patch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", placed)
        patch.setattr(across_gpus, "require_placed", lambda *args: None)
        yield loaded


@pytest.fixture(autouse=True)
def one_thread(own_cache: Path) -> None:
    torch.set_num_threads(1)


def test_a_spread_target_gives_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    options = TargetOptions(name=str(tiny), dtype="float32")
    whole = load_target(options)
    with found_too_large(tmp_path / "disk"):
        parts = load_target(options)
    assert isinstance(whole, TransformersTarget) and isinstance(parts, TransformersTarget)
    devices = [next(layer.parameters()).device.type for layer in parts.decoder_layers]
    assert devices == ["cpu", "meta", "cpu", "meta", "cpu"]  # on meta between two passes
    ids = torch.randint(0, whole.vocab_size, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    for with_output in (False, True):
        for layers in ((0, 2), (1, 3), (4,)):
            found, expected = (
                target.features_of(ids, mask, layers, with_output=with_output)
                for target in (parts, whole)
            )
            assert torch.equal(found, expected)
    queries = [Query(tuple(row[: 4 + 2 * place]), place) for place, row in enumerate(ids.tolist())]
    answers = [
        dict(BatchGenerator(target, 9, batch_size=2).generate(queries)) for target in (parts, whole)
    ]
    assert answers[0] == answers[1] and len(answers[0]) == 3


def test_training_for_a_spread_target_is_the_same_training(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        drafter="combined",
        target=str(tiny),
        data=write_prompts(tmp_path / "prompts.jsonl", 8),
        output_dir=tmp_path / "whole",
        steps=4,
        batch_size=2,
        num_anchors=4,
        block_size=4,
        num_layers=1,
        num_features=2,
        train_vocab_size=30,
        max_new_tokens=12,
        held_back=0.3,
        dtype="float32",
        device="cpu",
    )
    train(config)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "other"))  # nothing is taken over
    with found_too_large(tmp_path / "disk") as loaded:
        train(dataclasses.replace(config, output_dir=tmp_path / "parts"))
    assert len(loaded) == 1 and len(set(loaded[0].hf_device_map.values())) == 2
    weights, expected = (
        load_file(tmp_path / name / "combined" / "model.safetensors") for name in ("parts", "whole")
    )
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    bodies = [
        json.loads((tmp_path / name / "combined" / "training.json").read_text())
        for name in ("parts", "whole")
    ]
    assert bodies[0]["measured"] == bodies[1]["measured"]
    assert bodies[0]["target"] == bodies[1]["target"]


# Layers on an imagined GPU

FIRST, SECOND = torch.device("cpu:0"), torch.device("cpu:1")
"""Imagined tensors keep the number, and one without is on yet another device: the host."""


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> Iterator[TransformersTarget]:
    """Four layers, the last two with norm and LM head on a second GPU; within the imagination."""
    config = toy.qwen3().model.config
    config.tie_word_embeddings = False
    config._attn_implementation = "eager"
    plain = torch.tensor

    def tensor(data: Any, *, device: torch.device | None = None) -> torch.Tensor:
        """As a GPU's: by itself it forgets the number."""
        return plain(data) if device is None else plain(data).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)
    # What is measured needs numbers.
    monkeypatch.setattr(batch_generator, "_reads_together", lambda target: True)
    monkeypatch.setattr(shared_head, "measured_scales", lambda target: Scales())
    for module in (shared_head, variant):
        monkeypatch.setattr(module, "norm_weight", lambda norm: norm.weight.detach())
    monkeypatch.setattr(torch.Tensor, "equal", lambda one, other: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Qwen3ForCausalLM(config)
        decoder = model.get_decoder()
        for part in (decoder.embed_tokens, decoder.rotary_emb, *decoder.layers[:2]):
            put(part, FIRST)
        for part in (*decoder.layers[2:], decoder.norm, model.lm_head):
            put(part, SECOND)
        run_where_weights_are(model.eval().requires_grad_(False))
        across_gpus.bring_back(model)
        yield TransformersTarget(model, None, name="imagined")


def put(part: torch.nn.Module, device: torch.device) -> None:
    for module in part.modules():
        for held in (module._parameters, module._buffers):
            for name, item in held.items():
                if item is not None:
                    moved = item.detach().to(device)
                    held[name] = torch.nn.Parameter(moved) if held is module._parameters else moved


def run_where_weights_are(model: Any) -> None:
    """As the library's hooks do, which ask for the addresses of weights."""
    decoder, skip = model.get_decoder(), ["past_key_values"]
    for module in (decoder.embed_tokens, *decoder.layers, decoder.norm, model.lm_head):
        device = next(module.parameters()).device

        def before(_: Any, args: Any, kwargs: Any, device: torch.device = device) -> Any:
            return send_to_device(args, device), send_to_device(kwargs, device, skip_keys=skip)

        module.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(
        lambda _, args, output: send_to_device(output, model.device, skip_keys=skip)
    )


def test_imagined_tensors_do_not_meet_on_two_devices(imagined: TransformersTarget) -> None:
    first, last = (layer.mlp.up_proj.weight for layer in imagined.decoder_layers[1:3])
    assert (first.device, last.device, imagined.device) == (FIRST, SECOND, FIRST)
    with pytest.raises(RuntimeError, match="cpu:1"):
        first + last


@pytest.mark.parametrize("with_output", [False, True])
@pytest.mark.parametrize("layers", [(0, 1), (1, 2), (3,)])
def test_features_come_to_the_first_device(
    imagined: TransformersTarget, layers: tuple[int, ...], with_output: bool
) -> None:
    ids = torch.zeros(3, 7, dtype=torch.int64, device=FIRST)
    found = imagined.features_of(ids, torch.ones_like(ids), layers, with_output=with_output)
    assert found.device == FIRST
    assert found.shape == (3, 7, (len(layers) + with_output) * imagined.hidden_size)


def test_prompts_are_read_across_devices(
    imagined: TransformersTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into caches on both; which tokens follow, nobody can know."""
    seen = []

    def choose(logits: torch.Tensor, slots: list[Any]) -> list[int]:
        seen.append((logits.device, logits.shape[0]))
        return [1] * len(slots)

    generator = BatchGenerator(imagined, 4, batch_size=3)
    monkeypatch.setattr(generator, "_choose", choose)
    monkeypatch.setattr(generator, "_limit", lambda query: 1)
    queries = [Query((1,) * length, 0) for length in (2, 4, 4, 3, 9)]
    assert len(dict(generator.generate(queries))) == 5
    assert {device for device, _ in seen} == {FIRST}
    assert sum(rows for _, rows in seen) == 5


def test_what_a_drafter_shares_is_on_the_first_device(imagined: TransformersTarget) -> None:
    vocabulary = torch.arange(0, toy.VOCAB, 2)
    head = SharedHead.of(imagined, vocabulary)
    for part in (head.embedding, head.lm_head, head.label_of, head.final_norm):
        assert part is not None and part.device == FIRST
    assert head.lm_head.shape == (32, imagined.hidden_size)
    hidden = torch.zeros(3, imagined.hidden_size, device=FIRST)
    assert expected_rows(hidden, head.lm_head).device == FIRST
    for part in (None, vocabulary):
        draft_head = DraftHead(imagined, part)
        logits = draft_head.logits(hidden)
        assert (logits.device, logits.shape) == (FIRST, (3, draft_head.size))


def test_the_targets_last_layers_are_copied_to_the_first_device(
    imagined: TransformersTarget,
) -> None:
    model = BlockDiffusionModel(small_config(imagined))
    put(model, FIRST)
    assert start_from_target(model, imagined, torch.ones(2 * imagined.hidden_size))
    assert {item.device for item in model.parameters()} == {FIRST}
