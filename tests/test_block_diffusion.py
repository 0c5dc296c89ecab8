"""The drafter network: what it may see, and training against inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from drafters.block_diffusion.block_attention import BlockLayout
from drafters.block_diffusion.data import Blocks, TrainingSequence, draw_anchors, make_blocks
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.head import (
    expected_rows,
    label_log_prob,
    label_log_prob_and_soft_ce,
)
from drafters.block_diffusion.model import (
    BlockDiffusionModel,
    DrafterConfig,
    build_target_layer_ids,
)
from drafters.block_diffusion.objectives import OBJECTIVES, Objective
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model, teacher_rows
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
        mask_token_id=target.vocab_size - 1,
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


LENGTHS = (20, 17)
ANCHORS = ((3, 9, 15), (2, 8))
SECOND = LENGTHS[0]
"""First context row of the second sequence."""


def layout(lengths=LENGTHS, anchors=ANCHORS, block_size=BLOCK) -> Blocks:
    """Blocks whose tokens and labels do not matter."""
    sequences = [TrainingSequence(tuple(range(length)), 1) for length in lengths]
    return make_blocks(sequences, [np.array(a, np.int64) for a in anchors], block_size)


def batch(model, blocks: Blocks | None = None):
    blocks = layout() if blocks is None else blocks
    draw = torch.Generator().manual_seed(0)
    width = model.config.hidden_size
    shape = (len(blocks.anchors), blocks.labels.shape[1] + 1, width)
    features = torch.randn(sum(blocks.lengths), 2 * width, generator=draw, dtype=torch.float64)
    noise = torch.randn(shape, generator=draw, dtype=torch.float64)
    return noise, features, blocks


def test_context_at_or_after_the_anchor_is_invisible(model):
    noise, features, blocks = batch(model)
    before = model(noise, features, blocks)
    changed = features.clone()
    changed[9:20] += 10  # of the first sequence; its blocks 0 and 1 (anchor 9) end before it
    changed[SECOND + 8 :] += 10
    after = model(noise, changed, blocks)
    assert torch.equal(before[[0, 1, 3, 4]], after[[0, 1, 3, 4]])
    assert not torch.allclose(before[2], after[2])


def test_context_before_the_anchor_is_visible(model):
    noise, features, blocks = batch(model)
    before = model(noise, features, blocks)
    for block, (anchor, owner) in enumerate(zip(blocks.anchors, blocks.owner, strict=True)):
        changed = features.clone()
        changed[owner * SECOND + anchor - 1] += 10
        assert not torch.allclose(before[block], model(noise, changed, blocks)[block])


def test_another_block_and_another_sequence_are_invisible(model):
    noise, features, blocks = batch(model)
    before = model(noise, features, blocks)
    changed = noise.clone()
    changed[1] += 10
    after = model(changed, features, blocks)
    others = [0, 2, 3, 4]
    assert torch.equal(before[others], after[others])
    assert not torch.allclose(before[1], after[1])
    moved = features.clone()
    moved[:SECOND] += 10
    assert torch.equal(before[3:], model(noise, moved, blocks)[3:])


def test_a_block_sees_itself_in_both_directions(model):
    noise, features, blocks = batch(model)
    before = model(noise, features, blocks)
    for changed_row in (0, BLOCK - 1):
        changed = noise.clone()
        changed[0, changed_row] += 10
        after = model(changed, features, blocks)
        assert all(not torch.allclose(before[0, k], after[0, k]) for k in range(BLOCK))


def dense(model, noise, features, blocks):
    """The same network by the textbook mask over all context and all noise rows."""
    num_blocks, size, _ = noise.shape
    block_of = torch.arange(num_blocks).repeat_interleave(size)
    sequence = torch.arange(len(blocks.lengths)).repeat_interleave(torch.tensor(blocks.lengths))
    place = torch.cat([torch.arange(length) for length in blocks.lengths])
    far = (place < blocks.anchors[block_of][:, None]) & (
        sequence == blocks.owner[block_of][:, None]
    )
    mask = torch.cat((far, block_of[:, None] == block_of), dim=-1)[None, None]
    positions = (blocks.anchors[:, None] + torch.arange(size)).flatten()
    context = model.context(features[None])
    far_rope, rope = model.rope(place[None], noise), model.rope(positions[None], noise)
    x = noise.flatten(0, 1)[None]
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
    return model.norm(x).view_as(noise)


MANY = {
    "two sequences": layout(),
    "more blocks than a group": layout((60, 9), (tuple(range(2, 55)), (3,))),
    "a sequence without blocks": layout((6, 8, 12), ((4,), (), (1, 7))),
    "the first row as anchor": layout((5,), ((0, 1),)),
}


@pytest.mark.parametrize("name", MANY)
def test_gathered_attention_equals_one_dense_mask(model, name):
    given = batch(model, MANY[name])
    torch.testing.assert_close(model(*given), dense(model, *given))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", MANY)
def test_flex_attention_equals_gathered(model, name, monkeypatch):
    """Values: flex attention has no backward pass on a CPU (gradients: test_gpu.py)."""
    noise, features, blocks = batch(model, MANY[name])
    with torch.no_grad():
        given = (noise.float(), features.float(), blocks)
        expected = model.float()(*given)
        monkeypatch.setattr(BlockLayout, "gathered", BlockLayout.flex)
        torch.testing.assert_close(model(*given), expected, atol=2e-5, rtol=2e-5)


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
    blocks = layout((20,), ((5, 11, 16),))
    block_ids = torch.full((3, BLOCK), model.config.mask_token_id)
    block_ids[:, 0] = ids[blocks.anchors]
    with torch.no_grad():
        trained = model(head.embedding[block_ids], features[0], blocks)
    for index, anchor in enumerate(blocks.anchors.tolist()):
        inferred = inference_outputs(model, target, ids.tolist(), features[0], anchor)
        torch.testing.assert_close(trained[index], inferred, atol=2e-5, rtol=2e-5)


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


def test_soft_cross_entropy_and_its_gradient_equal_those_written_out():
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(9, 5, generator=draw, dtype=torch.float64)
    weight = torch.randn(11, 5, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 11, (9,), generator=draw)
    expected = expected_rows(teacher, weight, chunk=4)
    log_p, soft, correct = label_log_prob_and_soft_ce(hidden, weight, labels, expected, chunk=4)
    log_q = (hidden @ weight.T).log_softmax(-1)
    written_out = -((teacher @ weight.T).softmax(-1) * log_q).sum(-1)
    torch.testing.assert_close(soft, written_out)
    plain, plain_correct = label_log_prob(hidden, weight, labels)
    torch.testing.assert_close(log_p, plain)
    assert torch.equal(correct, plain_correct)
    first, second = torch.randn(2, 9, generator=draw, dtype=torch.float64)
    label_log_q = log_q.gather(1, labels[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(
        (first * label_log_q + second * written_out).sum(), hidden, retain_graph=True
    )
    (first * log_p + second * soft).sum().backward()
    torch.testing.assert_close(hidden.grad, gradient)


def test_a_label_is_predicted_one_row_before_it():
    sequences = [
        TrainingSequence(tuple(range(10, 19)), 2),
        TrainingSequence(tuple(range(30, 38)), 3),
    ]
    blocks = make_blocks(sequences, [np.array([2, 6]), np.array([4])], BLOCK)
    rows = teacher_rows(blocks)
    ids = torch.tensor([*range(10, 19), *range(30, 38)])
    assert torch.equal(ids[rows][blocks.valid] + 1, blocks.labels[blocks.valid])


def test_the_chunk_of_the_head_changes_neither_value_nor_gradient():
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(50, 16, generator=draw, dtype=torch.float64)
    rows, labels = torch.randn(40, 16, generator=draw, dtype=torch.float64), torch.arange(40)

    def gradient(chunk):
        hidden = rows.clone().requires_grad_()
        log_p, _ = label_log_prob(hidden, weight, labels, chunk=chunk)
        log_p.square().sum().backward()
        return log_p.detach(), hidden.grad

    whole = gradient(40)
    for chunk in (1, 7, 16):
        for ours, theirs in zip(gradient(chunk), whole, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_no_logits_outlive_their_chunk():
    """Beside rows as wide as the model, only two chunks of the vocabulary's width are alive."""
    rows, vocab, width, chunk = 512, 4096, 8, 64
    hidden = torch.randn(rows, width, requires_grad=True)
    weight, labels = torch.randn(vocab, width), torch.arange(rows)
    with torch.profiler.profile(profile_memory=True) as seen:
        log_p, _ = label_log_prob(hidden, weight, labels, chunk=chunk)
        log_p.sum().backward()
    alive = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    assert chunk * vocab * 4 < most < 4 * chunk * vocab * 4 < rows * vocab * 4


def test_block_loss_equals_cross_entropy_written_out(target):
    """Eq. 7 on real blocks, sequence ends included."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    sequences = [TrainingSequence(tuple(range(14)), 5), TrainingSequence(tuple(range(20, 29)), 4)]
    anchors = [np.array([5, 8, 12]), np.array([6])]
    blocks = make_blocks(sequences, anchors, BLOCK)
    features = torch.randn(23, 2 * target.hidden_size)
    loss = block_loss(model, blocks, features, head, Objective())
    terms = []
    for sequence, chosen, rows in zip(sequences, anchors, features.split((14, 9)), strict=True):
        for anchor in chosen.tolist():
            ids = torch.full((1, BLOCK), model.config.mask_token_id)
            ids[0, 0] = sequence.ids[anchor]
            alone = make_blocks([sequence], [np.array([anchor])], BLOCK)
            out = model(head.embedding[ids], rows, alone)
            log_q = (out[0] @ target.lm_head.weight.T).log_softmax(-1)
            labels = sequence.ids[anchor + 1 : anchor + BLOCK]
            terms += [-log_q[k + 1, label] for k, label in enumerate(labels)]
    assert loss.total.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-4)


def test_a_label_outside_the_training_vocabulary_ends_the_chain(target):
    """Restricted softmax: the offset carries no loss, and nothing behind it counts as accepted."""
    vocabulary = torch.arange(0, toy.VOCAB, 2)
    head = SharedHead.of(target, vocabulary)
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    blocks = make_blocks([TrainingSequence((0, 0, 4, 6, 7, 8), 1)], [np.array([2])], BLOCK)
    features = torch.randn(6, 2 * target.hidden_size)
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


@pytest.mark.parametrize("growth", [8, 16])
def test_a_context_that_grows_is_the_context_it_would_have_been(target, monkeypatch, growth):
    """At every length around the ends of its buffers: rows kept, rotary tables long enough."""
    monkeypatch.setattr("drafters.block_diffusion.context._GROWTH", growth)
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    ids = torch.randint(0, toy.VOCAB - 1, (40,), generator=torch.Generator().manual_seed(3))
    features = target.features_of(ids[None], torch.ones(1, 40), (0, 2))[0]
    anchors = tuple(range(3, 36))
    blocks = layout((40,), (anchors,))
    block_ids = torch.full((len(anchors), BLOCK), model.config.mask_token_id)
    block_ids[:, 0] = ids[blocks.anchors]
    with torch.no_grad():
        trained = model(head.embedding[block_ids], features, blocks)
    drafter = BlockDiffusionDrafter(model, target, BLOCK)
    drafter.start(ids[:3], features[:3], Sampling())
    for index, anchor in enumerate(anchors):
        with torch.inference_mode():
            block = drafter._block(int(ids[anchor]))
        torch.testing.assert_close(trained[index], block, atol=2e-5, rtol=2e-5)
        drafter.observe(Verdict((), (), 0), features[anchor : anchor + 1])


def test_a_context_of_many_rows_is_read_alike_however_it_came(target):
    """Past the first buffer of 512 rows: in two parts or token by token, the same block."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32).eval()
    features = torch.randn(530, 2 * target.hidden_size, generator=torch.Generator().manual_seed(1))
    blocks = []
    for parts in ([530], [505, *[1] * 25], [512, 18], [511, 2, 17]):
        drafter = BlockDiffusionDrafter(model, target, BLOCK)
        for index, part in enumerate(features.split(parts)):
            if index == 0:
                drafter.start(torch.zeros(len(part)), part, Sampling())
            else:
                drafter.observe(Verdict((), (), 0), part)
            with torch.inference_mode():
                block = drafter._block(5)
        blocks.append(block)
    for block in blocks[1:]:
        torch.testing.assert_close(block, blocks[0], atol=1e-4, rtol=1e-4)
