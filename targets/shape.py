"""The shape of a target, read from its config alone: no weights, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import hub
from harness.reading import read_text
from harness.registry import table
from harness.typed_json import parse_json
from harness.user_cache import user_cache
from targets import TRANSFORMERS
from targets.converted import CONVERSION

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "vocab_size": ("vocab_size",),
}
"""By the names that architectures have for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a drafter's shape must agree with; a loaded target has the same three."""

    hidden_size: int
    num_layers: int
    vocab_size: int


def shape_on_disk(target_name: str) -> Shape | None:
    """The shape of a target that is here; None where its config is not, or tells too little."""
    path = _config_file(target_name)
    if path is None:
        return None
    try:
        body = parse_json(read_text(path))
    except (OSError, ValueError):  # told when it is loaded
        return None
    return _shape(body) if isinstance(body, dict) else None


def _config_file(name: str) -> Path | None:
    entry = table("targets").get(name)
    if entry is None or entry.path == TRANSFORMERS:
        model = name if entry is None else str(entry.options["model"])
        if Path(model).is_dir():
            return Path(model) / "config.json"
        return hub.cached_file(model, "config.json") if model.count("/") == 1 else None
    converted = sorted((user_cache() / "targets").glob(f"{name}-*-{CONVERSION}/config.json"))
    return converted[0] if len(converted) == 1 else None


def _shape(body: dict[str, Any]) -> Shape | None:
    text = body.get("text_config")
    body = {**body, **text} if isinstance(text, dict) else body
    found: dict[str, int] = {}
    for name, keys in _NAMES.items():
        values = [body[key] for key in keys if type(body.get(key)) is int]
        if not values:
            return None
        found[name] = values[0]
    return Shape(**found)
