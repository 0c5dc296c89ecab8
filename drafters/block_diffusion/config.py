"""Settings of a training run; importing this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from harness import template_date
from harness.bounds import Depth, between
from harness.said import SAID


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What ``harness train`` is told: the architecture, data order and budget of every variant."""

    drafter: str = "combined"
    """Name of an objective or a drafter that can be trained, several separated by commas, or
    ``all``: the five objectives."""
    target: str = "smollm2"
    """Target to train for: a name in the table, a local directory or a hub id."""
    data: Annotated[Path | None, SAID] = None
    """JSONL file or directory of prompts, or a corpus that ``harness data`` built.
    By default Dolly and GSM8K's training split from the hub, else the project's own few prompts."""
    responses: Literal["target", "reference"] = "target"
    """Train on the target's responses, or on the answers that came with the prompts of a corpus."""
    output_dir: Annotated[Path | None, SAID] = None
    """Where checkpoints go, one directory a variant; default: the user cache."""
    start_from: Annotated[Path | None, SAID] = None
    """Checkpoint to go on from, or a directory with one for each variant by its name; by default
    the target's last layers."""
    steps: int = 1600
    """Optimiser steps."""
    seed: int = 0
    """Seed of initial weights, data order and anchors, the same for every variant."""
    batch_size: int = 4
    """Sequences a step."""
    micro_batch: Annotated[int | None, SAID] = None
    """Most sequences a process works on at once; a step of more is taken in several passes, whose
    gradients add up. By default all of a step."""
    num_anchors: int = 24
    """Random anchors (blocks) drawn from each sequence at a step."""
    block_size: int = 6
    """Tokens of a block, the anchor included."""
    num_layers: int = 2
    """Layers of the drafter; a student starts from as many of the target's."""
    mlp_width: Annotated[int | None, SAID] = None
    """Width of the drafter's MLPs; by default that of the target's. A narrower one starts from the
    target's strongest units."""
    num_features: int = 5
    """Target layers whose outputs the drafter reads."""
    learning_rate: float = 1e-3
    """Peak learning rate (AdamW, linear warm-up, cosine)."""
    warmup_fraction: float = 0.04
    """Share of the steps spent warming up."""
    max_grad_norm: float = 1.0
    """Global gradient norm is clipped to this."""
    train_vocab_size: int = 8192
    """Softmax over this many of the most frequent response tokens, in training; 0 takes the
    target's whole vocabulary. Drafting uses all of it unless ``--draft-vocab trained``."""
    max_prompts: Annotated[int | None, SAID] = None
    """Use only so many prompts, in a stable pseudo-random order."""
    max_new_tokens: int = 224
    """Length limit of the responses that are generated here."""
    held_back: float = 0.02
    """Share of prompts never trained on; training-time accepted length is measured on them."""
    features: Literal["auto", "disk", "none"] = "auto"
    """Whether the target's features are kept on disk or computed at every step; by default kept on
    a CPU with room for them, and computed on a GPU."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; master weights and optimiser state are float32."""
    device: str = "auto"
    """``cpu``, ``cuda`` or ``auto``. A target too large for one GPU is spread over several."""
    revision: Annotated[str | None, SAID] = None
    """Hub revision of the target."""
    template_date: Annotated[str | None, SAID] = None
    """What the target's template takes for today, where it writes the date (YYYY-MM-DD); by default
    the corpus's, else the day on which this target was first trained for here."""
    save_every: int = 100
    """Steps between resumable snapshots."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "num_anchors", "num_layers", "num_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.mlp_width is not None and self.mlp_width < 1:
            raise ValueError(f"mlp_width must be at least 1, not {self.mlp_width}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1, not {self.micro_batch}")
        if self.template_date is not None:
            template_date.parse(self.template_date)
        if self.block_size < 2:
            raise ValueError(f"block_size must be at least 2, not {self.block_size}")
        if self.block_size > between(Depth).most:
            raise ValueError(f"block_size must be at most {between(Depth).most:,}")
        if not 0 < self.held_back < 1:
            raise ValueError(f"held_back must lie between 0 and 1, not {self.held_back}")
        if self.train_vocab_size < 0:
            raise ValueError("train_vocab_size must be at least 0")
