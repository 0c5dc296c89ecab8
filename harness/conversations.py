"""Prompts as the target reads them: turn by turn, each going on from ``ar_loop``'s answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.records import Generation, RecordKey
from tasks.base import Prompt

if TYPE_CHECKING:
    from targets.base import Target


def turns(
    target: Target, task: str, prompt: Prompt, answers: Mapping[RecordKey, Generation]
) -> Iterator[tuple[int, list[int]]]:
    """Turns from 1 and their prompt ids; whatever the method, they follow ``ar_loop``, repeat 0.

    ``answers`` is looked at when the next turn is asked for, and may grow until then. Without the
    answer to go on from, this ends.
    """
    messages: list[dict[str, str]] = []
    for turn, text in enumerate(prompt.turns, start=1):
        if turn > 1:
            answer = answers.get((task, prompt.prompt_id, turn - 1, "ar_loop", 0))
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer.text})
        messages.append({"role": "user", "content": text})
        yield turn, target.encode_chat(messages)


def prompt_sha256(prompt_ids: Sequence[int]) -> str:
    """What a record says of its prompt."""
    return hashlib.sha256(json.dumps(list(prompt_ids)).encode()).hexdigest()
