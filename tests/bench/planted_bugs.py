"""How small a wrong token the audit still finds: planted bugs by margin and noise.

    python -m tests.bench.planted_bugs --num-answers 4 --dtype bfloat16

Honest greedy answers first: each position in turn holds the runner-up, or a random token, and the
audit judges that token (what comes before it is right). Then the loop itself with an acceptance
rule that lets one wrong token through in 200.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch
import tyro

from drafters.none import NoDrafter
from harness.audit import WIDER
from harness.decode import generate
from harness.plan import load_tasks
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

sys.path.append(str(Path(__file__).resolve().parent.parent))
import planted


@dataclass(frozen=True, kw_only=True)
class Options:
    """Plant wrong tokens in answers of a target and audit them."""

    target: str = "smollm2"
    """Name of a target, a local directory or a hub id."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the target; the reference is one dtype wider."""
    num_answers: int = 4
    """Prompts, from the tasks in turn."""
    max_new_tokens: int = 64
    """Longest answer."""
    loop: bool = True
    """Also decode with a careless rule."""


def main(options: Options) -> int:
    """Print the tables."""
    torch.set_num_threads(1)
    target, reference = (
        load_target(TargetOptions(name=options.target, dtype=dtype, device="cpu", attn="sdpa"))
        for dtype in (options.dtype, WIDER[options.dtype])
    )
    assert isinstance(target, TransformersTarget) and isinstance(reference, TransformersTarget)
    prompts = list(_prompts(target, options.num_answers))
    answers = [
        generate(
            target,
            NoDrafter(),
            prompt,
            sampling=Sampling(),
            max_new_tokens=options.max_new_tokens,
        ).new_tokens
        for prompt in prompts
    ]
    honest: list[planted.Case] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        for wide, own, tokens in planted.scores(target, reference, prompt, answer):
            honest += planted.cases(wide, own, tokens)
    wrong = sum(case.caught for case in honest)
    print(f"{target.name} {options.dtype}: {len(honest)} honest tokens, {wrong} called wrong")
    for kind in planted.KINDS:
        draw = random.Random(0)
        found: list[planted.Case] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            found += planted.planted_everywhere(target, reference, prompt, answer, kind, draw)
        print(f"{kind} at every position\n  margin/noise     caught          median margin")
        print("\n".join(planted.table(found)))
    if options.loop:
        _loop(target, reference, prompts, options.max_new_tokens)
    return 1 if wrong else 0


def _loop(
    target: TransformersTarget,
    reference: TransformersTarget,
    prompts: list[list[int]],
    num_tokens: int,
) -> None:
    for kind in planted.KINDS:
        with mock.patch("harness.decode.verify") as place:
            found, honest = planted.planted_in_the_loop(
                target,
                reference,
                prompts,
                num_tokens,
                kind,
                lambda name, rule: setattr(place, "side_effect", rule),
            )
        caught = sum(case.caught for case in found)
        wrong = sum(case.caught for case in honest)
        print(
            f"{kind}, one in {planted.ONE_IN}, in the loop: {caught} of {len(found)} caught; "
            f"{wrong} of {len(honest)} others called wrong"
        )


def _prompts(target: TransformersTarget, count: int) -> Iterator[list[int]]:
    """One prompt of each task in turn."""
    tasks = load_tasks(("all",), None, count)
    columns = zip(*(chosen.prompts for chosen in tasks.values()), strict=False)
    chosen = [prompt for row in columns for prompt in row]
    for prompt in chosen[:count]:
        yield target.encode_chat([{"role": "user", "content": prompt.turns[0]}])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
