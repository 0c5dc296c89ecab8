"""From a hub id or a local directory to a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from targets.base import TargetOptions
from targets.digest import weights_digest
from targets.pretrained import load_pretrained, weight_files
from targets.transformers_lm import TransformersTarget


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
    return TransformersTarget(
        found.model,
        found.tokenizer,
        name=options.name,
        enable_thinking=options.enable_thinking,
        facts=facts,
    )


def load_directory(
    options: TargetOptions, directory: Path, facts: Mapping[str, Any]
) -> TransformersTarget:
    """A target from files the harness made itself; ``facts`` say what they are."""
    target = load(options, model=str(directory))
    target.facts.update(facts)
    return target
