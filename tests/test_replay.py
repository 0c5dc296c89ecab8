"""Batched replay against the decoding loop: the same rounds, whatever the block and the end."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from drafters.block_diffusion import replay as module
from drafters.block_diffusion.data import TrainingSequence, make_blocks
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.replay import Drafts, chain_correlation, draft_behind, walk
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model
from drafters.none import build as build_none
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.metrics import NoData
from harness.sampling import Sampling
from tests import toy
from tests.bench.replay import known, num_different, sequential
from tests.test_block_diffusion import small_config

TRAINED = 5
LENGTH = 24


def sequence_of(target, prompt, max_new_tokens=LENGTH) -> TrainingSequence:
    none = build_none(target, DrafterOptions(name="none"))
    answer = generate(
        target, none, prompt, sampling=Sampling(), max_new_tokens=max_new_tokens
    ).new_tokens
    return TrainingSequence((*prompt, *answer), len(prompt))


def stopped(item: TrainingSequence, stop: int) -> TrainingSequence:
    """The same answer, ended by its first ``stop``."""
    answer = item.ids[item.start :]
    end = answer.index(stop) + 1 if stop in answer else len(answer)
    return TrainingSequence(item.ids[: item.start + end], item.start)


def features_of(target, sequences):
    def features(indices):
        parts = []
        for index in indices:
            ids = torch.tensor([sequences[index].ids])
            parts.append(target.features_of(ids, torch.ones_like(ids), (0, 2))[0])
        return torch.cat(parts)

    return features


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


@pytest.fixture(scope="module")
def sequences(target) -> list[TrainingSequence]:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (10,), generator=draw).tolist()
    prompts = [torch.randint(0, toy.VOCAB, (n,), generator=draw).tolist() for n in lengths]
    return [sequence_of(target, prompt) for prompt in prompts]


@pytest.fixture(scope="module")
def model(target, sequences):
    """Trained on the answers it is replayed on, so that many drafts are right and many wrong."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target, TRAINED), head, seed=1, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    anchors = [np.arange(s.start, len(s.ids) - 1) for s in sequences]
    blocks = make_blocks(sequences, anchors, TRAINED)
    features = features_of(target, sequences)(range(len(sequences))).clone()
    for _ in range(40):
        optimizer.zero_grad()
        block_loss(model, blocks, features, head, Objective()).total.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def loop(target, model, sequences, block_size, max_new_tokens, vocabulary=None):
    """Rounds of the decoding loop, and the drafter that made them."""
    drafter = BlockDiffusionDrafter(model, target, block_size, vocabulary=vocabulary)
    answers = [
        generate(
            target,
            drafter,
            sequence.ids[: sequence.start],
            sampling=Sampling(),
            max_new_tokens=max_new_tokens,
        )
        for sequence in sequences
    ]
    for answer, sequence in zip(answers, sequences, strict=True):
        assert answer.new_tokens == sequence.ids[sequence.start :][:max_new_tokens]
    return [answer.rounds for answer in answers], drafter


def replayed(target, model, sequences, block_size, max_new_tokens, vocabulary=None):
    drafts = draft_behind(
        model,
        target,
        DraftHead(target, vocabulary),
        sequences,
        features_of(target, sequences),
        block_size=block_size,
        max_new_tokens=max_new_tokens,
    )
    return [walk(item) for item in drafts]


def test_the_drafter_is_neither_always_right_nor_always_wrong(target, model, sequences):
    rounds = [r for item in replayed(target, model, sequences, TRAINED, LENGTH) for r in item]
    assert {r.accepted for r in rounds if r.depth == TRAINED - 1} == set(range(TRAINED))


@pytest.mark.parametrize("block_size", [2, 3, TRAINED, 9])
@pytest.mark.parametrize("max_new_tokens", [1, 2, 3, TRAINED, LENGTH - 1, LENGTH])
def test_rounds_are_those_of_the_loop(target, model, sequences, block_size, max_new_tokens):
    measured, drafter = loop(target, model, sequences, block_size, max_new_tokens)
    batched = replayed(target, model, sequences, block_size, max_new_tokens)
    assert batched == measured
    if max_new_tokens == LENGTH:
        features = features_of(target, sequences)
        one_by_one = [
            sequential(drafter, sequence, features([i]), LENGTH)
            for i, sequence in enumerate(sequences)
        ]
        assert batched == one_by_one


def test_rounds_of_an_answer_that_stops_are_those_of_the_loop(target, model, sequences):
    """Any token of the answers as the stop token; what was accepted behind it no answer tells."""
    stops = {token for item in sequences for token in item.ids[item.start :]}
    ends = set()
    for stop in sorted(stops)[::8]:
        some = [stopped(item, stop) for item in sequences[:5]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, "stop_ids", frozenset({stop}))
            measured, _ = loop(target, model, some, TRAINED, LENGTH)
        batched = replayed(target, model, some, TRAINED, LENGTH)
        assert batched == [tuple(map(known, rounds)) for rounds in measured]
        assert num_different(batched, measured) == 0
        ends |= {rounds[-1].committed for rounds in batched if rounds}
    assert len(ends) > 2


def test_an_answer_ends_where_the_context_does(target, model):
    prompt = torch.randint(0, toy.VOCAB, (118,), generator=torch.Generator().manual_seed(1))
    sequences = [sequence_of(target, prompt.tolist())]
    assert len(sequences[0].ids) == target.max_context
    measured, _ = loop(target, model, sequences, TRAINED, LENGTH)
    assert replayed(target, model, sequences, TRAINED, LENGTH) == measured


def test_a_draft_vocabulary_is_kept_to(target, model, sequences):
    some = torch.arange(0, toy.VOCAB, 2)
    measured, _ = loop(target, model, sequences, TRAINED, LENGTH, some)
    batched = replayed(target, model, sequences, TRAINED, LENGTH, some)
    assert batched == measured
    assert all(token % 2 == 0 for item in batched for r in item for token in r.draft_tokens)


@pytest.mark.parametrize("rows", [1, 7 * TRAINED, 30 * TRAINED])
def test_bounds_of_a_pass_change_nothing(target, model, sequences, rows, monkeypatch):
    whole = replayed(target, model, sequences, TRAINED, LENGTH)
    monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(module, "_LOGITS", 5 * toy.VOCAB)
    assert replayed(target, model, sequences, TRAINED, LENGTH) == whole


def drafts_of(target, model, sequences, vocabulary=None) -> list[Drafts]:
    return draft_behind(
        model,
        target,
        DraftHead(target, vocabulary),
        sequences,
        features_of(target, sequences),
        block_size=TRAINED,
        max_new_tokens=LENGTH,
    )


@pytest.mark.parametrize("vocabulary", [None, torch.arange(0, toy.VOCAB, 2)])
def test_log_q_is_that_of_the_drafting_distribution(target, model, sequences, vocabulary):
    item = drafts_of(target, model, sequences[:2], vocabulary)[1]
    drafter = BlockDiffusionDrafter(model, target, TRAINED, "sample", vocabulary=vocabulary)
    sequence = sequences[1]
    features = features_of(target, sequences)([1])
    for place in range(len(item.answer) - 1):
        row = sequence.start + place
        sampling = Sampling(temperature=1.0)
        drafter.start(torch.tensor(sequence.ids[:row]), features[:row], sampling)
        q = drafter.propose(sequence.ids[:row], sequence.ids[row], TRAINED).q
        ahead = sequence.ids[row + 1 : row + TRAINED]
        expected = [float(q[k, token].log()) for k, token in enumerate(ahead)]
        np.testing.assert_allclose(item.log_q[place, : len(ahead)], expected, atol=1e-4)
        assert np.isnan(item.log_q[place, len(ahead) :]).all()


def test_logits_are_scaled_and_capped_as_the_drafters_config_says(target, model, sequences):
    body = dataclasses.replace(model.config, output_multiplier=0.5, final_logit_softcapping=2.0)
    other = BlockDiffusionModel(body)
    other.load_state_dict(model.state_dict())
    drafts = drafts_of(target, other.eval().requires_grad_(False), sequences[:1])[0]
    sequence = sequences[0]
    drafter = BlockDiffusionDrafter(other, target, TRAINED, "sample")
    features = features_of(target, sequences)([0])[: sequence.start]
    drafter.start(torch.tensor(sequence.ids[: sequence.start]), features, Sampling(temperature=1.0))
    first, *ahead = sequence.ids[sequence.start :][:TRAINED]
    q = drafter.propose(sequence.ids[: sequence.start], first, TRAINED).q
    expected = [float(q[k, token].log()) for k, token in enumerate(ahead)]
    np.testing.assert_allclose(drafts.log_q[0], expected, atol=1e-4)


def test_the_walk_by_hand():
    """Answer 1 … 7 and a limit of 8: three right of three, then none, then two places left."""
    answer = np.arange(1, 8)
    tokens = np.array([[2, 3, 4], [0, 0, 0], [0, 0, 0], [0, 0, 0], [9, 7, 7], [7, 9, 9]])
    drafts = Drafts(answer, tokens, np.zeros((6, 3), np.float32), 8)

    def facts(drafts):
        return [(r.depth, r.accepted, r.committed) for r in walk(drafts)]

    assert facts(drafts) == [(3, 3, 4), (2, 0, 1), (1, 1, 1)]
    assert facts(dataclasses.replace(drafts, limit=7)) == [(3, 3, 4), (1, 0, 1), (0, 0, 1)]


def test_chain_correlation_counts_whole_blocks_only(target, model, sequences):
    drafts = drafts_of(target, model, sequences)
    found = chain_correlation(drafts)
    assert found.num_clusters == len(sequences)
    assert found.num_pairs == sum(len(s.ids) - s.start - TRAINED + 1 for s in sequences)
    assert 0 < found.spearman < 1
    assert found.spearman_interval[0] < found.spearman < found.spearman_interval[1]
    with pytest.raises(NoData):
        chain_correlation([])


def test_the_reward_of_a_certain_block_is_one_and_of_an_impossible_one_nothing():
    """Eq. 12 on two blocks of each answer; the correlation with the accepted length is perfect."""
    answer = np.array([1, 2, 3, 4])
    sure, never = [0.0, 0.0], [-np.inf, 0.0]
    drafts = [
        Drafts(
            answer,
            np.array([[2, 3], [0, 4], [0, 0]]),
            np.array([sure, never, [0.0, np.nan]], np.float32),
            4,
        )
        for _ in range(6)
    ]
    found = chain_correlation(drafts)
    assert found.num_pairs == 12
    assert found.pearson == pytest.approx(1)


def test_the_reward_of_a_block_is_that_of_its_prefixes():
    """Rewards 1, 3/4 and 0 where 2, 1 and 0 drafts are right; by offsets alone the last had 1/2."""
    log_q = [[0.0, 0.0], [0.0, np.log(0.5)], [-np.inf, 0.0], [0.0, np.nan]]
    tokens = np.array([[2, 3], [3, 0], [0, 5], [0, 0]])
    drafts = [Drafts(np.arange(1, 6), tokens, np.array(log_q, np.float32), 5) for _ in range(6)]
    found = chain_correlation(drafts)
    assert found.num_pairs == 18
    assert found.pearson == pytest.approx(np.corrcoef([1, 0.75, 0], [2, 1, 0])[0, 1])
