"""How tokens are drawn: what is kept, what is equally likely, and whose random numbers they are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import dflash2
import pytest
import torch
import toy
from marginals import put_over
from scipy.stats import chisquare
from test_block_diffusion import small_config
from test_d2sd import Given
from test_diffusion_lm import Fixed
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from drafters.diffusion_lm.drafter import DiffusionDrafter
from drafters.draft_model import DraftModelDrafter, WholeModel
from drafters.synthetic import SyntheticDrafter
from harness.decode import generate
from harness.sampling import Sampling, generation_seed

PROMPT = [3, 1, 4, 1, 5]
HOW = Sampling(temperature=1.0, top_k=4)


def kept(logits: torch.Tensor, **how: Any) -> list[int]:
    """Tokens that may be drawn."""
    return Sampling(temperature=1.0, **how).probs(logits).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("top_p", "count"), [(0.25, 1), (0.5, 2), (0.75, 3), (0.51, 3), (1.0, 4)])
def test_the_nucleus_ends_with_the_token_that_reaches_top_p(top_p: float, count: int) -> None:
    """Four equally likely tokens: their sums are exact, and a sum may be top_p itself."""
    assert kept(torch.zeros(4), top_p=top_p) == list(range(count))


def test_a_token_that_passes_top_p_is_kept() -> None:
    logits = torch.tensor([0.6, 0.3, 0.1]).log()
    assert kept(logits, top_p=0.7) == [0, 1]
    assert kept(logits, top_p=0.01) == [0]


@pytest.mark.parametrize("top_k", range(7))
def test_top_k_keeps_k_and_what_equals_the_last_of_them(top_k: int) -> None:
    assert len(kept(torch.arange(6.0), top_k=top_k)) == (top_k or 6)
    tied = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 0.0])
    assert len(kept(tied, top_k=top_k)) == {0: 6, 1: 1, 2: 4, 3: 4, 4: 4, 5: 5, 6: 6}[top_k]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.5, 0, 0.7), (2.0, 9, 0.8)])
def test_it_is_the_librarys_distribution(temperature: float, top_k: int, top_p: float) -> None:
    scores = 3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(1))
    found = Sampling(temperature, top_p, top_k).probs(scores)
    warped = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    warped = TopPLogitsWarper(top_p)(None, warped)
    torch.testing.assert_close(found, warped.softmax(-1))
    torch.testing.assert_close(found.sum(-1), torch.ones(50))


def test_a_half_precision_row_is_a_distribution_in_float32() -> None:
    scores = torch.randn(3, 200, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = Sampling(0.7).probs(scores)
    assert found.dtype == torch.float32
    assert torch.equal(found, (scores.float() / 0.7).softmax(-1))


def test_greedy_is_certain_of_the_best() -> None:
    assert Sampling().probs(torch.tensor([[0.0, 2.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("wrong", [{"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}])
def test_rules_that_keep_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(temperature=1.0, **wrong)


def test_every_answer_has_a_seed_of_its_own() -> None:
    """Run, task, prompt, turn and repeat: whichever differs, other numbers are drawn."""
    places = list(itertools.product((0, 1), ("a", "b"), ("1", "11"), (1, 2), (0, 1, 11)))
    seeds = {generation_seed(*place) for place in places}
    assert len(seeds) == len(places)
    assert generation_seed(*places[0]) == generation_seed(*places[0])


def test_each_purpose_has_numbers_of_its_own() -> None:
    def numbers(seed: int, stream: str) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=Sampling(seed=seed).generator(stream)).tolist())

    assert len({numbers(*key) for key in itertools.product((1, 2), ("verify", "draft"))}) == 4
    assert numbers(1, "draft") == numbers(1, "draft")


# Drafters that draw


def block_drafter(target: toy.ToyTarget) -> Any:
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=2, dtype=torch.float32)
    return BlockDiffusionDrafter(model, target, 4, "sample")


def second_drafter(target: toy.ToyTarget) -> Any:
    model = dflash2.random_model(target, dflash2.config(target))
    return BlockDiffusionDrafter(model, target, 4, "sample")


def small_model(target: toy.ToyTarget) -> Any:
    network = WholeModel(toy.qwen3(seed=3), target.vocab_size)
    return DraftModelDrafter(network, target.device, 4, "sample")


def denoiser(target: toy.ToyTarget) -> Any:
    logits = 2 * torch.randn(3, toy.VOCAB, generator=torch.Generator().manual_seed(4))
    return DiffusionDrafter(Fixed(logits), target, 63, 4, "sample")


def chains(policy: str) -> Callable[[toy.ToyTarget], Any]:
    logits = 2 * torch.randn(2, toy.VOCAB, generator=torch.Generator().manual_seed(5))
    return lambda target: put_over(Given(logits), policy)


DRAWING: dict[str, Callable[[toy.ToyTarget], Any]] = {
    "dflash": block_drafter,
    "dflash2": second_drafter,
    "draft_model": small_model,
    "diffuspec": denoiser,
    "self_selection": chains("self_selection:chains=1:temperature=1"),
}
"""Drafters whose tokens come with the q they were drawn from."""

OTHERS: dict[str, Callable[[toy.ToyTarget], Any]] = {
    "d2sd": chains("d2sd:resample=on"),
    "synthetic": lambda target: SyntheticDrafter("cpu", target.vocab_size, 0.5, 4),
}
"""Drafters that draw, and state no q."""


@pytest.mark.parametrize("name", DRAWING)
def test_a_draft_is_drawn_from_the_q_it_comes_with(name: str) -> None:
    """The first token, over many answers: chi-square against the q of each of them."""
    target, draws = toy.qwen3(), 600
    drafter = DRAWING[name](target)
    prompt, layers = torch.tensor(PROMPT), drafter.feature_layers
    features = target.features_of(prompt[None], torch.ones(1, 5), layers)[0] if layers else None
    counts, q = torch.zeros(toy.VOCAB), torch.empty(0)
    for seed in range(draws):
        drafter.start(prompt, features, dataclasses.replace(HOW, seed=seed))
        made = drafter.propose(PROMPT, 7, 1)
        assert made.q is not None
        q = made.q[0]
        counts[made.tokens[0]] += 1
    assert q.sum().item() == pytest.approx(1)
    seen = q * draws >= 5
    assert int(seen.sum()) >= 2 and not counts[q == 0].any()
    means = q[seen].double() / q[seen].double().sum() * counts[seen].sum()
    assert chisquare(counts[seen].double(), means).pvalue > 1e-4
    # A draw from the square root of q, which is flatter, would be noticed here.
    flat = q[seen].sqrt().double()
    assert chisquare(counts[seen].double(), flat / flat.sum() * counts[seen].sum()).pvalue < 1e-4


@pytest.mark.parametrize("name", [*DRAWING, *OTHERS])
def test_drafts_and_coins_come_from_streams_of_their_own(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A draft that shared the coins' numbers would not be independent of its acceptance."""
    target = toy.qwen3()
    drafter = {**DRAWING, **OTHERS}[name](target)
    streams: list[str] = []
    honest = Sampling.generator

    def noted(self: Sampling, stream: str, device: Any = "cpu") -> torch.Generator:
        streams.append(stream)
        return honest(self, stream, device)

    monkeypatch.setattr(Sampling, "generator", noted)
    if name == "synthetic":
        drafter.prepare(PROMPT, [1, 2, 3, 4, 5, 6])
    generate(target, drafter, PROMPT, sampling=HOW, max_new_tokens=6)
    assert streams == ["verify", "draft"]
