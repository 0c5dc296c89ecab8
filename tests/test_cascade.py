"""Cascade attention: cut in two and merged, it is the attention of one mask over everything."""

from __future__ import annotations

import random

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from drafters.base import Proposal
from targets import cascade
from targets.attention import GROUPED, ancestor_visibility, tree_inputs
from targets.cascade import attend, attend_plainly, cascade_attention

SHAPES = {
    "seed": st.integers(0, 1000),
    "past": st.integers(1, 70),
    "groups": st.integers(1, 3),
    "share": st.integers(1, 3),
    "scale": st.sampled_from((None, 0.1, 1.0)),
    "wide": st.booleans(),
}


def tensors(seed: int, wide: bool, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if wide else torch.float32
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in shapes]


def masked(q, keys, values, visible, scale):
    """The textbook: every score, one mask."""
    share = q.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(share, dim=1) for x in (keys, values))
    scores = q @ keys.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(~visible, float("-inf")).softmax(-1) @ values


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(visible.shape, dtype=dtype)
    return mask.masked_fill(~visible, torch.finfo(dtype).min)[None, None]


@given(nodes=st.integers(1, 20), **SHAPES)
def test_a_tree_behind_a_prefix(nodes, seed, past, groups, share, scale, wide):
    draw = random.Random(seed)
    parents = [draw.randrange(-1, node) for node in range(nodes)]
    rows = nodes + 1
    q, keys, values = tensors(
        seed,
        wide,
        (1, groups * share, rows, 8),
        (1, groups, past + rows, 8),
        (1, groups, past + rows, 8),
    )
    visible = ancestor_visibility(parents, past, past + rows, torch.device("cpu"))
    expected = masked(q, keys, values, visible, scale)
    found = cascade_attention(
        q,
        (keys[:, :, :past], values[:, :, :past]),
        (keys[:, :, past:], values[:, :, past:]),
        additive(visible[:, past:], q.dtype),
        scale,
    )
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@given(blocks=st.integers(1, 5), rows=st.integers(1, 7), **SHAPES)
def test_blocks_behind_one_prefix(blocks, rows, seed, past, groups, share, scale, wide):
    """Each is what it would be alone, with the prefix copied for it."""
    q, prefix_k, prefix_v, own_k, own_v = tensors(
        seed,
        wide,
        (blocks, groups * share, rows, 8),
        *[(1, groups, past, 8)] * 2,
        *[(blocks, groups, rows, 8)] * 2,
    )
    found = cascade_attention(q, (prefix_k, prefix_v), (own_k, own_v), scale=scale)
    for block in range(blocks):
        keys = torch.cat((prefix_k, own_k[block : block + 1]), dim=2)
        values = torch.cat((prefix_v, own_v[block : block + 1]), dim=2)
        everything = torch.ones(rows, past + rows, dtype=torch.bool)
        expected = masked(q[block : block + 1], keys, values, everything, scale)
        torch.testing.assert_close(found[block : block + 1], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16))
def test_the_kernel_and_the_written_out_form_agree(dtype):
    """The second is what other devices run."""
    q, keys, values = (x.to(dtype) for x in tensors(1, True, *[(2, 3, 9, 16)] * 3))
    visible = torch.rand(9, 9, generator=torch.Generator().manual_seed(2)) < 0.5
    visible |= torch.eye(9, dtype=torch.bool)
    tolerance = {"atol": 0.02, "rtol": 0.02} if dtype == torch.bfloat16 else {}
    for mask in (None, additive(visible, dtype)):
        for left, right in zip(
            attend(q, keys, values, 0.25, mask),
            attend_plainly(q, keys, values, 0.25, mask),
            strict=True,
        ):
            torch.testing.assert_close(left, right, **tolerance)


def test_a_part_that_outweighs_the_other_is_not_lost():
    """Scores of ±200: e^200 is no float32."""
    q = torch.full((1, 1, 1, 4), 10.0)
    values = (torch.tensor([[[[1.0] * 4]]]), torch.tensor([[[[2.0] * 4]]]))
    for sign, kept in ((1, 1.0), (-1, 2.0)):
        far, near = torch.full((1, 1, 1, 4), 10.0 * sign), torch.full((1, 1, 1, 4), -10.0 * sign)
        found = cascade_attention(q, (far, values[0]), (near, values[1]))
        assert torch.equal(found, torch.full_like(found, kept))


@pytest.mark.parametrize(("attn", "columns"), [("sdpa", 30), ("eager", 30), (GROUPED, 4)])
def test_where_the_target_cascades_no_mask_covers_the_prefix(attn, columns):
    tree = Proposal(torch.tensor([1, 2, 3]), (-1, -1, 1))
    target = toy.llama(attn=attn)
    inputs = tree_inputs(target.model.config, tree, 26, 30, target.device, target.dtype)
    assert inputs["attention_mask"].shape == (1, 1, 4, columns)
    assert inputs["position_ids"].tolist() == [[26, 27, 27, 28]]


def test_layers_with_a_window_keep_their_whole_mask():
    tree = Proposal(torch.tensor([1, 2, 3]), (-1, -1, 1))
    target = toy.qwen3(attn=GROUPED)
    masks = tree_inputs(target.model.config, tree, 26, 30, target.device, target.dtype)
    shapes = {kind: tuple(mask.shape) for kind, mask in masks["attention_mask"].items()}
    assert shapes == {"full_attention": (1, 1, 4, 4), "sliding_attention": (1, 1, 4, 30)}


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_the_target_runs_it_for_trees_and_for_nothing_else(name, monkeypatch):
    calls = []

    def counted(q, prefix, local, *rest):
        calls.append((q.shape[2], prefix[0].shape[2], local[0].shape[2]))
        return cascade.cascade_attention(q, prefix, local, *rest)

    monkeypatch.setattr("targets.attention.cascade_attention", counted)
    target = toy.TARGETS[name](attn=GROUPED)
    target.start(40, 8, ())
    target.prefill(torch.arange(12))
    target.verify(3, Proposal.chain(torch.tensor([4, 5])))
    target.commit((0, 1))
    assert not calls
    target.verify(3, Proposal(torch.tensor([4, 5]), (-1, -1)))
    full = {"llama": 2, "qwen3": 2}[name]  # of qwen3's four layers two have a window
    assert calls == [(3, 15, 3)] * full
