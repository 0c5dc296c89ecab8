"""``config.json`` of a diffusion LM that is the target's own weights and a low-rank addition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.typed_json import typed

ARCHITECTURE = "LowRankDiffusionLM"

RANK = 32
"""Of the additions: with 32 the file of the embedded target's is 19.5 MB in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionConfig:
    """What the additions fit, and how the model is asked."""

    hidden_size: int
    num_target_layers: int
    vocab_size: int
    mask_token_id: int
    shifted: bool
    """Whether a token is read off the row before it, as models made from autoregressive ones
    have it, or off its own."""
    block_size: int
    """The pending token and the masks behind it, as trained."""
    rank: int

    def __post_init__(self) -> None:
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(f"mask_token_id must be below {self.vocab_size}")
        if self.block_size < 2:
            raise ValueError(f"block_size must be at least 2, not {self.block_size}")
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")


def config_to_json(config: DiffusionConfig) -> dict[str, Any]:
    """JSON-ready ``config.json``."""
    return {
        "architectures": [ARCHITECTURE],
        "dtype": "bfloat16",
        **dataclasses.asdict(config),
    }


def config_from_json(body: dict[str, Any], where: str) -> DiffusionConfig:
    """The config in a ``config.json``.

    Raises:
        UserError: a field is missing, of another type, or cannot be.
    """
    names = [field.name for field in dataclasses.fields(DiffusionConfig)]
    try:
        return typed(DiffusionConfig, {name: body[name] for name in names if name in body}, "it")
    except ValueError as error:
        raise UserError(
            f"{where}/config.json is not that of a diffusion LM of this harness ({error}); train "
            "it again."
        ) from error
