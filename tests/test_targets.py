"""Targets: one pass is every pass, features are the layers' own, and failures are sentences."""

from __future__ import annotations

import errno
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AttentionInterface,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedTokenizerFast,
)

from drafters.base import Proposal
from harness.errors import UserError
from targets import attention, pretrained
from targets.attention import (
    grouped_attention,
    prefer_grouped,
)
from targets.base import TargetOptions
from targets.digest import file_digest, weights_digest
from targets.hugging_face import load
from targets.load import load_target

NOTHING = Proposal(torch.empty(0, dtype=torch.int64), ())
LAYERS = (0, 1)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking %} think{% endif %}{% endif %}"
)
WORDS = ["<unk>", "<user>", "<assistant>", "<system>", "hello", "world", "think", "</s>"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny model with a tokenizer of eight words."""
    path = tmp_path_factory.mktemp("model")
    target = toy.llama()
    target.model.generation_config.eos_token_id = [7, 3]
    target.model.save_pretrained(path)
    target.model.generation_config.eos_token_id = None
    _tokenizer(WORDS).save_pretrained(path)
    return path


def _tokenizer(words: list[str]) -> Any:
    inner = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def copy(directory: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: Path) -> None:
    """Each test finds the cache empty."""


def options(**kwargs: Any) -> TargetOptions:
    return TargetOptions(**{"name": "toy", "dtype": "float32", **kwargs})


# Passes


@pytest.mark.parametrize("attn", ("sdpa", "eager", "grouped"))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_rows_of_every_pass_equal_the_forward_without_a_cache(name: str, attn: str) -> None:
    """Prefill, chains and single tokens, past the sliding window, logits and features alike."""
    target = toy.TARGETS[name](attn=attn)
    draw = random.Random(1)
    ids = [draw.randrange(toy.VOCAB) for _ in range(40)]
    mask = torch.ones(1, 40)
    expected = target.features_of(torch.tensor([ids]), mask, LAYERS)[0]
    with torch.no_grad():
        logits = target.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    target.start(40, 16, LAYERS)
    output = target.prefill(torch.tensor(ids[:11]))
    assert output.logits.shape == (1, toy.VOCAB)
    rows, last = [output.features], [output.logits]
    place = 11
    for width in (1, 5, 8, 1, 14):
        proposal = Proposal.chain(torch.tensor(ids[place + 1 : place + width]).long())
        output = target.verify(ids[place], proposal)
        target.commit(tuple(range(width - 1)))
        rows.append(output.features)
        last.append(output.logits)
        place += width
    assert place == 40
    features = torch.cat([item for item in rows if item is not None])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat(last), logits[10:], rtol=1e-3, atol=1e-3)


def _random_tree(draw: random.Random) -> Proposal:
    return toy.random_tree(draw, [draw.randrange(toy.VOCAB) for _ in range(5)], 40)


def _broad_then_deep(draw: random.Random) -> Proposal:
    """Deeper than the sliding window, below siblings that push rows away from positions."""
    return Proposal(torch.arange(16), (-1, -1, -1, -1, -1, *range(4, 15)))


@pytest.mark.parametrize("shape", (_random_tree, _broad_then_deep))
@pytest.mark.parametrize("attn", ("sdpa", "eager", "grouped"))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_a_tree_says_what_its_paths_say(
    name: str, attn: str, shape: Callable[[random.Random], Proposal]
) -> None:
    """Every node's logits and features equal those of its own path as a plain sequence."""
    target = toy.TARGETS[name](attn=attn)
    draw = random.Random(2)
    prompt = [draw.randrange(toy.VOCAB) for _ in range(14)]
    target.start(40, 40, LAYERS)
    target.prefill(torch.tensor(prompt))
    proposal = shape(draw)
    assert not proposal.is_chain
    output = target.verify(3, proposal)
    assert output.features is not None
    for node in range(len(proposal.parents)):
        path = [node]
        while (parent := proposal.parents[path[0]]) >= 0:
            path.insert(0, parent)
        ids = torch.tensor([[*prompt, 3, *(int(proposal.tokens[item]) for item in path)]])
        with torch.no_grad():
            logits = target.model(input_ids=ids, use_cache=False).logits[0, -1]
        torch.testing.assert_close(output.logits[node + 1], logits, rtol=1e-3, atol=1e-3)
        features = target.features_of(ids, torch.ones_like(ids), LAYERS)[0, -1]
        torch.testing.assert_close(output.features[node + 1], features, rtol=1e-4, atol=1e-4)


def test_features_are_the_named_layers_in_order() -> None:
    target = toy.qwen3()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        states = target.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    features = target.features_of(ids, torch.ones_like(ids), (0, 2))
    torch.testing.assert_close(features, torch.cat((states[1], states[3]), dim=-1))
    assert not features.is_inference()
    target.start(20, 0, (2,))
    torch.testing.assert_close(target.prefill(ids[0]).features, states[3][0])
    target.start(20, 0, ())
    assert target.prefill(ids[0]).features is None


def test_layers_behind_the_last_feature_are_not_run() -> None:
    target = toy.qwen3()
    ids = torch.arange(9)[None]
    ran: list[int] = []
    for index, layer in enumerate(target.decoder_layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    target.features_of(ids, torch.ones_like(ids), (0, 1))
    assert ran == [0, 1]
    target.start(20, 0, ())
    target.prefill(ids[0])
    assert ran[2:] == list(range(target.num_layers))


def test_padded_features_equal_single_ones() -> None:
    target = toy.qwen3()
    ids = torch.randint(0, toy.VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    batch = target.features_of(ids, mask, LAYERS)
    alone = target.features_of(ids[1:, :13], mask[1:, :13], LAYERS)
    torch.testing.assert_close(batch[1, :13], alone[0], rtol=1e-4, atol=1e-4)


def test_the_buffers_are_kept_while_they_are_large_enough() -> None:
    target = toy.llama()
    target.start(60, 8, ())
    target.prefill(torch.arange(5))
    first = target._cache
    target.start(30, 4, ())
    assert target._cache is first and first is not None and first.length == 0
    target.start(90, 8, ())
    assert target._cache is not first


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_grouped_is_preferred_where_it_computes_the_same(name: str) -> None:
    model = toy.TARGETS[name]().model
    prefer_grouped(model)
    assert model.config._attn_implementation == "grouped"


def test_a_difference_keeps_the_librarys_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return 2 * grouped_attention(*args, **kwargs)[0], None

    monkeypatch.setitem(AttentionInterface._global_mapping, "grouped", doubled)
    model = toy.llama().model
    prefer_grouped(model)
    assert model.config._attn_implementation == "sdpa"


def test_arithmetic_that_is_not_computed_is_refused() -> None:
    x = torch.randn(1, 2, 3, 8)
    with pytest.raises(UserError, match="softcap"):
        grouped_attention(torch.nn.Identity(), x, x, x, None, softcap=50.0)


def test_a_capped_attention_keeps_its_own() -> None:
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    prefer_grouped(model)
    assert model.config._attn_implementation == "eager"


# Loading


def test_a_directory_loads_with_its_facts(directory: Path) -> None:
    target = load_target(options(name=str(directory), attn="grouped"))
    facts = target.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["model"] == str(directory) and facts["revision"] is None
    assert facts["weights_sha256"] == file_digest(directory / "model.safetensors")
    assert (facts["dtype"], facts["attn"], facts["device"]) == ("float32", "grouped", "cpu")
    assert facts["template"] == "chat" and len(facts["template_sha256"]) == 64
    assert facts["num_parameters"] == sum(p.numel() for p in toy.llama().model.parameters())
    assert target.stop_ids == {7, 3}
    assert (target.vocab_size, target.hidden_size, target.num_layers) == (64, 32, 2)
    assert target.max_context == 128
    target.start(16, 0, ())
    expected = toy.llama()
    expected.start(16, 0, ())
    ids = torch.arange(7)
    torch.testing.assert_close(target.prefill(ids).logits, expected.prefill(ids).logits)


@pytest.mark.parametrize("thinking", (False, True))
def test_the_template_is_the_tokenizers(directory: Path, thinking: bool) -> None:
    target = load(options(enable_thinking=thinking), model=str(directory))
    messages = [{"role": "system", "content": "world"}, {"role": "user", "content": "hello"}]
    assert target.encode_chat(messages) == [3, 5, 1, 4, 2, *([6] if thinking else [])]
    assert target.describe()["enable_thinking"] is thinking
    assert target.decode([4, 5, 7]) == "hello world"


def test_without_a_template_texts_are_joined(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink()
    target = load(options(), model=str(copy))
    assert target.encode_chat([{"role": "user", "content": "hello"}] * 2) == [4, 4]
    assert target.describe()["template"] is None
    assert target.describe()["template_sha256"] is None


def test_stop_ids_fall_back_to_the_tokenizers(copy: Path) -> None:
    config = json.loads((copy / "generation_config.json").read_text())
    for stated, expected in ((5, {5}), (None, {7})):
        (copy / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": stated}))
        assert load(options(), model=str(copy)).stop_ids == expected


def test_a_digest_is_read_once_and_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"one")
    first = file_digest(path)
    remembered = next((tmp_path / "cache" / "digests").iterdir())
    remembered.write_text("from the cache")
    assert file_digest(path) == "from the cache"
    path.write_bytes(b"four")
    assert file_digest(path) not in (first, "from the cache")
    second = tmp_path / "b.safetensors"
    second.write_bytes(b"one")
    assert weights_digest([second]) == first
    assert weights_digest([path, second]) == weights_digest([second, path]) != first
    with pytest.raises(ValueError):
        weights_digest([])


@pytest.mark.parametrize(
    ("name", "says"),
    (
        ("smolm2", "did you mean smollm2"),
        ("./nowhere", "no directory"),
        ("/nowhere/at/all", "no directory"),
    ),
)
def test_unknown_names_are_explained(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_target(options(name=name))


@pytest.mark.parametrize(
    ("changes", "says"),
    (
        ({"dtype": "int3"}, "dtype 'int3' is unknown"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"attn": "guesswork"}, "cannot be loaded"),
    ),
)
def test_unknown_options_are_explained(directory: Path, changes: dict[str, str], says: str) -> None:
    _fails(directory, says, **changes)


def _fails(directory: Path, says: str, **changes: str) -> None:
    with pytest.raises(UserError) as caught:
        load(options(**changes), model=str(directory))
    message = str(caught.value)
    assert says in message
    assert "\n" not in message and len(message) < 400, message


def test_damaged_directories_are_explained(copy: Path) -> None:
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    _fails(copy, "damaged or cut short")
    (copy / "model.safetensors").write_bytes(weights)

    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    _fails(copy, "incomplete")
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": 10**7}))
    _fails(copy, "GB")
    (copy / "config.json").write_text(json.dumps({"model_type": "t5"}))
    _fails(copy, "not a causal language model")
    (copy / "config.json").write_text("{")
    _fails(copy, "cannot be loaded")
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").unlink()
    _fails(copy, "cannot be loaded")


def test_a_tokenizer_that_does_not_fit_is_explained(copy: Path) -> None:
    _tokenizer([*WORDS, *(f"w{n}" for n in range(100))]).save_pretrained(copy)
    _fails(copy, "do not belong together")
    for path in copy.glob("tokenizer*"):
        path.unlink()
    _fails(copy, "tokenizer")


@pytest.mark.parametrize(
    ("cause", "says"),
    (
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "is not on the hub"),
        ("RevisionNotFoundError", "no revision 'abc'"),
        ("LocalEntryNotFoundError", "cannot be reached"),
    ),
)
def test_the_hubs_refusals_are_explained(
    cause: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = type(cause, (Exception,), {})("details\nover two lines")

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("a long story\nabout the hub") from inner

    monkeypatch.setattr("harness.hub.is_reachable", lambda: True)
    monkeypatch.setattr(pretrained.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(UserError) as caught:
        load_target(options(name="owner/model", revision="abc"))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_full_disk_and_full_memory_are_explained(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, says in (
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left"),
        (torch.OutOfMemoryError("no"), "does not fit in the memory"),
        (MemoryError(), "does not fit in the memory"),
    ):

        def fail(*args: Any, error: BaseException = error, **kwargs: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", fail)
            _fails(directory, says)


def test_the_names_of_targets_need_no_torch() -> None:
    code = "import sys, targets, targets.base, targets.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("past", [0, 1, 3])
def test_sequences_end_to_end_each_begin_at_position_0(past: int) -> None:
    """Rotary angles only tell distances; a table of positions would tell the difference."""
    config = toy.llama().model.config
    lengths, place = [3, 2, 4], (torch.device("cpu"), torch.float32)
    inputs = attention.two_way_inputs(config, lengths, *place, past=past)
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3][past:]]
    seen = inputs["attention_mask"][0, 0] == 0
    owners = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    assert torch.equal(seen, owners[past:, None] == owners)


@pytest.mark.parametrize("exact", [False, True])
def test_a_whole_pass_fits_behind_as_many_tokens_as_were_announced(exact: bool) -> None:
    target = toy.llama()
    target.fixed_rows = 7 if exact else None
    for max_tokens in (9, 10, 25):
        target.start(max_tokens, 5, ())
        target.prefill(torch.arange(max_tokens))
        output = target.verify(3, Proposal.chain(torch.arange(5)))
        assert output.logits.shape == (6, toy.VOCAB)
        assert target._cache is not None
        rows = max_tokens + (7 if exact else 6)
        assert rows <= target._cache.capacity < rows + (16 if exact else 1)
        target._cache = None


def test_copies_that_fill_an_exact_pass_stay_within_the_context() -> None:
    """Models with a table of positions have no row for one behind the last."""
    target = toy.llama()
    target.fixed_rows = 6
    seen: list[list[int]] = []

    def note(module: Any, arguments: Any, given: Any) -> None:
        if given.get("position_ids") is not None:
            seen.append(given["position_ids"][0].tolist())

    target.model.get_decoder().register_forward_pre_hook(note, with_kwargs=True)
    last = target.max_context - 1
    target.start(target.max_context + 3, 5, ())
    target.prefill(torch.arange(last - 2) % toy.VOCAB)
    target.verify(3, Proposal.chain(torch.tensor([4])))
    assert seen[-1] == [last - 2, last - 1, last, last, last, last]
