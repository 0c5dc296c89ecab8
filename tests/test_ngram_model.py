"""The 3-gram model: proper probabilities, the formula written out, files."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from drafters.block_diffusion.data import TrainingSequence
from drafters.ngram_model import FILE, NgramModel
from harness.errors import UserError

VOCAB = 5

sequences = st.lists(
    st.lists(st.integers(0, VOCAB - 1), min_size=3, max_size=14).map(
        lambda ids: TrainingSequence(tuple(ids), 1)
    ),
    min_size=1,
    max_size=5,
)


def trigrams(corpus: list[TrainingSequence]) -> Counter[tuple[int, ...]]:
    return Counter(
        tuple(sequence.ids[place - 2 : place + 1])
        for sequence in corpus
        for place in range(max(sequence.start, 2), len(sequence.ids))
    )


def discounted(counts: Counter[tuple[int, ...]], gram: tuple[int, ...], lower: float) -> float:
    """max(c − D, 0) / Σ c + (D · kinds / Σ c) · lower, over all that share gram's context."""
    of = Counter(counts.values())
    discount = of[1] / (of[1] + 2 * of[2]) if of[1] else 0.0
    discount = min(max(discount, 0.1), 0.95)
    behind = [count for other, count in counts.items() if other[:-1] == gram[:-1]]
    if not behind:
        return lower
    own = max(counts[gram] - discount, 0) / sum(behind)
    return own + discount * len(behind) / sum(behind) * lower


def brute_force(corpus: list[TrainingSequence], gram: tuple[int, int, int]) -> float:
    third = trigrams(corpus)
    before = defaultdict(set)
    for u, v, w in third:
        before[v, w].add(u)
    second = Counter({pair: len(kinds) for pair, kinds in before.items()})
    alone = Counter(w for _, w in second)
    first = Counter({(w,): kinds for w, kinds in alone.items()})
    p = discounted(first, gram[2:], 1 / VOCAB)
    return discounted(third, gram, discounted(second, gram[1:], p))


def probs(model: NgramModel, vocab: int = VOCAB) -> np.ndarray:
    """``[V², V]``: every token behind every pair."""
    before = np.array(list(product(range(vocab), repeat=2)))
    tokens = np.broadcast_to(np.arange(vocab), (len(before), vocab))
    return np.exp(model.log_probs(before, tokens))


@given(corpus=sequences)
def test_it_is_kneser_neys_formula_and_sums_to_one(corpus: list[TrainingSequence]) -> None:
    found = probs(NgramModel.fit(corpus, VOCAB))
    np.testing.assert_allclose(found.sum(1), 1)
    expected = [brute_force(corpus, gram) for gram in product(range(VOCAB), repeat=3)]  # type: ignore[arg-type]
    np.testing.assert_allclose(found.ravel(), expected)
    assert found.min() > 0


def test_what_was_seen_often_is_likelier_than_what_was_not() -> None:
    corpus = [TrainingSequence((0, 1, 2) * 4 + (0, 1, 3), 1)]
    model = NgramModel.fit(corpus, VOCAB)
    p = np.exp(model.log_probs(np.array([[0, 1]]), np.array([[2, 3, 4]])))[0]
    assert p[0] > p[1] > p[2]


def test_prompts_are_context_only() -> None:
    model = NgramModel.fit([TrainingSequence((0, 1, 2, 3, 4), 3)], VOCAB)
    assert model.trigrams.tolist() == [[1, 2, 3], [2, 3, 4]]


def test_a_large_corpus_loses_its_rarest_trigrams() -> None:
    corpus = [TrainingSequence((0, 1, 2, 0, 1, 2, 0, 3, 4), 0)]
    whole, part = NgramModel.fit(corpus, VOCAB), NgramModel.fit(corpus, VOCAB, most_bytes=8 * 3)
    assert len(whole.trigrams) == 5
    assert part.trigrams.tolist() == [[0, 1, 2], [0, 3, 4], [1, 2, 0]]
    np.testing.assert_allclose(probs(part).sum(1), 1)


def test_the_file_holds_the_model(tmp_path: Path) -> None:
    model = NgramModel.fit([TrainingSequence((0, 1, 2, 0, 1, 2, 4), 0)], VOCAB)
    model.save(tmp_path)
    for path in (tmp_path, tmp_path / FILE):
        np.testing.assert_array_equal(probs(NgramModel.load(path, VOCAB)), probs(model))
    assert load_file(tmp_path / FILE)["trigrams"].dtype == np.uint16
    assert NgramModel.load(tmp_path, VOCAB).digest() == model.digest()
    other = NgramModel.fit([TrainingSequence((0, 1, 2, 0, 1, 2, 3), 0)], VOCAB)
    assert other.digest() != model.digest()


@pytest.mark.parametrize("vocab", [2**16, 2**16 + 1, 100_000, 151_936])
def test_a_large_vocabulary_fits(tmp_path: Path, vocab: int) -> None:
    last = vocab - 1
    model = NgramModel.fit([TrainingSequence((last, last - 1, last, 7), 0)], vocab)
    model.save(tmp_path)
    again = NgramModel.load(tmp_path, vocab)
    assert again.trigrams.tolist() == [[last - 1, last, 7], [last, last - 1, last]]
    before, tokens = np.array([[last, last - 1]]), np.array([[last, 7]])
    right, wrong = again.log_probs(before, tokens)[0]
    assert right > wrong


def test_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="no trigram"):
        NgramModel.fit([TrainingSequence((0, 1), 0)], VOCAB)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trigrams": np.array([[0, 1]])}, "other shapes"),
        ({"counts": np.array([0])}, "counts are none"),
        ({"trigrams": np.array([[0, 1, 5]])}, "another tokenizer"),
        (
            {"trigrams": np.array([[0, 1, 2], [0, 1, 1]]), "counts": np.array([1, 1])},
            "not in order",
        ),
        (
            {"trigrams": np.array([[0, 1, 2], [0, 1, 2]]), "counts": np.array([1, 1])},
            "not in order",
        ),
    ],
)
def test_broken_files_are_sentences(
    tmp_path: Path, change: dict[str, np.ndarray], words: str
) -> None:
    body = {"trigrams": np.array([[0, 1, 2]]), "counts": np.array([1]), **change}
    save_file({name: value.astype(np.uint16) for name, value in body.items()}, tmp_path / FILE)
    with pytest.raises(UserError, match=words):
        NgramModel.load(tmp_path, VOCAB)


def test_other_files_are_sentences(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no such thing")
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"cannot be used .* train --drafter dlm"):
            NgramModel.load(path, VOCAB)
    save_file({"counts": np.array([1])}, tmp_path / FILE)
    with pytest.raises(UserError, match="trigrams"):
        NgramModel.load(tmp_path, VOCAB)


def test_counts_stop_where_the_file_has_no_room_for_more(tmp_path: Path) -> None:
    model = NgramModel.fit([TrainingSequence((0, 1, 2) * 70_000, 0)], VOCAB)
    assert model.counts.tolist() == [65_535] * 3
    model.save(tmp_path)
    assert NgramModel.load(tmp_path, VOCAB).counts.tolist() == [65_535] * 3
