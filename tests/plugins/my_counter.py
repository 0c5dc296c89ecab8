"""A plug-in with a target that counts, drafters that guess, and a task of four prompts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from drafters.base import Proposal
from drafters.options import DrafterOptions
from harness.registry import Entry
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import TargetOptions, TargetOutput
from tasks.base import Prompt, PromptSet, Source

VOCAB = 32

DRAFTERS = {
    "oracle": Entry("my_counter:ToyDrafter", "always right"),
    "fool": Entry("my_counter:ToyDrafter", "always wrong", {"offset": 7}),
    "broken": Entry("my_counter:BrokenDrafter", "raises on the second prompt"),
    "told": Entry("my_counter:ToldDrafter", "is given ar_loop's answer"),
}
TARGETS = {"toy": Entry("my_counter:ToyTarget", "adds three, modulo 31")}
TASKS = {
    "counting": Entry("my_counter:TASK", "four short prompts, one of them with two turns"),
    "spelling": Entry("my_counter:OTHER_TASK", "the same prompts under another name"),
}


def follower(token: int) -> int:
    """The target's own next token; 0 never comes, so nothing stops early."""
    return (token + 2) % (VOCAB - 1) + 1


class ToyTarget:
    name = "toy"
    vocab_size = VOCAB
    hidden_size = 4
    num_layers = 2
    max_context = 4096
    stop_ids = frozenset({0})
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, options: TargetOptions) -> None:
        self.pause_s = float(os.environ.get("TOY_PAUSE_S", "0"))

    def describe(self) -> Mapping[str, Any]:
        return {"model": "toy", "revision": os.environ.get("TOY_REVISION"), "dtype": "float32"}

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        text = "|".join(message["content"] for message in messages)
        return [ord(letter) % (VOCAB - 1) + 1 for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("A") + token) for token in ids)

    def start(self, max_tokens: int, max_nodes: int, feature_layers: Sequence[int]) -> None:
        time.sleep(self.pause_s)

    def prefill(self, prompt_ids: torch.Tensor) -> TargetOutput:
        return TargetOutput(self._logits(prompt_ids[-1:]), None)

    def verify(self, pending: int, proposal: Proposal) -> TargetOutput:
        return TargetOutput(self._logits(torch.tensor([pending, *proposal.tokens.tolist()])), None)

    def commit(self, path: Sequence[int]) -> None:
        pass

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        nexts = torch.tensor([follower(token) for token in tokens.tolist()])
        return torch.nn.functional.one_hot(nexts, VOCAB).float() * 20


class ToyDrafter:
    feature_layers: tuple[int, ...] = ()
    max_nodes = 3
    block_size = 4
    draft = "argmax"

    def __init__(self, target: ToyTarget, options: DrafterOptions, offset: int = 0) -> None:
        self.offset = offset

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        pass

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        tokens = [pending]
        for _ in range(min(self.max_nodes, budget)):
            tokens.append(follower(tokens[-1]))
        shifted = [(token + self.offset) % VOCAB for token in tokens[1:]]
        return Proposal.chain(torch.tensor(shifted, dtype=torch.int64))

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        pass

    def reset(self) -> None:
        pass


class BrokenDrafter(ToyDrafter):
    """Gives up on the prompt that holds an X."""

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        if ord("X") % (VOCAB - 1) + 1 in prompt_ids.tolist():
            raise RuntimeError("no idea\nat all")


class ToldDrafter(ToyDrafter):
    """Refuses an answer that is not the target's."""

    oracle = True

    def prepare(self, prompt_ids: Sequence[int], continuation: Sequence[int]) -> None:
        if continuation[0] != follower(prompt_ids[-1]):
            raise RuntimeError("told something else than the target's answer")


class ToyTask:
    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, data_dir: Path | None, limit: int | None) -> PromptSet:
        texts = (("ABC", "DEF"), ("GHI",), ("JXK",), ("LMN",))
        prompts = tuple(
            Prompt(task=self.name, prompt_id=f"p{number}", turns=turns)
            for number, turns in enumerate(texts)
        )
        source = Source(
            kind="samples", location="toy", revision=None, digest="0" * 64, num_rows=len(prompts)
        )
        return PromptSet(prompts[:limit], source)


TASK = ToyTask("counting")
OTHER_TASK = ToyTask("spelling")
