"""The preallocated cache: rollback is exact and a tree's accepted rows are gathered."""

from __future__ import annotations

import random

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from drafters.base import Proposal
from harness.kv_cache import KVCache


def _filled(lengths: list[int]) -> tuple[KVCache, torch.Tensor]:
    cache = KVCache(num_layers=2, capacity=sum(lengths))
    rows = torch.randn(1, 2, sum(lengths), 4)
    start = 0
    for length in lengths:
        piece = rows[:, :, start : start + length]
        for layer in range(2):
            cache.update(piece, -piece, layer)
        start += length
    return cache, rows


def _contents(cache: KVCache, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    item = cache.layers[layer]
    return item.keys[:, :, : item.length], item.values[:, :, : item.length]


def test_update_returns_every_row_so_far_in_the_same_buffer() -> None:
    cache, rows = _filled([5, 3])
    address = cache.layers[0].keys.data_ptr()
    for layer in range(2):
        keys, values = _contents(cache, layer)
        assert torch.equal(keys, rows) and torch.equal(values, -rows)
    cache.rewind(2)
    keys, _ = cache.update(rows[:, :, :4], rows[:, :, :4], 0)
    assert torch.equal(keys, torch.cat((rows[:, :, :2], rows[:, :, :4]), dim=2))
    assert keys.data_ptr() == address


def test_whole_views_hold_zeros_behind_what_was_written() -> None:
    cache = KVCache(num_layers=1, capacity=32, whole_views=True)
    rows = torch.randn(1, 2, 18, 4)
    keys, values = cache.update(rows, rows, 0)
    assert keys.shape == values.shape == (1, 2, 32, 4)
    assert torch.equal(keys[:, :, :18], rows) and not keys[:, :, 18:].any()
    assert cache.length == 18
    assert cache.layers[0].get_mask_sizes(1) == (32, 0)


def test_a_chain_moves_no_memory() -> None:
    cache, rows = _filled([4, 6])
    before = cache.layers[0].keys.clone()
    cache.keep(4, [0, 1, 2])
    assert cache.length == 7
    assert torch.equal(cache.layers[0].keys, before)
    assert torch.equal(_contents(cache, 1)[0], rows[:, :, :7])


def test_room_is_made_while_rows_are_there() -> None:
    cache, rows = _filled([4, 2])
    cache.rewind(5)
    cache.reserve(5)  # there is room already
    assert cache.layers[0].keys.shape[2] == cache.capacity == 6
    cache.reserve(9)
    assert cache.layers[1].keys.shape[2] == cache.layers[1].capacity == 9
    for layer in range(2):
        cache.update(rows[:, :, :4], -rows[:, :, :4], layer)
        keys, values = _contents(cache, layer)
        assert torch.equal(keys, torch.cat((rows[:, :, :5], rows[:, :, :4]), dim=2))
        assert torch.equal(values, -keys)
    empty = KVCache(num_layers=1, capacity=2)
    empty.reserve(6)
    assert empty.update(rows, rows, 0)[0].shape[2] == 6


@given(past=st.integers(1, 6), kept=st.sets(st.integers(1, 9)))
def test_keep_gathers_what_a_copy_would(past: int, kept: set[int]) -> None:
    rows = [0, *sorted(kept)]
    cache, tensor = _filled([past, 10])
    cache.keep(past, rows)
    index = [*range(past), *(past + row for row in rows)]
    for layer in range(2):
        keys, values = _contents(cache, layer)
        assert torch.equal(keys, tensor[:, :, index])
        assert torch.equal(values, -tensor[:, :, index])


@pytest.mark.parametrize("attn", ("sdpa", "eager", "grouped"))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_after_a_tree_the_cache_is_that_of_a_fresh_prefill(name: str, attn: str) -> None:
    target = toy.TARGETS[name](attn=attn)
    draw = random.Random(5)
    prompt = [draw.randrange(toy.VOCAB) for _ in range(13)]
    target.start(64, 40, ())
    target.prefill(torch.tensor(prompt))
    committed = list(prompt)
    branched = 0
    for _ in range(6):
        pending = draw.randrange(toy.VOCAB)
        chain = [draw.randrange(toy.VOCAB) for _ in range(4)]
        proposal = toy.random_tree(draw, chain, 40)
        target.verify(pending, proposal)
        path = [draw.randrange(len(chain))]
        while (parent := proposal.parents[path[0]]) >= 0:
            path.insert(0, parent)
        target.commit(path)
        branched += path != list(range(len(path)))
        committed += [pending, *(int(proposal.tokens[node]) for node in path)]
    cache = target._cache
    assert cache is not None and cache.length == len(committed)
    assert branched >= 2
    held = [
        [item.clone() for item in _contents(cache, layer)] for layer in range(target.num_layers)
    ]

    fresh = toy.TARGETS[name](attn=attn)
    fresh.start(64, 40, ())
    output = fresh.prefill(torch.tensor(committed))
    assert fresh._cache is not None
    for layer, (keys, values) in enumerate(held):
        expected_keys, expected_values = _contents(fresh._cache, layer)
        torch.testing.assert_close(keys, expected_keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(values, expected_values, rtol=1e-4, atol=1e-4)
    # And the next pass goes on from it.
    target._past = 0
    cache.rewind(len(committed) - 1)
    nothing = Proposal(torch.empty(0, dtype=torch.int64), ())
    again = target.verify(committed[-1], nothing)
    torch.testing.assert_close(again.logits, output.logits, rtol=1e-3, atol=1e-3)


def test_the_library_accepts_the_cache() -> None:
    target = toy.llama()
    prompt = torch.randint(0, toy.VOCAB, (1, 9), generator=torch.Generator().manual_seed(1))
    ids = [
        target.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=cache,
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        ).tolist()
        for cache in (None, KVCache(target.num_layers, 32))
    ]
    assert ids[0] == ids[1] and len(ids[0][0]) == 21
