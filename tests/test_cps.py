"""Causal-consistency path search: the lattice, the search, the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from test_ddtree import Fixed

from drafters.base import Marginals, Proposal
from drafters.block_diffusion.data import TrainingSequence
from drafters.cps import Column, PathSearch, Settings, best_path, build, lattice
from drafters.ngram_model import NgramModel
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling

VOCAB = 6
STOP = np.array([0])
NGRAMS = NgramModel.fit([TrainingSequence((1, 2, 3, 4, 1, 2, 5, 0, 3, 1, 2, 3, 0), 0)], VOCAB)
BEFORE = np.array([1, 2])

rows = st.lists(
    st.lists(st.floats(-4, 4, width=32), min_size=VOCAB, max_size=VOCAB), min_size=1, max_size=3
)


def columns_of(logits: list[list[float]], settings: Settings) -> list[Column]:
    return lattice(Marginals(torch.tensor(logits)), STOP, settings)


def mean_score(path: Sequence[int], columns: list[Column], settings: Settings) -> float:
    """Eq. 8 over the path's length, one token at a time."""
    total, before = 0.0, BEFORE.tolist()
    for token, column in zip(path, columns, strict=False):
        dlm = float(column.log_p[column.tokens.tolist().index(token)])
        ngram = float(NGRAMS.log_probs(np.array([before]), np.array([[token]]))[0, 0])
        total += settings.weight * dlm + (1 - settings.weight) * ngram
        before = [before[1], token]
    return total / len(path)


def all_paths(columns: list[Column]) -> list[list[int]]:
    whole: list[list[int]] = []
    live: list[list[int]] = [[]]
    for depth, column in enumerate(columns, start=1):
        grown = [[*path, int(token)] for path in live for token in column.tokens]
        ends = [path for path in grown if path[-1] in STOP or depth == len(columns)]
        whole += ends
        live = [path for path in grown if path[-1] not in STOP]
    return whole


@given(logits=rows, weight=st.floats(0, 1), width=st.integers(1, 4))
def test_a_wide_beam_finds_the_best_of_all_paths(
    logits: list[list[float]], weight: float, width: int
) -> None:
    settings = Settings(beam=10_000, weight=weight, max_width=width)
    columns = columns_of(logits, settings)
    found = best_path(columns, BEFORE, NGRAMS, STOP, settings)
    best = max(mean_score(path, columns, settings) for path in all_paths(columns))
    assert found in all_paths(columns)
    assert mean_score(found, columns, settings) == pytest.approx(best, abs=1e-9)


@given(logits=rows, beam=st.integers(1, 3))
def test_a_narrow_beam_finds_a_path_that_is_no_better(logits: list[list[float]], beam: int) -> None:
    settings = Settings(beam=beam)
    columns = columns_of(logits, settings)
    found = best_path(columns, BEFORE, NGRAMS, STOP, settings)
    assert found in all_paths(columns)
    best = max(mean_score(path, columns, settings) for path in all_paths(columns))
    assert mean_score(found, columns, settings) <= best + 1e-9


def test_the_beam_is_as_wide_as_asked() -> None:
    """The 3-gram model likes what follows the token that is third best at first."""
    columns = [
        Column(np.array([1, 2, 3]), np.log([0.4, 0.3, 0.29])),
        Column(np.array([4, 5]), np.log([0.6, 0.4])),
    ]
    ngrams = NgramModel.fit([TrainingSequence((5, 3, 4), 0)] * 9, VOCAB)
    before, nothing = np.array([5, 5]), np.array([], np.int64)
    for beam, path in ((3, [3, 4]), (2, [1, 4])):
        assert best_path(columns, before, ngrams, nothing, Settings(beam=beam)) == path


@given(logits=rows, mass=st.floats(0.05, 1), width=st.integers(1, VOCAB))
def test_the_lattice_is_equation_7(logits: list[list[float]], mass: float, width: int) -> None:
    columns = columns_of(logits, Settings(mass=mass, max_width=width))
    best = torch.tensor(logits).log_softmax(-1).topk(width).values.double().numpy()
    assert len(columns) == len(logits)
    for column, log_p, row in zip(columns, best, logits, strict=True):
        sums = np.exp(log_p).cumsum()
        count = next((m for m in range(1, width + 1) if sums[m - 1] >= mass), width)
        taken, added = column.tokens[:count].tolist(), column.tokens[count:].tolist()
        np.testing.assert_array_equal(column.log_p[:count], log_p[:count])
        assert len(set(taken)) == count
        assert added == ([] if 0 in taken else [0])
        own = torch.tensor(row).log_softmax(-1)[column.tokens].numpy()
        np.testing.assert_allclose(column.log_p, own, rtol=1e-6)


def test_a_draft_vocabulary_gives_its_own_ids() -> None:
    found = Marginals(torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0, 3, 5]))
    [column] = lattice(found, STOP, Settings(mass=1))
    assert column.tokens.tolist() == [0, 5, 3]
    [column] = lattice(found, np.array([4]), Settings(mass=0.1))
    assert column.tokens.tolist() == [0]  # a stop token the drafter does not know
    [column] = lattice(found, np.array([3, 4]), Settings(mass=0.1))
    assert column.tokens.tolist() == [0, 3]


def test_a_path_ends_with_its_first_stop_token() -> None:
    sure = [[-9.0, 9, 0, 0, 0, 0], [9.0, -9, -9, -9, -9, -9], [-9.0, 9, 0, 0, 0, 0]]
    columns = columns_of(sure, Settings(weight=1))
    assert best_path(columns, BEFORE, NGRAMS, STOP, Settings(weight=1)) == [1, 0]


class Guesses(toy.Script):
    """Marginals whose second best is the answer at odd depths, the best at even ones."""

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        future = self.future(prefix_ids, budget)
        logits = torch.zeros(len(future), toy.VOCAB)
        for depth, token in enumerate(future):
            logits[depth, token] = 5.0
            logits[depth, (token + 1) % toy.VOCAB] = 5.5 if depth % 2 else 4.0
        return Marginals(logits)


def searched(prompt: list[int], answer: list[int], tmp_path: Path, **changes: Any) -> Any:
    """The policy over `Guesses`, with a 3-gram model that knows the answer."""
    knows = [TrainingSequence((*prompt, *answer), len(prompt))] * 3
    NgramModel.fit(knows, toy.VOCAB).save(tmp_path)
    text = "+".join(("guesses", ":".join(("cps", f"ngram={tmp_path}"))))
    options = DrafterOptions.parse(text)
    target = toy.llama()
    target.stop_ids = frozenset()
    return build(Guesses(answer, 8, lambda turn: 0), target, options, options.policies[0])


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_output_is_the_targets_and_the_search_accepts_more_than_the_argmax(
    name: str, tmp_path: Path
) -> None:
    target = toy.TARGETS[name]()
    prompt, answer = toy.varied_prompt(target, 18)
    policy = searched(prompt, answer, tmp_path)
    done = generate(target, policy, prompt, sampling=Sampling(), max_new_tokens=18)
    assert list(done.new_tokens) == answer
    assert done.rounds is not None
    # The argmax chain would have one token accepted in every round.
    assert max(item.accepted for item in done.rounds) > 3
    assert policy.max_nodes == 7 and policy.draft == "argmax"
    assert len(policy.checkpoint["ngram_sha256"]) == 64


def test_sampled_output_is_a_match_of_a_chain(tmp_path: Path) -> None:
    policy = searched([1, 2], [3, 4, 5, 6], tmp_path)
    policy.start(torch.tensor([1, 2]), None, Sampling(temperature=1))
    proposal: Proposal = policy.propose([1, 2], 3, 2)
    assert proposal.rule == "match" and proposal.is_chain
    assert proposal.tokens.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("mass=0", "mass must be above 0"),
        ("mass=nan", "mass must be above 0"),
        ("max_width=0", "max_width must be at least 1"),
        ("beam=0", "beam must be at least 1"),
        ("beam=two", "beam must be a whole number"),
        ("weight=2", "weight must lie between"),
        ("width=3", "no setting 'width'"),
        ("ngram=/no/where", "cannot be used"),
    ],
)
def test_bad_settings_are_sentences(setting: str, words: str) -> None:
    options = DrafterOptions.parse(f"guesses+cps:{setting}")
    with pytest.raises(UserError, match=words):
        build(Guesses([1], 4, lambda turn: 0), toy.llama(), options, options.policies[0])


def test_without_a_model_or_marginals_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    target = toy.llama()
    target.name = "nobody/has-trained-for-me"
    options = DrafterOptions.parse("combined+cps")
    guesses = Guesses([1], 4, lambda turn: 0)
    with pytest.raises(UserError, match=r"needs a 3-gram model .*train --drafter dlm"):
        build(guesses, target, options, options.policies[0])
    options = DrafterOptions.parse(f"dlm+cps={tmp_path}")
    with pytest.raises(UserError, match=r"there is no .*ngram\.safetensors"):
        build(guesses, target, options, options.policies[0])
    options = DrafterOptions.parse("ngram+cps")
    with pytest.raises(UserError, match="shows none"):
        build(toy.Script([1], 4, lambda turn: 0), target, options, options.policies[0])


def test_the_path_follows_the_two_tokens_before_it() -> None:
    """In their order: what follows (1, 2) is not what follows (2, 1)."""
    settings = Settings(weight=0.0, mass=1.0)
    search = PathSearch(Fixed(torch.zeros(1, VOCAB)), NGRAMS, settings, frozenset({0}))
    search.start(torch.tensor([4]), None, Sampling())
    assert search.propose([4, 1], 2, 1).tokens.tolist() == [3]
    assert search.propose([4, 2], 1, 1).tokens.tolist() == [2]
