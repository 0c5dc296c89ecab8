"""Tiny random targets in float32, and drafters that follow a script."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from drafters.base import Proposal
from harness.audit import WIDER
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.transformers_lm import TransformersTarget

VOCAB = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


class ToyTarget(TransformersTarget):
    """A target whose "text" is one character a token."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("0") + token) for token in ids)


def llama(seed: int = 0, *, attn: str = "sdpa", dtype: torch.dtype = torch.float32) -> ToyTarget:
    """Two layers, two K/V heads for four heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(num_hidden_layers=2, **SIZES)
    return _target(LlamaForCausalLM(config), "llama", attn, dtype)


def qwen3(seed: int = 0, *, attn: str = "sdpa", dtype: torch.dtype = torch.float32) -> ToyTarget:
    """Four layers with q/k norms; every second one looks back eight tokens only."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        num_hidden_layers=4,
        head_dim=8,
        use_sliding_window=True,
        sliding_window=8,
        layer_types=["full_attention", "sliding_attention"] * 2,
        tie_word_embeddings=True,
        **SIZES,
    )
    return _target(Qwen3ForCausalLM(config), "qwen3", attn, dtype)


TARGETS: dict[str, Callable[..., ToyTarget]] = {"llama": llama, "qwen3": qwen3}


def _target(model: Any, name: str, attn: str, dtype: torch.dtype) -> ToyTarget:
    torch.set_num_threads(1)
    model = model.to(dtype).eval().requires_grad_(False)
    model.set_attn_implementation(attn)
    return ToyTarget(model, None, name=name)


@torch.no_grad()
def plain_greedy(
    target: ToyTarget, prompts: Sequence[Sequence[int]], count: int
) -> list[list[int]]:
    """Greedy continuations of equally long prompts by whole forward passes, without any cache."""
    ids = torch.tensor(prompts, device=target.device)
    for _ in range(count):
        logits = target.model(input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return [row[len(prompts[0]) :] for row in ids.tolist()]


def wider(target: ToyTarget) -> ToyTarget:
    """The same weights one dtype wider, as the audit's reference is loaded."""
    dtype = getattr(torch, WIDER[str(target.dtype).removeprefix("torch.")])
    model = copy.deepcopy(target.model).to(dtype)
    model.set_attn_implementation("sdpa")
    return ToyTarget(model, None, name=target.name)


def varied_prompt(target: ToyTarget, count: int) -> tuple[list[int], list[int]]:
    """A prompt whose greedy continuation starts with ``count`` distinct tokens, and that."""
    draw = random.Random(0)
    for _ in range(40):
        prompts = [[draw.randrange(VOCAB) for _ in range(11)] for _ in range(256)]
        for prompt, answer in zip(prompts, plain_greedy(target, prompts, count), strict=True):
            if len(set(answer)) == count:
                return prompt, answer
    raise AssertionError("no prompt found; take another seed")


class Script:
    """Follows a known answer: the first ``right(round)`` draft tokens of a block are right."""

    feature_layers: tuple[int, ...] = ()
    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(self, answer: Sequence[int], block_size: int, right: Callable[[int], int]) -> None:
        self.block_size: int | None = block_size
        self.max_nodes = block_size - 1
        self.verdicts: list[Verdict] = []
        self.budgets: list[int] = []
        self.prefixes: list[tuple[int, ...]] = []
        self._answer = list(answer)
        self._right = right

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        self._prompt_length = prompt_ids.shape[0]

    def expect(self, pending: int, answered: int) -> None:
        """In float32 the loop writes the known answer; in bfloat16 it may break a near-tie."""
        assert pending == answered

    def future(self, prefix_ids: Sequence[int], budget: int) -> list[int]:
        """What the answer says after the pending token, as far as a block and the budget go."""
        begin = len(prefix_ids) + 1 - self._prompt_length
        return self._answer[begin : begin + min(budget, (self.block_size or 1) - 1)]

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        self.expect(pending, self._answer[len(prefix_ids) - self._prompt_length])
        right = self._right(len(self.budgets))
        self.budgets.append(budget)
        self.prefixes.append((*prefix_ids, pending))
        tokens = [
            token if place < right else (token + 1) % VOCAB
            for place, token in enumerate(self.future(prefix_ids, budget))
        ]
        return Proposal.chain(torch.tensor(tokens, dtype=torch.int64))

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        self.verdicts.append(verdict)

    def reset(self) -> None:
        pass


class RandomTree(Script):
    """A random tree with the first ``right(round)`` tokens of the answer somewhere in it."""

    def __init__(self, answer: Sequence[int], block_size: int, right: Callable[[int], int]) -> None:
        super().__init__(answer, block_size, right)
        self.max_nodes = 4 * block_size
        self._random = random.Random(block_size)

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        chain = super().propose(prefix_ids, pending, budget).tokens.tolist()
        return random_tree(self._random, chain, self.max_nodes)


def random_tree(draw: random.Random, chain: Sequence[int], max_nodes: int) -> Proposal:
    """A tree that holds ``chain``, with other nodes hung on and between, none deeper."""
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []

    def add(parent: int, token: int) -> int:
        for node in range(len(tokens)):
            if (parents[node], tokens[node]) == (parent, token):
                return node
        tokens.append(token)
        parents.append(parent)
        depths.append(1 if parent < 0 else depths[parent] + 1)
        return len(tokens) - 1

    tip = -1
    for token in chain:
        for _ in range(draw.randrange(3)):
            open_nodes = [-1, *(n for n in range(len(tokens)) if depths[n] < len(chain))]
            add(draw.choice(open_nodes), draw.randrange(VOCAB))
        tip = add(tip, token)
    assert len(tokens) <= max_nodes
    return Proposal(torch.tensor(tokens, dtype=torch.int64), tuple(parents))
