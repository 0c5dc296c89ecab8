"""This project's loop beside the PyPI package ``dflash``: same checkpoint, target and prompts.

    pip install --no-deps dflash==0.1.0
    python -m tests.bench.versus_dflash --checkpoint DIR --data-dir DATA --dtype float32

Greedy, first turns only. In float32 both must write the same tokens, or the exit status is 1. Both
are timed from outside, around the whole call; as the package's call cannot be split, what comes
before the first token is measured by calls for one token, and subtracted.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from drafters.block_diffusion.drafter import BlockDiffusionDrafter, build
from harness.config import RunConfig
from harness.decode import generate
from harness.errors import UserError
from harness.plan import Plan, make_plan
from harness.sampling import Sampling
from targets.base import Target
from targets.load import load_target
from targets.pretrained import quiet
from targets.transformers_lm import TransformersTarget
from tests.bench.stopwatch import timed

Answer = Callable[[Sequence[int], int], list[int]]
"""``(prompt_ids, max_new_tokens) → new tokens``."""

WARMUP_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare this project's loop with the PyPI package dflash."""

    checkpoint: str
    """Drafter in the DFlash layout: a directory or hub id."""
    target: str = "smollm2"
    """Target the drafter was made for."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of target and drafter."""
    device: str = "auto"
    """cuda where there is one, else cpu."""
    data_dir: Path | None = None
    """Upstream data files; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    limit: int = 2
    """Prompts a task."""
    max_new_tokens: int = 128
    """Longest answer."""
    repeats: int = 3
    """Timed calls of each on each prompt; medians count."""
    seed: int = 0
    """Of the order within each repeat."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One implementation on one prompt."""

    num_tokens: int
    total_s: float
    """Median of the whole call."""
    prefill_s: float
    """Median of calls for one token."""

    @property
    def decode_s(self) -> float:
        """First token to last."""
        return self.total_s - self.prefill_s


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both on one prompt."""

    prompt: str
    """Task and id."""
    ours: Side
    theirs: Side
    divergence: str | None
    """Where the tokens part; None where they are the same."""

    @property
    def is_timed(self) -> bool:
        """Whether both decoded something in a time that can be told from the prefill's."""
        return all(side.num_tokens > 1 and side.decode_s > 0 for side in (self.ours, self.theirs))

    @property
    def ratio(self) -> float:
        """Decode tokens a second, ours over theirs."""
        return _decode_rate([self.ours]) / _decode_rate([self.theirs])


def main() -> int:
    """Compare, print, and say by the exit status whether float32 agreed."""
    options = tyro.cli(Options)
    try:
        plan = make_plan(_run_config(options))
        pairs, facts = _measure(plan)
        for pair in pairs:
            if pair.divergence:
                print(pair.divergence, file=sys.stderr)
        summary = _summary(pairs, options, facts)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _print_table(summary)
    print(json.dumps(summary, default=str))
    return int(options.dtype == "float32" and summary["num_identical"] < len(pairs))


def _run_config(options: Options) -> RunConfig:
    """The same request in the harness's words: it chooses the prompts."""
    asked = asdict(options)
    return RunConfig(drafter=(f"dflash={asked.pop('checkpoint')}",), **asked)


def _measure(plan: Plan) -> tuple[list[Pair], dict[str, Any]]:
    """Every prompt, back to back on both sides."""
    target = load_target(plan.target)
    assert isinstance(target, TransformersTarget)
    drafter = build(target, plan.drafters[0])
    answers = {
        "ours": _ours(target, drafter),
        # A model of its own: ours has its weights laid out anew, which is part of our loop.
        "theirs": _theirs(load_target(plan.target), drafter, plan.drafters[0].argument or ""),
    }
    prompts = {
        f"{task} {prompt.prompt_id}": target.encode_chat(
            [{"role": "user", "content": prompt.turns[0]}]
        )
        for task, chosen in plan.tasks.items()
        for prompt in chosen.prompts
    }
    for answer in answers.values():
        answer(next(iter(prompts.values())), WARMUP_TOKENS)
    order = random.Random(plan.config.seed)
    pairs = []
    for prompt, prompt_ids in prompts.items():
        pairs.append(_pair(plan, target.device, answers, prompt, prompt_ids, order))
        print(f"{len(pairs)} of {len(prompts)} prompts", file=sys.stderr)
    facts = {
        "block_size": drafter.block_size,
        "device": str(target.device),
        "num_threads": torch.get_num_threads(),
        "sources": sorted({chosen.source.kind for chosen in plan.tasks.values()}),
    }
    return pairs, facts


def _ours(target: TransformersTarget, drafter: BlockDiffusionDrafter) -> Answer:
    def answer(prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        done = generate(
            target, drafter, prompt_ids, sampling=Sampling(), max_new_tokens=max_new_tokens
        )
        return list(done.new_tokens)

    return answer


def _theirs(target: Target, drafter: BlockDiffusionDrafter, checkpoint: str) -> Answer:
    assert isinstance(target, TransformersTarget)
    try:
        from dflash.model import DFlash2DraftModel, DFlashDraftModel, dflash_generate
    except ImportError as error:
        raise UserError(
            "the package dflash is missing; run `pip install --no-deps dflash==0.1.0`."
        ) from error
    is_plain = drafter.model.candidate_selector is None
    architecture = DFlashDraftModel if is_plain else DFlash2DraftModel
    with quiet():
        model = architecture.from_pretrained(checkpoint, dtype=target.dtype)
    model = model.to(target.device).eval()
    stop_ids = sorted(target.stop_ids) or None

    def answer(prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        ids = torch.tensor([list(prompt_ids)], device=target.device)
        whole = dflash_generate(
            model,
            target.model,
            ids,
            max_new_tokens,
            stop_ids,
            temperature=0.0,
            block_size=drafter.block_size,
        )
        return whole[0, len(prompt_ids) :].tolist()

    return answer


def _pair(
    plan: Plan,
    device: torch.device,
    answers: dict[str, Answer],
    prompt: str,
    prompt_ids: Sequence[int],
    order: random.Random,
) -> Pair:
    """Both sides, whole and for one token, in a fresh order each repeat."""
    jobs = [(name, limit) for name in answers for limit in (plan.max_new_tokens, 1)]
    seconds: dict[tuple[str, int], list[float]] = {job: [] for job in jobs}
    tokens: dict[tuple[str, int], list[int]] = {}
    for _ in range(plan.config.repeats):
        order.shuffle(jobs)
        for name, limit in jobs:
            taken, found = timed(device, partial(answers[name], prompt_ids, limit))
            seconds[name, limit].append(taken)
            tokens[name, limit] = found
    sides = {
        name: Side(
            num_tokens=len(tokens[name, plan.max_new_tokens]),
            total_s=statistics.median(seconds[name, plan.max_new_tokens]),
            prefill_s=statistics.median(seconds[name, 1]),
        )
        for name in answers
    }
    divergence = _divergence(
        prompt, tokens["ours", plan.max_new_tokens], tokens["theirs", plan.max_new_tokens]
    )
    return Pair(prompt=prompt, divergence=divergence, **sides)


def _divergence(prompt: str, ours: list[int], theirs: list[int]) -> str | None:
    if ours == theirs:
        return None
    first = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]),
        min(len(ours), len(theirs)),
    )
    return (
        f"{prompt}: tokens part at {first} of {len(ours)} and {len(theirs)}: "
        f"ours {ours[first : first + 4]}, theirs {theirs[first : first + 4]}"
    )


def _decode_rate(sides: Sequence[Side]) -> float:
    return sum(side.num_tokens - 1 for side in sides) / sum(side.decode_s for side in sides)


def _whole_rate(sides: Sequence[Side]) -> float:
    return sum(side.num_tokens for side in sides) / sum(side.total_s for side in sides)


def _summary(pairs: Sequence[Pair], options: Options, facts: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the table; decode rates from the prompts on which both decoded something."""
    decoded = [pair for pair in pairs if pair.is_timed]
    if not decoded:
        raise UserError("no answer is longer than one token; give --max-new-tokens at least 2.")
    ratios = sorted(pair.ratio for pair in decoded)
    rates = {
        f"{name}_{kind}_tokens_per_s": rate([getattr(pair, name) for pair in chosen])
        for kind, rate, chosen in (("decode", _decode_rate, decoded), ("whole", _whole_rate, pairs))
        for name in ("ours", "theirs")
    }
    return {
        **asdict(options),
        **facts,
        "num_prompts": len(pairs),
        "num_identical": sum(pair.divergence is None for pair in pairs),
        "num_decoded": len(decoded),
        **rates,
        "decode_ratio": rates["ours_decode_tokens_per_s"] / rates["theirs_decode_tokens_per_s"],
        "whole_ratio": rates["ours_whole_tokens_per_s"] / rates["theirs_whole_tokens_per_s"],
        "decode_ratio_min": ratios[0],
        "decode_ratio_median": statistics.median(ratios),
        "decode_ratio_max": ratios[-1],
        "prompts": [asdict(pair) for pair in pairs],
    }


def _print_table(summary: dict[str, Any]) -> None:
    print(
        f"{summary['target']}, {summary['dtype']}, {summary['device']}, block "
        f"{summary['block_size']}, {summary['num_prompts']} prompts × {summary['repeats']}, "
        f"up to {summary['max_new_tokens']} tokens, prompts from {', '.join(summary['sources'])}"
    )
    print(f"tokens identical  {summary['num_identical']}/{summary['num_prompts']} prompts")
    print(f"{'':<18}{'ours':>8}{'theirs':>8}{'ratio':>8}")
    for kind, title in (("decode", "decode tokens/s"), ("whole", "whole tokens/s")):
        ours, theirs = (summary[f"{name}_{kind}_tokens_per_s"] for name in ("ours", "theirs"))
        print(f"{title:<18}{ours:>8.1f}{theirs:>8.1f}{summary[f'{kind}_ratio']:>8.2f}")
    print(
        f"decode ratio by prompt ({summary['num_decoded']}): least "
        f"{summary['decode_ratio_min']:.2f}, median {summary['decode_ratio_median']:.2f}, most "
        f"{summary['decode_ratio_max']:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
