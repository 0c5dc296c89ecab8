"""The target's own responses to training prompts: batched, cached on disk, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from drafters.block_diffusion.data import TrainingSequence
from drafters.block_diffusion.prompts import PromptRow
from targets.transformers_lm import TransformersTarget

_BATCH = 16


class ResponseGenerator(Protocol):
    """Continues prompts; a serving engine can stand here as well."""

    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """New token ids of each prompt, the stop token included where it was reached."""


class GreedyGenerator:
    """The target itself, greedy, in left-padded batches."""

    def __init__(self, target: TransformersTarget, max_new_tokens: int) -> None:
        self.target = target
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Continue all prompts in one batch."""
        width = max(len(ids) for ids in prompts)
        stop = sorted(self.target.stop_ids)
        pad = stop[0] if stop else 0
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        output = self.target.model.generate(
            input_ids=ids.to(self.target.device),
            attention_mask=mask.to(self.target.device),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            eos_token_id=stop or None,
            pad_token_id=pad,
        )
        return [_cut(row, self.target.stop_ids) for row in output[:, width:].tolist()]


def build_sequences(
    rows: Sequence[PromptRow],
    target: TransformersTarget,
    generator: ResponseGenerator,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[TrainingSequence]:
    """Training sequences of ``rows``, in their order; what has no response yet is generated.

    Args:
        rows: prompts, some with responses.
        target: for its template.
        generator: for the missing responses.
        cache: JSONL file of responses already generated; appended batch by batch.
        progress: called with finished and total numbers of generated responses.
    """
    prompts = [target.encode_chat([{"role": "user", "content": row.prompt}]) for row in rows]
    known = _read_cache(cache)
    missing = [
        index
        for index, row in enumerate(rows)
        if row.response_ids is None and _key(prompts[index]) not in known
    ]
    # Similar lengths together: padding is work.
    missing.sort(key=lambda index: (len(prompts[index]), index))
    if missing:
        cache.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), _BATCH):
        part = missing[start : start + _BATCH]
        answers = generator.generate([prompts[index] for index in part])
        with cache.open("a", encoding="utf-8") as lines:
            for index, answer in zip(part, answers, strict=True):
                known[_key(prompts[index])] = answer
                lines.write(json.dumps({"key": _key(prompts[index]), "ids": answer}) + "\n")
        progress(start + len(part), len(missing))
    sequences = []
    for row, prompt in zip(rows, prompts, strict=True):
        response = row.response_ids if row.response_ids is not None else known[_key(prompt)]
        sequences.append(TrainingSequence((*prompt, *response), len(prompt)))
    return sequences


def _read_cache(cache: Path) -> dict[str, list[int]]:
    known: dict[str, list[int]] = {}
    if cache.is_file():
        for line in cache.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                body = json.loads(line)
                known[body["key"]] = body["ids"]
    return known


def _key(prompt: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(prompt)).encode()).hexdigest()[:32]


def _cut(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    for index, token in enumerate(ids):
        if token in stop_ids:
            return ids[: index + 1]
    return ids
