"""Exact mode: the bits of one-token passes in bfloat16, or a sentence before the run begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from drafters.base import Proposal
from drafters.none import NoDrafter
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from targets import exact
from targets.exact import TreeProposed, hold
from tests import toy

GREEDY = Sampling()
PROMPT = list(range(2, 13))
BLOCKS = range(1, 9)


class Recorded(toy.ToyTarget):
    """Keeps the logits of every committed row behind the prompt."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[torch.Tensor] = []
        self.shapes: set[tuple[int, ...]] = set()
        self.model.get_decoder().register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        if kwargs["past_key_values"].length:
            self.shapes.add(tuple(kwargs["input_ids"].shape))

    def verify(self, pending: int, proposal: Proposal) -> Any:
        self._last = super().verify(pending, proposal)
        return self._last

    def commit(self, path: Any) -> None:
        self.rows += [self._last.logits[0], *(self._last.logits[node + 1] for node in path)]
        super().commit(path)


def _target(name: str) -> Recorded:
    made = toy.TARGETS[name](attn="exact", dtype=torch.bfloat16)
    return Recorded(made.model, None, name=name)


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_chains_have_the_bits_of_one_token_passes(name: str) -> None:
    target = _target(name)
    hold(target, 8)
    assert target.describe()["exact_rows"] == 8
    loop = generate(target, NoDrafter(), PROMPT, sampling=GREEDY, max_new_tokens=48)
    expected, answer = torch.stack(target.rows), list(loop.new_tokens)
    for block in BLOCKS:
        for right in (block - 1, block // 2):
            target.rows = []
            script = toy.Script(answer, block, lambda turn, right=right: right)
            done = generate(target, script, PROMPT, sampling=GREEDY, max_new_tokens=48)
            assert list(done.new_tokens) == answer
            found = torch.stack(target.rows)
            assert torch.equal(found, expected[: len(found)]), (block, right)
    assert target.shapes == {(1, 8)}


def test_the_width_of_keys_is_a_matter_of_the_prompt_alone() -> None:
    """A cache that an earlier, longer answer left would be another shape."""
    target = _target("llama")
    target.fixed_rows = 4
    widths = []
    for max_tokens, max_nodes in ((30, 0), (60, 3), (30, 3)):
        target.start(max_tokens, max_nodes, ())
        assert target._cache is not None
        widths.append(target._cache.layers[0].get_mask_sizes(4)[0])
    assert widths == [48, 64, 48]


def test_a_machine_that_fails_the_probe_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = _target("llama")
    plain = exact._logits

    def by_place(target: Any, context: int, ids: torch.Tensor, width: int) -> torch.Tensor:
        return plain(target, context, ids, width) + (0.5 if width > 1 else 0.0)

    monkeypatch.setattr(exact, "_logits", by_place)
    with pytest.raises(UserError, match=r"--exact does not hold here: llama .* among 4; leave"):
        hold(target, 4)


def test_the_probe_sees_rows_that_depend_on_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    target = _target("llama")
    target.lm_head.register_forward_hook(lambda module, args, out: out * (1 + out.shape[1]))
    hold(target, 4)
    monkeypatch.setattr(toy.ToyTarget, "fixed_rows", property(lambda self: None, lambda *_: None))
    with pytest.raises(UserError, match="does not hold"):
        hold(target, 4)


def test_a_tree_is_refused() -> None:
    target = _target("llama")
    hold(target, 4)
    target.start(30, 3, ())
    target.prefill(torch.tensor(PROMPT))
    with pytest.raises(TreeProposed, match="--exact holds for chains only"):
        target.verify(3, Proposal(torch.tensor([4, 5]), (-1, -1)))


def test_a_target_without_the_mode_is_refused() -> None:
    with pytest.raises(UserError, match="has no exact mode"):
        hold(type("Other", (), {"name": "other"})(), 4)
