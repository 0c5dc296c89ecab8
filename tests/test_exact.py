"""Exact mode: the bits of one-token passes in bfloat16, or a sentence before the run begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.base import Proposal
from drafters.none import NoDrafter
from harness import registry
from harness.config import RunConfig
from harness.decode import generate
from harness.errors import UserError
from harness.plan import make_plan
from harness.records import Generation, read_records
from harness.runner import run
from harness.sampling import Sampling
from reports.render import write_leaderboard
from targets import exact
from targets.base import TargetOptions
from targets.exact import TreeProposed, hold
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tests import toy
from tests.tiny_model import write_model

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
    made = toy.TARGETS[name](attn="grouped", dtype=torch.bfloat16)
    return Recorded(made.model, None, name=name)


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_chains_have_the_bits_of_one_token_passes(name: str) -> None:
    target = _target(name)
    hold(target, 8)
    assert target.describe()["exact_rows"] == 8
    target.rows = []
    loop = generate(target, NoDrafter(), PROMPT, sampling=GREEDY, max_new_tokens=24)
    expected, answer = torch.stack(target.rows), list(loop.new_tokens)
    for block in BLOCKS:
        for right in (block - 1, block // 2):
            target.rows = []
            script = toy.Script(answer, block, lambda turn, right=right: right)
            done = generate(target, script, PROMPT, sampling=GREEDY, max_new_tokens=24)
            assert list(done.new_tokens) == answer
            found = torch.stack(target.rows)
            assert torch.equal(found, expected[: len(found)]), (block, right)
    assert target.shapes == {(1, 8)}


def test_a_run_says_so_and_keeps_it(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.load_plugin(toy_plugin)
    asked = RunConfig(
        drafter=("ngram", "synthetic=0.7"),
        target=str(write_model(tmp_path / "tiny")),
        tasks=("counting",),
        device="cpu",
        exact=True,
        max_new_tokens=12,
        output_dir=tmp_path,
    )
    result = run(make_plan(asked), ["run"])
    assert result.num_failures == 0
    found = [x for x in read_records(result.files.records) if isinstance(x, Generation)]
    answers: dict[tuple[object, ...], set[tuple[int, ...]]] = {}
    for item in found:
        if item.rounds is not None:
            answers.setdefault((item.prompt_id, item.turn), set()).add(item.new_tokens)
    assert answers and all(len(texts) == 1 for texts in answers.values())
    facts = json.loads(result.files.config.read_text())["target"]
    assert facts["exact_rows"] > 1
    assert f"every pass has {facts['exact_rows']} rows" in capsys.readouterr().err
    page, _ = write_leaderboard((result.files.directory,), tmp_path)
    assert f"exact mode: {facts['exact_rows']} rows in every pass" in page.read_text()
    audits = [json.loads(line) for line in result.files.audit.read_text().splitlines()]
    promised = {item["method"] for item in audits if item["promised"]}
    assert promised == {item["method"] for item in audits} - {"hf_generate"} != set()


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


def test_only_a_rows_place_may_spoil_the_bits() -> None:
    """A kernel that follows the number of rows is harmless; one that follows the place is not."""
    target = _target("llama")
    norm = target.model.model.norm
    by_number = norm.register_forward_hook(lambda module, args, out: out * out.shape[1])
    assert not exact._same_bits(target, 4)
    hold(target, 4)
    by_number.remove()
    norm.register_forward_hook(
        lambda module, args, out: out + torch.arange(out.shape[1])[:, None].to(out.dtype)
    )
    with pytest.raises(UserError, match=r"--exact does not hold here: llama .* among 4; leave"):
        hold(target, 4)


@pytest.mark.parametrize("places", [(0.0, 1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)])
def test_nearly_the_same_bits_are_others(places: tuple[float, ...]) -> None:
    """What a tolerance would call equal may turn a near-tie, and then the text; in any place."""
    target = toy.llama()
    hold(target, 4)
    lean = 1 + 1e-6 * torch.tensor(places)[:, None]
    target.lm_head.register_forward_hook(
        lambda module, arguments, output: output * lean if output.shape[1] > 1 else output
    )
    with pytest.raises(UserError, match="gives a row other bits by its place"):
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


@pytest.mark.slow
def test_the_embedded_target_has_the_bits_of_one_token_passes() -> None:
    target = load_target(TargetOptions(name="smollm2"))
    assert isinstance(target, TransformersTarget)
    hold(target, 8)
    prompt = target.encode_chat([{"role": "user", "content": "Count from one to forty."}])
    loop = generate(target, NoDrafter(), prompt, sampling=GREEDY, max_new_tokens=64)
    for block in (3, 8):
        script = toy.Script(loop.new_tokens, block, lambda turn, most=block - 1: turn % (most + 1))
        done = generate(target, script, prompt, sampling=GREEDY, max_new_tokens=64)
        assert done.new_tokens == loop.new_tokens
