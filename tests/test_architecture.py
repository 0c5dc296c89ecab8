"""What a config tells before weights are read: sentences, attention, and whole runs behind them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from harness.cli import main
from harness.errors import UserError
from targets import pretrained
from targets.base import TargetOptions
from targets.hugging_face import load
from tests import architectures
from tests.tiny_model import word_tokenizer


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: Path) -> None:
    """Each test finds the cache empty."""


def run(toy_plugin: Path, model: Path, output_dir: Path, *more: str) -> int:
    return main(
        (
            *("run", "--target", str(model), "--tasks", "counting", "--plugin", str(toy_plugin)),
            *("--device", "cpu", "--dtype", "float32", "--drafter", "ngram", "--limit", "1"),
            *("--max-new-tokens", "8", "--output-dir", str(output_dir), *more),
        )
    )


@pytest.mark.parametrize("name", ["gemma 2", "bloom", "gemma 3, multimodal"])
def test_a_run_is_measured_and_audited(
    name: str, toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = architectures.write(name, tmp_path / "model")
    assert run(toy_plugin, model, tmp_path) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("attn ")]
    assert len(lines) == (name != "gemma 3, multimodal")
    assert all("no sdpa" in line and "eager" in line for line in lines)
    summary = json.loads(out.splitlines()[-1])
    config = json.loads((Path(summary["run_dir"]) / "config.json").read_text())
    assert config["target"]["attn"] == ("eager" if lines else "grouped")
    audits = (Path(summary["run_dir"]) / "audit.jsonl").read_text().splitlines()
    assert len(audits) == summary["num_generations"] and summary["num_mismatches"] == 0
    assert main(("verify", summary["run_dir"], "--plugin", str(toy_plugin))) == 0


def test_a_model_that_computes_in_no_wider_dtype_is_run_and_its_audit_left_blank(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As gpt-oss, whose experts are multiplied by a kernel without float64."""
    model = architectures.write("gpt-oss", tmp_path / "model")
    assert run(toy_plugin, model, tmp_path) == 0
    out, err = capsys.readouterr()
    (said,) = (line for line in err.splitlines() if line.startswith("not audited"))
    assert "cannot compute in float64" in said
    assert json.loads(out.splitlines()[-1])["num_mismatches"] is None


@pytest.mark.parametrize(
    ("name", "asked", "used"),
    [
        ("gemma 2", None, "eager"),
        ("gemma 2", "eager", "eager"),
        ("mistral", "eager", "eager"),
        ("mistral", "sdpa", "sdpa"),
        ("mistral", None, "grouped"),
    ],
)
def test_attention_is_what_is_asked_for_or_what_there_is(
    name: str, asked: str | None, used: str, tmp_path: Path
) -> None:
    model = architectures.write(name, tmp_path)
    options = TargetOptions(name=str(model), dtype="float32", attn=asked)
    assert load(options, model=str(model)).attn == used


@pytest.mark.parametrize("asked", ["sdpa", "flash_attention_2", "flex_attention"])
def test_attention_that_a_model_does_not_have_is_refused_in_a_sentence(
    asked: str, tmp_path: Path
) -> None:
    model = architectures.write("bloom", tmp_path)
    options = TargetOptions(name="flower", dtype="float32", attn=asked)
    with pytest.raises(UserError) as caught:
        load(options, model=str(model))
    assert f"has no {asked} attention" in str(caught.value)
    assert "--attn eager" in str(caught.value) and "http" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (transformers.BertConfig(**architectures.SMALLEST), "no decoder layers"),
        (transformers.BartConfig(d_model=8, vocab_size=50), "from left to right"),
        (transformers.ViTConfig(**architectures.SMALLEST), "from left to right"),
        (transformers.MambaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1), "rolled"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_model_that_cannot_be_a_target_is_a_sentence_before_its_weights(
    config: transformers.PretrainedConfig,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", None)
    with pytest.raises(UserError, match=says) as caught:
        load(TargetOptions(name="odd", dtype="float32"), model=str(tmp_path))
    assert config.model_type in str(caught.value) or says == "rolled"
    assert len(str(caught.value)) < 400


def test_text_of_a_multimodal_model_is_batched_as_it_is_decoded() -> None:
    from drafters.block_diffusion.batch_generator import BatchGenerator
    from drafters.block_diffusion.responses import Query
    from drafters.none import NoDrafter
    from harness.decode import generate
    from harness.sampling import Sampling

    target = architectures.target("gemma 3, multimodal")
    target.stop_ids = frozenset()
    prompts = [(1, 3, 9, 8), (5, 6, 7, 8, 9, 10, 11, 12, 13), (4, 4)]
    found = dict(BatchGenerator(target, 12).generate([Query(ids) for ids in prompts]))
    for index, ids in enumerate(prompts):
        alone = generate(
            target, NoDrafter(torch.device("cpu")), ids, sampling=Sampling(), max_new_tokens=12
        )
        assert tuple(found[index]) == alone.new_tokens
