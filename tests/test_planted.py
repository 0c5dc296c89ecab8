"""A wrong token in 200 that leaves the acceptance rule is found, unless it is a tie."""

from __future__ import annotations

import random

import planted
import pytest
import torch
import toy

from targets.base import TargetOptions
from targets.load import load_target

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NUM_TOKENS = 96
PROMPT_LENGTH = 11


def some_prompts(count: int) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randrange(toy.VOCAB) for _ in range(PROMPT_LENGTH)] for _ in range(count)]


@pytest.mark.parametrize("kind", planted.KINDS)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_careless_rule_is_found(
    dtype: str, kind: planted.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = toy.llama(dtype=DTYPES[dtype])
    wrong, honest = planted.planted_in_the_loop(
        target, toy.wider(target), some_prompts(10), NUM_TOKENS, kind, monkeypatch.setattr
    )
    assert len(wrong) >= 3 and len(honest) > 800
    assert not any(case.caught for case in honest)
    least = 0.9 if dtype == "float32" or kind == "random" else 0.3
    assert sum(case.caught for case in wrong) >= least * len(wrong), planted.table(wrong)


@pytest.mark.parametrize("name", sorted(toy.TARGETS))
@pytest.mark.parametrize(
    ("dtype", "kind", "least"),
    [
        ("float32", "runner-up", 0.99),
        ("float32", "random", 0.99),
        ("bfloat16", "runner-up", 0.4),
        ("bfloat16", "random", 0.9),
    ],
)
def test_wherever_it_is_planted(name: str, dtype: str, kind: planted.Kind, least: float) -> None:
    target = toy.TARGETS[name](dtype=DTYPES[dtype])
    reference, draw = toy.wider(target), random.Random(1)
    found: list[planted.Case] = []
    for prompt in some_prompts(6):
        answer = toy.plain_greedy(target, [prompt], 48)[0]
        found += planted.planted_everywhere(target, reference, prompt, answer, kind, draw)
    assert len(found) == 6 * 48
    assert sum(case.caught for case in found) >= least * len(found), planted.table(found)
    # A runner-up that a noisy pass may prefer is never called a bug.
    assert not any(case.caught for case in found if case.margin <= 2 * case.noise)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_twins_of_the_right_token_are_ties(dtype: str) -> None:
    """Tokens 2k and 2k + 1 are one in all but name: the runner-up's logit is the best one's."""
    target = toy.llama(dtype=DTYPES[dtype])
    for weight in (target.lm_head.weight, target.embed_tokens.weight):
        weight[1::2] = weight[0::2]
    reference, draw = toy.wider(target), random.Random(1)
    for prompt in some_prompts(3):
        answer = toy.plain_greedy(target, [prompt], 48)[0]
        twins = planted.planted_everywhere(target, reference, prompt, answer, "runner-up", draw)
        assert len(twins) == 48 and not any(case.caught for case in twins)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_real_target(dtype: str) -> None:
    wide = {"float32": "float64", "bfloat16": "float32"}[dtype]
    target, reference = (
        load_target(TargetOptions(name="smollm2", dtype=name, device="cpu", attn="sdpa"))
        for name in (dtype, wide)
    )
    messages = [{"role": "user", "content": "Why is the sky blue? Answer in two sentences."}]
    prompt = target.encode_chat(messages)
    with torch.inference_mode():
        answer = target.model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=40)[
            0, len(prompt) :
        ].tolist()
        for kind, least in (("runner-up", 0.99 if dtype == "float32" else 0.6), ("random", 0.97)):
            found = planted.planted_everywhere(
                target, reference, prompt, answer, kind, random.Random(0)
            )
            assert sum(case.caught for case in found) >= least * len(found), planted.table(found)
