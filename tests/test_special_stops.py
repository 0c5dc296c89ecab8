"""Special tokens that end an answer: as stop strings, and as what a template closes a turn with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import word_tokenizer, write_model

from drafters.none import NoDrafter
from harness.baselines import hf_generate
from harness.decode import Decoded, generate
from harness.sampling import Sampling
from harness.stopping import Stopping
from targets.base import TargetOptions
from targets.chat_template import ChatTemplate
from targets.load import load_target

CLOSED = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ 'END ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
PROMPT = [3, 9, 12, 4]


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: Path) -> None:
    """Each test finds the cache empty."""


def target_of(place: Path, end: str, eos: str | None = "</s>") -> Any:
    """A model whose generation stops at ``<s>`` and whose template closes turns with ``end``."""
    from transformers import GenerationConfig

    write_model(place)
    GenerationConfig(eos_token_id=1).save_pretrained(place)
    tokenizer = word_tokenizer()
    tokenizer.eos_token = eos
    tokenizer.chat_template = CLOSED.replace("END", end)
    tokenizer.save_pretrained(place)
    return load_target(TargetOptions(name=str(place), dtype="float32"))


@pytest.mark.parametrize(
    ("end", "eos", "stops", "named"),
    (
        ("</s>", "</s>", {1, 2}, ()),
        ("<never>", "</s>", {1}, ("'<never>'", "'</s>'")),
        ("<never>", "<s>", {1}, ("'<never>'",)),
        ("<s>", "<s>", {1}, ()),
        ("w3", "</s>", {1}, ("'</s>'",)),
        ("", None, {1}, ()),
    ),
)
def test_what_closes_a_turn_counts_or_is_named(
    end: str,
    eos: str | None,
    stops: set[int],
    named: Sequence[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = target_of(tmp_path, end, eos)
    assert target.stop_ids == stops
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(warnings) == bool(named)
    assert all(name in warnings[0] for name in named)
    target_again = load_target(TargetOptions(name=str(tmp_path), dtype="float64"))
    assert target_again.stop_ids == stops
    assert "WARNING" not in capsys.readouterr().err


def test_the_closing_token_is_what_follows_the_words_of_the_assistant() -> None:
    tokenizer = word_tokenizer()
    for template, token in (
        (CLOSED.replace("END", "</s>"), 2),
        (CLOSED.replace("END", "so </s>"), None),
        ("{{ raise_exception('no') }}", None),
        (None, None),
    ):
        tokenizer.chat_template = template
        assert ChatTemplate(tokenizer).closing_token() == token


def written(target: Any, ids: Sequence[int]) -> Any:
    """``target``, which writes ``ids`` whatever it is asked."""
    rows = torch.nn.functional.one_hot(torch.tensor(ids), target.vocab_size).float() * 9

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        cache = kwargs["past_key_values"]
        for layer in cache.layers:
            state = torch.zeros(1, 1, input_ids.shape[1], 1)
            layer.update(state, state)
        first = cache.get_seq_length() - input_ids.shape[1] - len(PROMPT) + 1
        wanted = rows[max(0, first) : first + input_ids.shape[1]]
        return type("Output", (), {"logits": wanted[None]})

    target.model.forward = forward
    return target


@pytest.mark.parametrize(
    ("strings", "count"),
    (
        (["<never>"], 3),
        (["w7 <never>"], 3),
        (["<never> w9"], 4),
        (["w9"], 4),
        (["w7 w9"], 4),
        (["<user>"], 6),
    ),
)
def test_a_stop_string_may_hold_special_tokens(
    strings: list[str], count: int, tmp_path: Path
) -> None:
    target = target_of(tmp_path, "<never>")
    answer = [14, 13, 5, 15, 16, 16]
    stopping = Stopping(
        stop_ids=frozenset(),
        max_new_tokens=6,
        room=9,
        stop_strings=strings,
        decode=target.decode,
        decode_whole=target.decode_whole,
    )
    for token in answer:
        if stopping.reason is None:
            stopping.commit([token])
    assert len(stopping.tokens) == count
    assert stopping.reason == ("length" if count == 6 else "stop_string")
    done: Decoded = generate(
        written(target, answer),
        NoDrafter(torch.device("cpu")),
        PROMPT,
        sampling=Sampling(),
        max_new_tokens=6,
        stop_strings=strings,
    )
    assert list(done.new_tokens) == answer[:count]


def test_both_loops_stop_at_a_special_stop_string(tmp_path: Path) -> None:
    target = target_of(tmp_path, "<never>")
    target.stop_ids = frozenset()
    with torch.no_grad():  # every answer is <never>
        target.embed_tokens.weight[5] = 40 * target.embed_tokens.weight[5]
    rules: dict[str, Any] = {"sampling": Sampling(), "max_new_tokens": 20}
    free = generate(target, NoDrafter(torch.device("cpu")), PROMPT, **rules).new_tokens
    assert 5 in free[:-1]
    wanted = free[: free.index(5) + 1]
    rules["stop_strings"] = ["<never>"]
    assert generate(target, NoDrafter(torch.device("cpu")), PROMPT, **rules).new_tokens == wanted
    assert hf_generate(target, PROMPT, **rules).new_tokens == wanted


@pytest.mark.parametrize(
    ("ids", "strings", "text"),
    (
        ([14, 13, 5], ["<never>"], "w8 w7"),
        ([14, 4, 13, 5], ["w7 <never>"], "w8"),
        ([14, 13], ["<never>"], "w8 w7"),
        ([14, 13, 5], ["w7", "<never>"], "w8 "),
    ),
)
def test_an_answer_for_lm_eval_ends_before_it(
    ids: list[int], strings: list[str], text: str, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval")
    from harness.lm_eval_model import HarnessModel
    from harness.model_args import ModelArgs

    model = HarnessModel(target_of(tmp_path, "<never>"), ModelArgs())
    assert model._cut(ids, strings) == text
