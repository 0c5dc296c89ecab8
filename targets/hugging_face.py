"""From a hub id or a local directory to a target."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.errors import FAILURES, NotNumbers, UserError, one_line, raise_ctrl_c
from harness.progress import say
from harness.template_date import parse
from targets.base import TargetOptions
from targets.digest import weights_digest
from targets.pretrained import load_pretrained, weight_files
from targets.transformers_lm import TransformersTarget, unstopped

_TOKENS = 8
"""Of the pass that shows whether a target computes."""


def load(options: TargetOptions, *, model: str) -> TransformersTarget:
    """The target behind a hub id or a local directory.

    Raises:
        UserError: it cannot be loaded; the message says why and what to do.
    """
    found = load_pretrained(model, options)
    files = weight_files(found.directory)
    facts = {
        "model": model,
        "revision": found.revision,
        "weights_sha256": weights_digest(files),
    }
    target = TransformersTarget(
        found.model,
        found.tokenizer,
        name=options.name,
        enable_thinking=options.enable_thinking,
        template_date=None if options.template_date is None else parse(options.template_date),
        facts=facts,
    )
    _require_numbers(target, options.dtype)
    if (odd := unstopped(target)) is not None:
        _warn(
            f"WARNING  {options.name}: {odd}, where answers do not stop; if they should, add the "
            "token to eos_token_id in generation_config.json"
        )
    return target


@functools.cache
def _warn(line: str) -> None:
    """Say it once, however often the target is loaded."""
    say(line)


@torch.inference_mode()
def _require_numbers(target: TransformersTarget, dtype: str) -> None:
    """Show by a pass over a few tokens that the target computes here, and that it gives numbers.

    Raises:
        UserError: it does not.
    """
    ids = torch.arange(1, 1 + _TOKENS, device=target.device)[None] % target.vocab_size
    try:
        logits = target.model(input_ids=ids, use_cache=False).logits
    except FAILURES as error:
        raise_ctrl_c(error)
        raise UserError(
            f"{target.name} cannot compute in {dtype} on {target.device} ({one_line(error)}); "
            "choose another --dtype, --attn or target."
        ) from error
    if not bool(logits.amax(-1).isfinite().all()):
        raise NotNumbers(target.name)


def load_directory(
    options: TargetOptions, directory: Path, facts: Mapping[str, Any]
) -> TransformersTarget:
    """A target from files the harness made itself; ``facts`` say what they are."""
    target = load(options, model=str(directory))
    target.facts.update(facts)
    return target
