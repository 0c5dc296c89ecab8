"""This project's loop beside vLLM's: one target, one drafter, the same prompt ids.

    make vllm-check

which sets up vLLM in an environment of its own and runs ``python -m tests.bench.versus_vllm``.
Greedy, first turns. Both accepted lengths are taken by vLLM's definition (`vllm_agreement`); exit
status 1 where they are more than 5 % apart and the interval of their ratio excludes 1. Texts are
compared too: in bfloat16 two engines break near-ties differently, and how near is printed.

Seen with vLLM 0.32.0 on a CPU: its kernel norms the context's keys of every drafter layer with the
first layer's weights (`_normalize_context_k` hands it one row a layer; it reads the first), so a
few drafts differ in float32, too: 3 of 149, and with a norm for each layer none of 153.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.options import DrafterOptions
from harness import registry
from harness.bootstrap import MIN_CONVERSATIONS
from harness.decode import generate
from harness.errors import UserError
from harness.metrics import NoData
from harness.plan import load_tasks
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_transformers_target
from targets.transformers_lm import TransformersTarget
from tests.bench.vllm_agreement import (
    Agreement,
    Answer,
    Estimate,
    agreement,
    drafted,
    drafts_alike,
    first_difference,
)
from tests.bench.vllm_request import Request, ask

_ROOM = 64
"""Tokens of context behind the longest answer: vLLM drafts no block that might not fit."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compare accepted lengths with vLLM's."""

    vllm_python: Path = Path(".venv-vllm/bin/python")
    """Python of the environment that has vLLM."""
    drafter: str = "combined"
    """Name, or NAME=PATH, of a block-diffusion drafter, as for run."""
    target: str = "smollm2"
    """Name of a target, a local directory or a hub id."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of target and drafter."""
    task: str = "gsm8k"
    """Where the prompts are from."""
    data_dir: Path | None = None
    """Upstream data files; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    limit: int = 64
    """How many prompts."""
    max_new_tokens: int = 128
    """Longest answer."""
    block_size: int | None = None
    """Tokens of a block, the pending one included; default: the drafter's own."""
    output_dir: Path = Path("build/vllm_check")
    """Where prompts, answers and vLLM's log are left."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What both engines are given."""

    target: TransformersTarget
    drafter: BlockDiffusionDrafter
    request: Request
    source: str
    """Where the prompts came from: directory, hub or samples."""


def main() -> int:
    """Compare, print, and say by the exit status whether the engines agree."""
    options = tyro.cli(Options)
    try:
        setup = set_up(options)
        options.output_dir.mkdir(parents=True, exist_ok=True)
        print(f"vLLM answers; its log is {options.output_dir / 'vllm.log'}", file=sys.stderr)
        theirs, facts = ask(options.vllm_python, setup.request, options.output_dir)
        ours = answers(setup)
        found = agreement(ours, theirs)
    except (UserError, NoData) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (options.output_dir / "ours.json").write_text(json.dumps([asdict(item) for item in ours]))
    summary = {
        **asdict(options),
        "block_size": setup.drafter.block_size,
        "drafter_sha256": (setup.drafter.checkpoint or {}).get("weights_sha256"),
        "source": setup.source,
        "num_prompts": len(ours),
        "num_drafts": sum(item.drafts for item in ours),
        "vllm_num_drafts": sum(item.drafts for item in theirs),
        **facts,
        **_compare_texts(setup, ours, theirs),
        **asdict(found),
        "holds": found.holds,
    }
    _print_table(summary, found)
    print(json.dumps(summary, default=str))
    return int(not found.holds)


def set_up(options: Options) -> Setup:
    """Target, drafter and prompts.

    Raises:
        UserError: something is missing or does not fit, vLLM above all.
    """
    if not options.vllm_python.is_file():
        raise UserError(
            f"there is no {options.vllm_python}; run `make vllm-check`, which installs vLLM there, "
            "or name another --vllm-python."
        )
    chosen = load_tasks((options.task,), options.data_dir, options.limit)[options.task]
    if len(chosen.prompts) < MIN_CONVERSATIONS:
        raise UserError(
            f"{len(chosen.prompts)} prompts are too few for an interval; give --limit "
            f"{MIN_CONVERSATIONS} or more."
        )
    target = load_transformers_target(
        TargetOptions(name=options.target, dtype=options.dtype), "this comparison"
    )
    wanted = DrafterOptions.parse(options.drafter, options.block_size)
    row = registry.resolve("drafters", wanted.name)
    drafter = row.load()(target, wanted, **row.options)
    if not isinstance(drafter, BlockDiffusionDrafter):
        raise UserError(f"{wanted.name} is no drafter in the DFlash layout; name one that is.")
    prompts = tuple(
        tuple(target.encode_chat([{"role": "user", "content": prompt.turns[0]}]))
        for prompt in chosen.prompts
    )
    request = Request(
        target=target.model.name_or_path,
        drafter=checkpoint.find(wanted.name, wanted.argument, target.name),
        dtype=options.dtype,
        num_speculative_tokens=drafter.max_nodes,
        max_new_tokens=options.max_new_tokens,
        max_model_len=max(map(len, prompts)) + options.max_new_tokens + drafter.max_nodes + _ROOM,
        stop_ids=tuple(sorted(target.stop_ids)),
        prompts=prompts,
    )
    if request.max_model_len > target.max_context:
        raise UserError(
            f"prompts and answers of up to {request.max_model_len} tokens do not fit in the "
            f"{target.max_context} that {target.name} reads; give a smaller --max-new-tokens."
        )
    return Setup(target=target, drafter=drafter, request=request, source=chosen.source.kind)


def answers(setup: Setup) -> list[Answer]:
    """Our loop's; each may go a block further, so that no draft is cut at the limit."""
    limit, depth = setup.request.max_new_tokens, setup.request.num_speculative_tokens
    done = []
    for prompt_ids in setup.request.prompts:
        decoded = generate(
            setup.target,
            setup.drafter,
            prompt_ids,
            sampling=Sampling(),
            max_new_tokens=limit + depth,
        )
        done.append(drafted(decoded, limit, depth))
        print(f"{len(done)} of {len(setup.request.prompts)} prompts", file=sys.stderr)
    return done


def _compare_texts(
    setup: Setup, ours: Sequence[Answer], theirs: Sequence[Answer]
) -> dict[str, Any]:
    """How many answers are equal, how near the choice was where they part, and drafts before."""
    places = [first_difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    gaps = [
        _gap(setup.target, prompt_ids, a.new_tokens, b.new_tokens, place)
        for prompt_ids, a, b, place in zip(setup.request.prompts, ours, theirs, places, strict=True)
        if place is not None
    ]
    counts = [drafts_alike(a, b) for a, b in zip(ours, theirs, strict=True)]
    return {
        "num_identical": places.count(None),
        "first_differences": places,
        "gaps": gaps,
        "drafts_shared": sum(shared for shared, _ in counts),
        "drafts_alike": sum(alike for _, alike in counts),
    }


def _gap(
    target: TransformersTarget,
    prompt_ids: Sequence[int],
    ours: Sequence[int],
    theirs: Sequence[int],
    place: int,
) -> float:
    """By how much one pass of our target puts our token above theirs, behind the shared text.

    Below 0 where the pass that chose it rounded the other way.
    """
    *_, logits = target.score(prompt_ids, ours[: place + 1])
    last = logits[-1].float()
    return float(last[ours[place]] - last[theirs[place]])


def _print_table(summary: dict[str, Any], found: Agreement) -> None:
    print(
        f"{summary['target']}, {summary['drafter']}, {summary['dtype']}, block "
        f"{summary['block_size']}, {summary['num_prompts']} prompts of {summary['task']} "
        f"({summary['source']}) up to {summary['max_new_tokens']} tokens, vLLM "
        f"{summary['versions']['vllm']}"
    )
    print(f"{'':<16}{'ours':>22}{'vLLM':>22}{'vLLM − ours':>26}")
    depth = summary["block_size"] - 1
    names = ["accepted length", *(f"position {place}" for place in range(1, depth + 1))]
    rows = zip(names, found.ours, found.theirs, found.differences, strict=True)
    for name, ours, theirs, difference in rows:
        print(f"{name:<16}{_cell(ours):>22}{_cell(theirs):>22}{_cell(difference, '+'):>26}")
    print(f"{'drafts':<16}{summary['num_drafts']:>22}{summary['vllm_num_drafts']:>22}")
    print(f"accepted length, vLLM / ours: {_cell(found.ratio)}")
    print(f"texts identical: {summary['num_identical']} of {summary['num_prompts']}")
    gaps = [abs(gap) for gap in summary["gaps"]]
    if gaps:
        print(
            "where they part, the logits of the two tokens are "
            f"{statistics.median(gaps):.3f} apart (median), {max(gaps):.3f} at most"
        )
    print(
        f"before that, {summary['drafts_alike']} of {summary['drafts_shared']} drafts begun at the "
        "same place went as far"
    )


def _cell(item: Estimate, sign: str = "") -> str:
    return f"{item.value:{sign}.3f} ({item.low:{sign}.3f}–{item.high:{sign}.3f})"


if __name__ == "__main__":
    sys.exit(main())
