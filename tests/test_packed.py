"""Packed weights: the same bits, or nothing is packed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drafters.none import NoDrafter
from harness.baselines import hf_generate
from harness.decode import generate
from harness.sampling import Sampling
from targets.packed import PackedLinear, can_pack, pack_linear_layers
from tests import toy


def needs_packing():
    if not can_pack(nn.Linear(64, 64, bias=False).bfloat16()):
        pytest.skip("this CPU does not multiply packed bfloat16 weights")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 6, 16, 33])
def test_same_bits(rows, bias):
    needs_packing()
    linear = nn.Linear(576, 192, bias=bias).bfloat16().requires_grad_(False)
    x = torch.randn(1, rows, 576).bfloat16()
    with torch.inference_mode():
        assert torch.equal(PackedLinear(linear)(x), linear(x))


def test_float32_is_left_alone():
    assert not can_pack(nn.Linear(8, 8))
    target = toy.llama()
    assert target.describe()["packed_weights"] is False
    target.prepare()
    assert target.lm_head.weight.dtype == torch.float32


def test_a_model_without_linear_layers_is_left_alone():
    assert not can_pack(nn.Embedding(4, 4).bfloat16())


def test_a_machine_without_the_kernel_is_left_alone(monkeypatch):
    def refuse(*_args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr("targets.packed._pack", refuse)
    assert not can_pack(nn.Linear(8, 8, bias=False).bfloat16())


def test_every_linear_layer_is_replaced_and_the_tied_embedding_stays():
    needs_packing()
    target = toy.qwen3(dtype=torch.bfloat16)
    expected = target.embed_tokens.weight.clone()
    pack_linear_layers(target.model)
    assert not [m for m in target.model.modules() if isinstance(m, nn.Linear)]
    assert torch.equal(target.embed_tokens.weight, expected)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_target_answers_alike_before_and_after(name):
    needs_packing()
    prompt = list(range(2, 12))
    plain = toy.TARGETS[name](dtype=torch.bfloat16)
    plain._packs = False
    packed = toy.TARGETS[name](dtype=torch.bfloat16)
    answers = []
    for target in (plain, packed):
        none = NoDrafter(target.device)
        answers.append(
            generate(target, none, prompt, sampling=Sampling(), max_new_tokens=24).new_tokens
        )
    foreign = hf_generate(packed, prompt, sampling=Sampling(), max_new_tokens=4)
    assert isinstance(packed.lm_head, PackedLinear)
    assert answers[0] == answers[1]
    assert len(foreign.new_tokens) == 4
