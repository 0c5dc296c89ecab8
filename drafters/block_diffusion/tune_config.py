"""What ``harness tune`` is told; importing this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from harness.bounds import Depth, between
from harness.said import SAID


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneConfig:
    """Choose the block size that decodes fastest on this machine, and note it in the checkpoint."""

    data: Path
    """The prompts or corpus that the drafter was trained on; only those held back are asked."""
    drafter: str = "combined"
    """Name of a block-diffusion drafter, or NAME=DIR."""
    target: str = "smollm2"
    """Target it was trained for."""
    block_sizes: str = "2,3,4,5,6,8,12,16"
    """Sizes to try, the pending token included; those above the trained size are left out."""
    num_prompts: int = 12
    """Held-back prompts to answer."""
    max_new_tokens: int = 96
    """Longest answer."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of target and drafter."""
    device: str = "auto"
    """cuda where there is one, else cpu; or a device's name."""
    revision: Annotated[str | None, SAID] = None
    """Hub revision of the target."""
    seed: int = 0
    """The order within each prompt follows from it."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        try:
            smallest = min(self.sizes)
        except ValueError:
            raise ValueError("block_sizes are whole numbers, as in 2,4,8") from None
        if smallest < 2:
            raise ValueError(f"a block of {smallest} leaves nothing to draft; give 2 and more")
        if max(self.sizes) > between(Depth).most:
            raise ValueError(f"blocks have at most {between(Depth).most:,} tokens")

    @property
    def sizes(self) -> tuple[int, ...]:
        """``block_sizes`` as numbers."""
        return tuple(int(part) for part in self.block_sizes.split(","))
