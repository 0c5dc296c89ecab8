"""Weights and logits that are NaN or Inf: one sentence, and nothing that looks like a result."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
import toy
from tiny_model import write_model

from drafters.base import Proposal
from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.responses import Query
from drafters.none import NoDrafter
from harness import registry
from harness.cli import main
from harness.decode import generate
from harness.errors import NotNumbers, UserError
from harness.records import Failure, Generation, read_records
from harness.sampling import Sampling
from harness.verify import draw, verify
from targets.base import TargetOptions, TargetOutput
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

BAD = (math.nan, math.inf)


@pytest.fixture
def flags(toy_plugin: Path, tmp_path: Path) -> list[str]:
    registry.load_plugin(toy_plugin)
    return [
        *("run", "--target", "toy", "--tasks", "counting", "--device", "cpu"),
        *("--baseline", "ar_loop", "--max-new-tokens", "8", "--drafter", "oracle,fool"),
        *("--plugin", str(toy_plugin), "--output-dir", str(tmp_path / "runs")),
    ]


def _spoil(monkeypatch: pytest.MonkeyPatch, value: float, behind: int | None) -> None:
    """Logits of a prompt that ends in one token, or of all prompts, hold ``value``."""
    target = sys.modules["my_counter"].ToyTarget
    prefill = target.prefill

    def spoiled(self: object, prompt_ids: torch.Tensor) -> TargetOutput:
        found: TargetOutput = prefill(self, prompt_ids)
        if behind in (None, int(prompt_ids[-1])):
            found.logits[-1, 5] = value
        return found

    monkeypatch.setattr(target, "prefill", spoiled)


@pytest.mark.parametrize("temperature", ("0", "1"))
@pytest.mark.parametrize("value", BAD)
def test_a_run_ends_at_its_first_answer(
    value: float,
    temperature: str,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _spoil(monkeypatch, value, None)
    assert main([*flags, "--temperature", temperature]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("not numbers") == 1 and err.splitlines()[-1].startswith("error: the logits")
    (records,) = (tmp_path / "runs").glob("*/records.jsonl")
    assert records.read_text() == ""


def test_an_answer_that_meets_them_later_fails_alone(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = ord("I") % 31 + 1  # of the second prompt
    _spoil(monkeypatch, math.nan, last)
    assert main(flags) == 1
    (path,) = (tmp_path / "runs").glob("*/records.jsonl")
    records = list(read_records(path))
    failed = {(item.prompt_id, item.method) for item in records if isinstance(item, Failure)}
    assert failed == {("p1", method) for method in ("ar_loop", "oracle", "fool")}
    assert all("not numbers" in item.error for item in records if isinstance(item, Failure))
    assert sum(isinstance(item, Generation) for item in records) == 12


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("where", ("model.norm.weight", "lm_head.weight"))
def test_damaged_weights_do_not_load(value: float, where: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = write_model(tmp_path) / "model.safetensors"
    weights = load_file(path)
    name = where if where in weights else "model.embed_tokens.weight"  # the head is tied to it
    weights[name].view(-1)[7 * 32 % weights[name].numel()] = value
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match="download them again"):
        load_target(TargetOptions(name=str(tmp_path), dtype="float32"))


@pytest.mark.parametrize("value", BAD)
def test_no_token_is_chosen_from_them(value: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 9)
    logits[2, 4] = value
    for temperature in (0.0, 1.0):
        with pytest.raises(NotNumbers):
            draw(logits[2], Sampling(temperature), generator)
    with pytest.raises(NotNumbers):
        verify(logits, Proposal.chain(torch.tensor([1, 2])), Sampling(), generator)
    logits[2, 4] = -math.inf  # a token that never comes
    assert draw(logits[2], Sampling(), generator) == int(logits[2].argmax())


def _target_that_breaks(value: float) -> tuple[TransformersTarget, list[int]]:
    """A target that cannot read the fourth token of its answer."""
    target = toy.llama()
    target.stop_ids = frozenset()
    prompt, answer = toy.varied_prompt(target, 8)
    assert answer[3] not in (*prompt, *answer[:3])
    with torch.no_grad():
        target.embed_tokens.weight[answer[3]] = value
    return target, prompt


def test_a_pass_in_mid_answer_is_looked_at() -> None:
    target, prompt = _target_that_breaks(math.nan)
    done = generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=4)
    assert len(done.new_tokens) == 4
    with pytest.raises(NotNumbers):
        generate(target, NoDrafter(), prompt, sampling=Sampling(), max_new_tokens=5)


@pytest.mark.parametrize("temperature", (0.0, 0.7))
def test_a_corpus_holds_none_of_them(temperature: float) -> None:
    target, prompt = _target_that_breaks(math.nan)
    generator = BatchGenerator(target, 8, sampling=Sampling(temperature))
    with pytest.raises(NotNumbers):
        list(generator.generate([Query((*prompt, token)) for token in range(60)]))
