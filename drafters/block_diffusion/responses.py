"""Responses to training prompts: who generates them, and the cache of those made while training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from drafters.block_diffusion.prompts import PromptRow
from harness.records import read_lines
from harness.run_files import cut_torn_line

if TYPE_CHECKING:
    from drafters.block_diffusion.data import TrainingSequence
    from targets.transformers_lm import TransformersTarget


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt to continue."""

    ids: tuple[int, ...]
    seed: int = 0
    """Of the draws of this one response; without meaning when greedy."""


class ResponseGenerator(Protocol):
    """Continues prompts: the target here, or a serving engine elsewhere."""

    def generate(self, queries: Sequence[Query]) -> Iterator[tuple[int, list[int]]]:
        """Yield the number of a query and its new tokens, as it finishes.

        The stop token is included where it was reached. A query that leaves the target no room is
        passed over.

        Raises:
            UserError: it cannot go on.
        """


def build_sequences(
    rows: Sequence[PromptRow],
    target: TransformersTarget,
    generator: ResponseGenerator,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TrainingSequence]:
    """Training sequences of ``rows``, in their order; what has no response yet is generated.

    A prompt that leaves the target no room has a sequence without a response.

    Args:
        rows: prompts, some with responses.
        target: for its template.
        generator: for the missing responses; greedy.
        cache: JSONL file of responses already generated; appended one by one.
        progress: called with finished and total numbers of generated responses.
    """
    from drafters.block_diffusion.data import TrainingSequence

    prompts = [tuple(target.encode_chat([{"role": "user", "content": r.prompt}])) for r in rows]
    known = _read_cache(cache)
    missing = dict.fromkeys(
        prompt
        for row, prompt in zip(rows, prompts, strict=True)
        if row.response_ids is None and _key(prompt) not in known
    )
    queries = [Query(prompt) for prompt in missing]
    if queries:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with cache.open("a", encoding="utf-8") as lines:
            for done, (index, answer) in enumerate(generator.generate(queries), start=1):
                key = _key(queries[index].ids)
                known[key] = answer
                lines.write(json.dumps({"key": key, "ids": answer}) + "\n")
                lines.flush()
                progress(done, len(queries))
    sequences = []
    for row, prompt in zip(rows, prompts, strict=True):
        response = row.response_ids if row.response_ids is not None else known.get(_key(prompt), ())
        sequences.append(TrainingSequence((*prompt, *response), len(prompt)))
    return sequences


def _read_cache(cache: Path) -> dict[str, list[int]]:
    known: dict[str, list[int]] = {}
    if cache.is_file():
        cut_torn_line(cache)  # else the next line would be written behind half of one
        for body in read_lines(cache, json.loads):
            known[body["key"]] = body["ids"]
    return known


def _key(prompt: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:32]
