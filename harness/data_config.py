"""What ``harness data`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from harness import template_date
from harness.config import Names, Plugins
from harness.errors import UserError
from harness.said import SAID
from harness.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Build a training corpus: prompts that no task asks, answered by the target."""

    prompts: Names = ()
    """Files, directories, or hub sets as OWNER/NAME:PATTERN; by default what train takes."""
    target: str = "smollm2"
    """Name of a target, a local directory or a hub id."""
    output_dir: Annotated[Path, arg(metavar="DIR")]
    """Directory of the corpus; one that was begun goes on with the same flags."""
    licence: Names = ()
    """Of rows that have none: NAME, or SOURCE=NAME."""
    data_dir: Annotated[Path | None, SAID] = None
    """Data files of the tasks; by default HARNESS_DATA_DIR, then the hub, then our samples."""
    ngram: int = 13
    """A prompt that shares so many consecutive words with a task's is left out."""
    max_prompts: Annotated[int | None, SAID] = None
    """Use only so many prompts, in a stable pseudo-random order."""
    generate: Annotated[bool, SAID] = True
    """Do not let the target answer: keep only the responses that came with the prompts."""
    samples: int = 1
    """Responses to each prompt; more than one needs a temperature."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 keeps everything."""
    top_k: int = 0
    """0 keeps everything."""
    seed: int = 0
    """Of the draws."""
    max_new_tokens: int = 224
    """Longest response."""
    batch_size: int = 32
    """Responses in the making at once."""
    endpoint: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
    """Let a vLLM server that serves the same target generate."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the target."""
    device: str = "auto"
    """cuda where there is one, else cpu; or a device's name. With cuda, targets too large for one
    GPU are spread over all there are."""
    revision: Annotated[str | None, SAID] = None
    """Commit or tag of the target on the hub."""
    template_date: Annotated[str | None, arg(metavar="YYYY-MM-DD", help_behavior_hint="")] = None
    """What the target's template takes for today, where it writes the date; by default the day on
    which the corpus is begun."""
    plugin: Plugins = ()
    """Python files whose tables add targets or tasks."""

    def __post_init__(self) -> None:
        if self.template_date is not None:
            template_date.parse(self.template_date)
        least = {"ngram": 5, "max_prompts": 1, "samples": 1, "max_new_tokens": 1, "batch_size": 1}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be at least {smallest}, not {value}.")
        for name in ("prompts", "licence"):
            if "" in getattr(self, name):
                raise UserError(f"--{name} has an empty name; write --{name} A,B without gaps.")
        try:
            sampling = self.sampling
        except ValueError as error:
            raise UserError(f"--{str(error).replace('_', '-')}.") from error
        if self.samples > 1 and sampling.greedy:
            raise UserError(
                f"--samples {self.samples} at temperature 0 would be the same response "
                f"{self.samples} times; give --temperature too."
            )

    @property
    def sampling(self) -> Sampling:
        """The rules by which tokens are drawn."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.seed)
