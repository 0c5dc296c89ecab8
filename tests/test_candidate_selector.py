"""The candidate selector of DFlash 2, against its formula written out in loops."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from drafters.base import Marginals
from drafters.block_diffusion.candidate_selector import CandidateSelector, SelectorShape

VOCAB, WIDTH, DEPTH = 9, 6, 4
PENDING = 5


def random_selector(rank: int = 3, top_k: int = 4, seed: int = 0) -> CandidateSelector:
    selector = CandidateSelector(WIDTH, VOCAB, SelectorShape(rank=rank, top_k=top_k)).double()
    draw = torch.Generator().manual_seed(seed)
    for parameter in selector.requires_grad_(False).parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=draw))
    return selector


def scene(
    depth: int = DEPTH, seed: int = 1, columns: int = VOCAB
) -> tuple[torch.Tensor, Marginals]:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(depth, WIDTH, generator=draw, dtype=torch.float64)
    logits = torch.randn(depth, columns, generator=draw, dtype=torch.float64)
    return hidden, Marginals(logits)


def literal_scores(
    selector: CandidateSelector, hidden: torch.Tensor, base: Marginals, t: int, before: int
) -> dict[int, float]:
    """``U_t(b) + Σ_r A[a, r] · (W h_t)[r] · B[b, r]`` of the candidates b behind a."""
    first = selector.predecessor_codebook[before].tolist()
    gate = (selector.hidden_projection.weight @ hidden[t]).tolist()
    unary = {int(base.token_ids(torch.tensor(c))): u for c, u in enumerate(base.logits[t].tolist())}
    best = sorted(unary, key=lambda token: unary[token], reverse=True)[: selector.top_k]
    return {
        b: unary[b]
        + sum(
            a_r * g_r * b_r
            for a_r, g_r, b_r in zip(
                first, gate, selector.successor_codebook[b].tolist(), strict=True
            )
        )
        for b in best
    }


def literal_q(scores: dict[int, float], temperature: float) -> dict[int, float]:
    weights = {token: math.exp(score / temperature) for token, score in scores.items()}
    return {token: weight / sum(weights.values()) for token, weight in weights.items()}


def literal_chain(selector: CandidateSelector, hidden: torch.Tensor, base: Marginals) -> list[int]:
    chain = [PENDING]
    for t in range(len(hidden)):
        scores = literal_scores(selector, hidden, base, t, chain[-1])
        chain.append(max(scores, key=lambda token: scores[token]))
    return chain[1:]


@pytest.mark.parametrize("depth", [1, 2, DEPTH])
@pytest.mark.parametrize(("rank", "top_k"), [(3, 4), (1, 1), (5, VOCAB), (3, 99)])
def test_the_best_chain_equals_the_formula(depth: int, rank: int, top_k: int) -> None:
    differs = 0
    for seed in range(20):
        selector = random_selector(rank, top_k, seed)
        hidden, base = scene(depth, seed + 100)
        chain = selector.best_chain(hidden, base, PENDING).tolist()
        assert chain == literal_chain(selector, hidden, base)
        differs += chain != base.logits.argmax(-1).tolist()
    assert (differs > 0) == (top_k > 1)


def test_columns_of_a_part_of_the_vocabulary_are_its_tokens() -> None:
    selector = random_selector()
    hidden, part = scene(columns=6)
    base = Marginals(part.logits, torch.tensor([0, 2, 3, 5, 7, 8]))
    chain = selector.best_chain(hidden, base, PENDING).tolist()
    assert chain == literal_chain(selector, hidden, base)
    tokens, q = selector.sampled_chain(hidden, base, PENDING, 1.0, torch.Generator())
    assert q.shape == (DEPTH, VOCAB)
    assert not q[:, [1, 4, 6]].any()
    assert not set(tokens.tolist()) & {1, 4, 6}


def test_without_successors_the_base_logits_decide() -> None:
    selector = random_selector()
    selector.successor_codebook.zero_()
    hidden, base = scene()
    chain = selector.best_chain(hidden, base, PENDING)
    assert torch.equal(chain, base.logits.argmax(-1))
    _, q = selector.sampled_chain(hidden, base, PENDING, 0.7, torch.Generator().manual_seed(0))
    values, tokens = base.logits.topk(selector.top_k)
    assert torch.equal(q.topk(selector.top_k).indices, tokens)
    torch.testing.assert_close(q.gather(1, tokens), (values.float() / 0.7).softmax(-1))


def test_q_is_the_formula_behind_the_tokens_that_were_drawn() -> None:
    selector, (hidden, base) = random_selector(), scene()
    generator = torch.Generator().manual_seed(2)
    seen = set()
    for _ in range(50):
        tokens, q = selector.sampled_chain(hidden, base, PENDING, 0.8, generator)
        chain = [PENDING, *tokens.tolist()]
        seen.add(tuple(chain))
        for t in range(DEPTH):
            expected = torch.zeros(VOCAB)
            scores = literal_scores(selector, hidden, base, t, chain[t])
            for token, chance in literal_q(scores, 0.8).items():
                expected[token] = chance
            torch.testing.assert_close(q[t], expected)
            assert q[t, chain[t + 1]] > 0
    assert len(seen) > 5


def test_chains_are_drawn_as_often_as_q_says() -> None:
    selector, (hidden, base) = random_selector(top_k=3), scene(depth=2)
    generator, draws = torch.Generator().manual_seed(3), 4000
    counts: Counter[tuple[int, ...]] = Counter(
        tuple(selector.sampled_chain(hidden, base, PENDING, 1.5, generator)[0].tolist())
        for _ in range(draws)
    )
    q = functools.cache(
        lambda t, before: literal_q(literal_scores(selector, hidden, base, t, before), 1.5)
    )
    expected = {
        (a, b): q(0, PENDING)[a] * q(1, a)[b]
        for a, b in itertools.product(q(0, PENDING), q(1, PENDING))
    }
    assert set(counts) <= set(expected)
    means = [chance * draws for chance in expected.values()]
    assert min(means) > 5
    assert chisquare([counts[cell] for cell in expected], means).pvalue > 1e-4


def test_at_temperature_0_the_best_chain_is_drawn() -> None:
    selector, (hidden, base) = random_selector(), scene()
    tokens, q = selector.sampled_chain(hidden, base, PENDING, 0.0, torch.Generator())
    assert torch.equal(tokens, selector.best_chain(hidden, base, PENDING))
    assert torch.equal(q.argmax(-1), tokens) and torch.equal(q.sum(-1), torch.ones(DEPTH))


def test_nothing_is_read_back_from_the_device() -> None:
    """Tensors of the meta device have no values: whoever looks at one fails."""
    selector, (hidden, base) = random_selector().to("meta"), scene()
    with pytest.raises(RuntimeError):
        hidden.to("meta").sum().item()
    given = hidden.to("meta"), Marginals(base.logits.to("meta")), PENDING
    assert selector.best_chain(*given).shape == (DEPTH,)
    tokens, q = selector.sampled_chain(*given, 1.0, None)
    assert tokens.shape == (DEPTH,) and q.shape == (DEPTH, VOCAB)


@pytest.mark.parametrize("numbers", [(0, 4), (2, 0), (-1, 4)])
def test_shapes_that_cannot_be(numbers: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        SelectorShape(rank=numbers[0], top_k=numbers[1])
