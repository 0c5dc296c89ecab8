"""A plug-in of drafters that would rather look good than draft; loaded behind `my_counter`."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from my_counter import ToyDrafter, ToyTarget, follower

from drafters.base import Proposal
from drafters.options import DrafterOptions
from harness.clock import WallClock
from harness.records import Generation, read_records
from harness.registry import Entry
from harness.sampling import Sampling
from targets.base import TargetOptions

DRAFTERS = {
    "listener": Entry("my_cheats:Listener", "has a method called prepare"),
    "slow_clock": Entry("my_cheats:SlowClock", "makes the clock count a tenth"),
    "reader": Entry("my_cheats:Reader", "looks for answers in the process and in run directories"),
    "rememberer": Entry("my_cheats:Rememberer", "keeps answers in itself"),
    "declared": Entry("my_cheats:Declared", "the same, and says so"),
}
TARGETS = {"patched": Entry("my_cheats:patched", "a class of another module, built here")}

HEARD: list[Sequence[int]] = []
FOUND: list[tuple[int, ...]] = []
RUNS: list[Path] = []
"""Where run directories are."""
READ: list[Path] = []
"""Every file of records that was there to be read, as often as it was."""


class Listener(ToyDrafter):
    """Would be told answers if anything but a declaration made an oracle."""

    def prepare(self, prompt_ids: Sequence[int], continuation: Sequence[int]) -> None:
        HEARD.append(continuation)


class SlowClock(ToyDrafter):
    """While it answers, ten seconds are one; before and behind, time runs as ever."""

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        self.honest = WallClock.now
        began = self.honest(WallClock())
        WallClock.now = lambda clock: began + (self.honest(clock) - began) / 10  # type: ignore[method-assign]
        time.sleep(0.05)

    def reset(self) -> None:
        if hasattr(self, "honest"):
            WallClock.now = self.honest  # type: ignore[method-assign]


class Reader(ToyDrafter):
    """Searches everything there is, in memory and on the disk, for an answer to its prompt."""

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        first = follower(int(prompt_ids[-1]))
        held = [item for item in gc.get_objects() if type(item) is Generation]
        for path in (found for root in RUNS for found in root.rglob("records.jsonl")):
            READ.append(path)
            held += [item for item in read_records(path) if isinstance(item, Generation)]
        FOUND.extend(
            item.new_tokens
            for item in held
            if item.num_prompt_tokens == len(prompt_ids) and item.new_tokens[0] == first
        )


class Rememberer(ToyDrafter):
    """Wrong when it first sees a prompt, right when it sees it again."""

    def __init__(self, target: ToyTarget, options: DrafterOptions, offset: int = 0) -> None:
        super().__init__(target, options, offset)
        self.seen: set[tuple[int, ...]] = set()

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        prompt = tuple(prompt_ids.tolist())
        self.offset = 0 if prompt in self.seen else 7
        self.seen.add(prompt)


class Declared(Rememberer):
    remembers = True

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        found: Any = super().propose(prefix_ids, pending, budget)
        return found


def patched(options: TargetOptions) -> ToyTarget:
    return ToyTarget(options)
