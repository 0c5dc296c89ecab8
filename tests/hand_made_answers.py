"""Answers written by hand, each with the verdict that is right and why; see ``hand_made/``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tasks import humaneval, livecodebench, mbpp
from tasks.base import Prompt

DIRECTORY = Path(__file__).parent / "hand_made"
"""Problems of our own in the upstream's formats, laid out as a data directory, and the answers."""

TASKS = {module.TASK.name: module.TASK for module in (humaneval, mbpp, livecodebench)}
_HEAD = re.compile(r"^===== (\w+) (\w+) (\w+): (.+)\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandMade:
    """One answer."""

    prompt: Prompt
    text: str
    verdict: str
    """The right one."""
    why: str

    @property
    def name(self) -> str:
        """Task, problem and what it is."""
        return f"{self.prompt.task} {self.prompt.prompt_id} {self.why}"


def answers() -> list[HandMade]:
    """All of them, in the order of their file."""
    prompts = {
        (name, prompt.prompt_id): prompt
        for name, task in TASKS.items()
        for prompt in task.load(DIRECTORY, None).prompts
    }
    _, *parts = _HEAD.split((DIRECTORY / "answers.txt").read_text(encoding="utf-8"))
    return [
        HandMade(
            prompt=prompts[task, problem], verdict=verdict, why=why, text=text.removesuffix("\n")
        )
        for task, problem, verdict, why, text in zip(*(parts[n::5] for n in range(5)), strict=True)
    ]
