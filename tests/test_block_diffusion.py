"""The drafter network: what it may see, and training against inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drafters.block_diffusion.data import Blocks, TrainingSequence, draw_anchors, make_blocks
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.head import label_log_prob
from drafters.block_diffusion.model import (
    BlockDiffusionModel,
    DrafterConfig,
    build_target_layer_ids,
)
from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from drafters.block_diffusion.variant import SharedHead, block_loss, initial_model
from harness.sampling import Sampling
from harness.verify import Verdict
from tests import toy

BLOCK = 4


def small_config(target: toy.ToyTarget, block_size: int = BLOCK) -> DrafterConfig:
    return DrafterConfig(
        hidden_size=target.hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        vocab_size=target.vocab_size,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        block_size=block_size,
        mask_token_id=toy.VOCAB - 1,
        target_layer_ids=(0, 2),
        num_target_layers=target.num_layers,
    )


@pytest.fixture
def target() -> toy.ToyTarget:
    return toy.qwen3()


@pytest.fixture
def model(target) -> BlockDiffusionModel:
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    return initial_model(small_config(target), head, seed=1, dtype=torch.float64).eval()


def batch(model, num_blocks: int = 3, length: int = 20):
    draw = torch.Generator().manual_seed(0)
    width = model.config.hidden_size
    features = torch.randn(2, length, 2 * width, generator=draw, dtype=torch.float64)
    noise = torch.randn(2, num_blocks, BLOCK, width, generator=draw, dtype=torch.float64)
    anchors = torch.tensor([[3, 9, 15], [2, 8, 14]])
    return noise, features, anchors


def test_context_at_or_after_the_anchor_is_invisible(model):
    noise, features, anchors = batch(model)
    before = model(noise, features, anchors)
    changed = features.clone()
    changed[:, 9:] += 10  # block 0 and, in the first sequence, block 1 (anchor 9) end before it
    after = model(noise, changed, anchors)
    assert torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(before[0, 1], after[0, 1])
    assert torch.equal(before[1, 1], after[1, 1])
    assert not torch.allclose(before[0, 2], after[0, 2])


def test_context_before_the_anchor_is_visible(model):
    noise, features, anchors = batch(model)
    before = model(noise, features, anchors)
    for block in range(3):
        changed = features.clone()
        changed[0, anchors[0, block] - 1] += 10
        assert not torch.allclose(before[0, block], model(noise, changed, anchors)[0, block])


def test_another_block_and_another_sequence_are_invisible(model):
    noise, features, anchors = batch(model)
    before = model(noise, features, anchors)
    changed = noise.clone()
    changed[0, 1] += 10
    after = model(changed, features, anchors)
    assert torch.equal(before[0, [0, 2]], after[0, [0, 2]])
    assert torch.equal(before[1], after[1])
    assert not torch.allclose(before[0, 1], after[0, 1])


def test_a_block_sees_itself_in_both_directions(model):
    noise, features, anchors = batch(model)
    before = model(noise, features, anchors)
    for changed_row in (0, BLOCK - 1):
        changed = noise.clone()
        changed[0, 0, changed_row] += 10
        after = model(changed, features, anchors)
        assert all(not torch.allclose(before[0, 0, k], after[0, 0, k]) for k in range(BLOCK))


def test_gathered_attention_equals_one_dense_mask(model):
    """The same network by the textbook mask over all context and all noise rows."""
    noise, features, anchors = batch(model)
    expected = model(noise, features, anchors)
    batch_size, num_blocks, size, _ = noise.shape
    rows = features.shape[1]
    block_of = torch.arange(num_blocks).repeat_interleave(size)
    far = torch.arange(rows) < anchors[:, block_of].unsqueeze(-1)
    near = (block_of[:, None] == block_of)[None].expand(batch_size, -1, -1)
    mask = torch.cat((far, near), dim=-1)[:, None]
    positions = (anchors.unsqueeze(-1) + torch.arange(size)).flatten(1)
    context = model.context(features)
    far_rope = model.rope(torch.arange(rows)[None], noise)
    rope = model.rope(positions, noise)
    x = noise.flatten(1, 2)
    for layer in model.stack():
        h = layer.input_layernorm(x)
        attention = layer.self_attn
        k, v = (
            torch.cat(pair, dim=2)
            for pair in zip(
                attention.keys_values(context, *far_rope),
                attention.keys_values(h, *rope),
                strict=True,
            )
        )
        out = torch.nn.functional.scaled_dot_product_attention(
            attention.queries(h, *rope), k, v, attn_mask=mask, enable_gqa=True
        )
        x = layer.finish(x, attention.o_proj(out.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(expected, model.norm(x).view_as(expected))


def inference_outputs(model, target, ids, features, anchor):
    """Hidden rows of one block, by the drafter that decodes."""
    drafter = BlockDiffusionDrafter(model, target, BLOCK)
    # Two steps, as in decoding: a prompt, then newly committed tokens.
    split = anchor - 2
    drafter.start(torch.tensor(ids[:split]), features[:split], Sampling())
    drafter.observe(Verdict((0,), (ids[anchor - 1],), ids[anchor]), features[split:anchor])
    with torch.inference_mode():
        return drafter._block(ids[anchor])


def test_training_output_of_a_block_equals_inference(target):
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    ids = torch.randint(0, toy.VOCAB - 1, (20,), generator=torch.Generator().manual_seed(3))
    features = target.features_of(ids[None], torch.ones(1, 20), (0, 2))
    anchors = torch.tensor([[5, 11, 16]])
    blocks = torch.full((1, 3, BLOCK), model.config.mask_token_id)
    blocks[:, :, 0] = ids[anchors]
    with torch.no_grad():
        trained = model(head.embedding[blocks], features, anchors)
    for index, anchor in enumerate(anchors[0].tolist()):
        inferred = inference_outputs(model, target, ids.tolist(), features[0], anchor)
        torch.testing.assert_close(trained[0, index], inferred, atol=2e-5, rtol=2e-5)


def test_label_log_prob_and_its_gradient_equal_log_softmax():
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 11, (9,), generator=draw)
    log_p, correct = label_log_prob(hidden, weight, labels, chunk=4)
    logits = hidden @ weight.T
    expected = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(log_p, expected)
    assert torch.equal(correct, logits.argmax(-1) == labels)
    scale = torch.linspace(-1, 1, 9, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((expected * scale).sum(), hidden)
    (log_p * scale).sum().backward()
    torch.testing.assert_close(hidden.grad, gradient)


def test_block_loss_equals_cross_entropy_written_out(target):
    """Eq. 7 on real blocks, padding and sequence ends included."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    sequences = [TrainingSequence(tuple(range(14)), 5), TrainingSequence(tuple(range(20, 29)), 4)]
    anchors = [np.array([5, 8, 12]), np.array([6])]
    blocks = make_blocks(sequences, anchors, 3, BLOCK)
    features = torch.randn(2, 14, 2 * target.hidden_size)
    loss = block_loss(model, blocks, features, head, Objective())
    terms = []
    for row, (sequence, chosen) in enumerate(zip(sequences, anchors, strict=True)):
        for anchor in chosen.tolist():
            ids = torch.full((1, 1, BLOCK), model.config.mask_token_id)
            ids[0, 0, 0] = sequence.ids[anchor]
            out = model(
                head.embedding[ids],
                features[row : row + 1],
                torch.tensor([[anchor]]),
            )
            log_q = (out[0, 0] @ target.lm_head.weight.T).log_softmax(-1)
            labels = sequence.ids[anchor + 1 : anchor + BLOCK]
            terms += [-log_q[k + 1, label] for k, label in enumerate(labels)]
    assert loss.total.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


def test_a_label_outside_the_training_vocabulary_ends_the_chain(target):
    """Restricted softmax: the offset carries no loss, and nothing behind it counts as accepted."""
    vocabulary = torch.arange(0, toy.VOCAB, 2)
    head = SharedHead.of(target, vocabulary)
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    blocks = Blocks(
        torch.tensor([[2]]),
        torch.tensor([[4]]),
        torch.tensor([[[6, 7, 8]]]),
        torch.ones(1, 1, 3, dtype=torch.bool),
    )
    features = torch.randn(1, 6, 2 * target.hidden_size)
    loss = block_loss(model, blocks, features, head, OBJECTIVES["combined"])
    assert float(loss.accepted) <= 1
    assert torch.isfinite(loss.total)


def test_anchors_are_response_tokens_with_a_successor():
    sequence = TrainingSequence(tuple(range(12)), 7)
    seen = {
        int(a) for seed in range(50) for a in draw_anchors(sequence, 2, np.random.default_rng(seed))
    }
    assert seen == {7, 8, 9, 10}
    assert len(draw_anchors(sequence, 99, np.random.default_rng(0))) == 4


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [(36, 5, (1, 9, 17, 25, 33)), (24, 5, (1, 6, 11, 16, 21)), (30, 1, (15,))],
)
def test_target_layers_are_dflashs_choice(layers, count, expected):
    assert build_target_layer_ids(layers, count) == expected


def test_sampled_draft_comes_with_its_distribution(target):
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32)
    drafter = BlockDiffusionDrafter(model, target, BLOCK, "sample")
    features = torch.randn(5, 2 * target.hidden_size)
    drafter.start(torch.arange(5), features, Sampling(temperature=0.8, seed=3))
    proposal = drafter.propose(range(5), 9, 2)
    assert proposal.rule == "rejection"
    assert proposal.q is not None and proposal.q.shape == (2, toy.VOCAB)
    torch.testing.assert_close(proposal.q.sum(-1), torch.ones(2))
    drafter.start(torch.arange(5), features, Sampling(temperature=0.8, seed=3))
    assert torch.equal(drafter.propose(range(5), 9, 2).tokens, proposal.tokens)


def test_a_draft_vocabulary_bounds_what_is_proposed_and_changes_nothing_else(target):
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32)
    some = torch.arange(1, toy.VOCAB, 3)
    features = torch.randn(5, 2 * target.hidden_size)
    sampling = Sampling(temperature=0.8, seed=3)

    def proposal(draft, vocabulary=None):
        drafter = BlockDiffusionDrafter(model, target, BLOCK, draft, vocabulary=vocabulary)
        drafter.start(torch.arange(5), features, sampling)
        return drafter.propose(range(5), 9, 3)

    whole, part = proposal("sample"), proposal("sample", some)
    assert whole.q is not None and part.q is not None
    kept = torch.zeros_like(whole.q).index_copy(1, some, whole.q[:, some])
    torch.testing.assert_close(part.q, kept / kept.sum(-1, keepdim=True))
    assert set(part.tokens.tolist()) <= set(some.tolist())
    best = some[whole.q[:, some].argmax(-1)]
    assert torch.equal(proposal("argmax", some).tokens, best)


def test_rows_of_a_head_with_a_bias_keep_their_bias(target):
    target.lm_head.bias = torch.nn.Parameter(torch.randn(toy.VOCAB))
    hidden, some = torch.randn(3, target.hidden_size), torch.tensor([2, 5, 7])
    whole = DraftHead(target, None).logits(hidden)
    torch.testing.assert_close(DraftHead(target, some).logits(hidden), whole[:, some])
