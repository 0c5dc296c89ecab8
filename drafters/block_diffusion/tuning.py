"""The block size to decode with on this machine, chosen by speed on held-back training prompts.

A drafter trained in blocks of 16 need not draft 16: every draft behind the first error is verified
for nothing, and on a CPU each costs a row of the target's products. Each held-back prompt is
answered by ``ar_loop`` and by every block size back to back, in an order drawn from the seed; the
size with the most tokens a second over all of them becomes the checkpoint's recommendation for
this kind of device, and is what it decodes with unless ``--block-size`` says otherwise.

    python -m harness tune --drafter combined --target qwen --data corpus
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.checkpoint_files import read_object, read_training
from drafters.block_diffusion.drafter import build
from drafters.block_diffusion.prompts import in_stable_order, is_held_back, training_prompts
from drafters.block_diffusion.tune_config import TuneConfig
from drafters.none import NoDrafter
from drafters.options import DrafterOptions
from harness import provenance
from harness.decode import Decoded, generate
from harness.errors import UserError
from harness.plan import resolve_device
from harness.progress import Progress
from harness.registry import BLOCK_DIFFUSION, resolve
from harness.sampling import Sampling
from harness.whole_file import write_json
from targets.base import TargetOptions
from targets.load import load_transformers_target
from targets.transformers_lm import TransformersTarget


def tune(config: TuneConfig) -> tuple[Path, dict[str, Any]]:
    """Measure, and write ``recommended_block_size`` into the checkpoint's ``training.json``.

    Returns:
        The checkpoint's directory and what was written for this kind of device.

    Raises:
        UserError: no such drafter, a checkpoint that was not made here, or no held-back prompts.
    """
    options = DrafterOptions.parse(config.drafter)
    directory = _checkpoint(options, config.target)
    training = read_object(directory / "training.json")
    rows = _held_back(config, training)
    target = load_transformers_target(
        TargetOptions(
            name=config.target,
            dtype=config.dtype,
            device=resolve_device(config.device),
            revision=config.revision,
        ),
        "tuning",
    )
    sizes = sorted({size for size in config.sizes if size <= training["block_size"]})
    answers = _answers(target, options, [target.encode_chat(row) for row in rows], sizes, config)
    found = {
        **recommendation(answers),
        "num_prompts": len(rows),
        "max_new_tokens": config.max_new_tokens,
        "dtype": config.dtype,
        "hardware": provenance.hardware(),
    }
    known = training.get("recommended_block_size", {})
    training["recommended_block_size"] = {**known, target.device.type: found}
    write_json(directory / "training.json", training)
    return directory, found


def _checkpoint(options: DrafterOptions, target_name: str) -> Path:
    """Its directory, with a ``training.json`` of ours to write to."""
    if options.policies or resolve("drafters", options.name).path != BLOCK_DIFFUSION:
        raise UserError(
            f"{options.method} has no block size to choose; name a block-diffusion drafter alone."
        )
    checkpoint.check(options.name, options.argument, target_name)
    directory = Path(checkpoint.find(options.name, options.argument, target_name))
    if not directory.is_dir() or read_training(directory / "training.json") is None:
        raise UserError(
            f"{directory} was not trained here, so there is no training.json to note a block size "
            "in; give --block-size to run instead."
        )
    return directory


def recommendation(answers: Mapping[int, Sequence[Decoded]]) -> dict[str, Any]:
    """The fastest block size, and the speedup of each over one token a pass.

    Args:
        answers: of the same prompts by block size; 1 is ``ar_loop``, which drafts nothing.
    """
    rates = {
        size: sum(len(item.new_tokens) - 1 for item in items) / sum(item.decode_s for item in items)
        for size, items in answers.items()
    }
    speedups = {size: rate / rates[1] for size, rate in rates.items() if size > 1}
    best = max(speedups, key=lambda size: speedups[size])
    shown = {str(size): round(speedup, 4) for size, speedup in speedups.items()}
    return {"block_size": best, "decode_speedups": shown}


def _held_back(config: TuneConfig, training: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    """Conversations that the training never saw: a hash of the prompt decides, as it did there."""
    prompts = training_prompts(config.data, "target")
    share = float(training.get("held_back", 0.02))
    held = [row.prompt for row in in_stable_order(prompts.rows) if is_held_back(row, share)]
    distinct = list(dict.fromkeys(held))[: config.num_prompts]
    if not distinct:
        raise UserError(
            f"{config.data} holds no prompt that was held back from training; give the data that "
            "the drafter was trained on."
        )
    return [[{"role": "user", "content": prompt}] for prompt in distinct]


def _answers(
    target: TransformersTarget,
    options: DrafterOptions,
    prompts: Sequence[Sequence[int]],
    sizes: Sequence[int],
    config: TuneConfig,
) -> dict[int, list[Decoded]]:
    drafters: dict[int, Any] = {1: NoDrafter(target.device)}
    drafters |= {size: build(target, replace(options, block_size=size)) for size in sizes}

    def answer(size: int, prompt: Sequence[int]) -> Decoded:
        limit = min(config.max_new_tokens, target.max_context - len(prompt))
        return generate(target, drafters[size], prompt, sampling=Sampling(), max_new_tokens=limit)

    for size in drafters:  # what is compiled or allocated at first is no size's fault
        answer(size, prompts[0])
    found: dict[int, list[Decoded]] = defaultdict(list)
    draw = random.Random(config.seed)
    with Progress(len(prompts) * len(drafters), "tuning") as progress:
        for prompt in prompts:
            for size in draw.sample(sorted(drafters), len(drafters)):
                found[size].append(answer(size, prompt))
                progress.step(f"block size {size}")
    return found
