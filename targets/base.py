"""What a target is: tokenizer, weights, KV cache and stop ids behind four verbs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from drafters.base import Proposal


@dataclass(frozen=True, slots=True)
class TargetOutput:
    """What one forward pass returns.

    Attributes:
        logits: ``[rows, V]`` in the model's dtype. ``prefill`` returns the last row only;
            ``verify`` the pending token's row, then one per node.
        features: ``[all rows of the pass, len(feature_layers) * H]``: outputs of the chosen
            layers side by side; None where no layer was asked for.
    """

    logits: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """What a target is loaded with."""

    name: str
    """Name in the table, local directory or hub id."""
    dtype: str = "bfloat16"
    device: str = "cpu"
    attn: str | None = None
    """None takes the library's sdpa, on a CPU ``grouped`` where that computes the same."""
    revision: str | None = None
    enable_thinking: bool = False
    template_date: str | None = None
    """ISO date that the chat template takes for today; None leaves it the clock."""
    gpus: tuple[int, ...] = ()
    """GPUs that weights too large for the first are spread over; none leaves ``device`` alone."""


class Target(Protocol):
    """An autoregressive model that verifies proposals for one sequence at a time."""

    name: str
    vocab_size: int
    """Rows of the LM head."""
    hidden_size: int
    num_layers: int
    max_context: int
    """Most tokens of prompt and answer together."""
    stop_ids: frozenset[int]
    """From ``generation_config``."""
    device: torch.device
    dtype: torch.dtype

    def describe(self) -> Mapping[str, Any]:
        """JSON-ready facts for the record: model, commit, dtype, attention, weight digest, …."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the target's template, generation prompt included."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens left out."""

    def start(self, max_tokens: int, max_nodes: int, feature_layers: Sequence[int]) -> None:
        """Empty the cache and make it large enough.

        Args:
            max_tokens: prompt and new tokens together.
            max_nodes: most nodes of any proposal.
            feature_layers: 0-based layers whose outputs the passes return.
        """

    def prefill(self, prompt_ids: torch.Tensor) -> TargetOutput:
        """Read the prompt ``[L]`` into an empty cache."""

    def verify(self, pending: int, proposal: Proposal) -> TargetOutput:
        """ONE pass over the pending token and the proposal's nodes."""

    def commit(self, path: Sequence[int]) -> None:
        """Keep the pending token's row and those of the nodes in ``path``; drop the rest."""


@runtime_checkable
class Scorer(Protocol):
    """What a target must also have for its answers to be audited."""

    def score(self, prompt_ids: Sequence[int], new_tokens: Sequence[int]) -> Iterator[torch.Tensor]:
        """Logits by which every new token was to be chosen, from ONE pass over all of them.

        Yields:
            ``[rows, V]`` in the model's dtype, consecutive; one row a new token altogether. Row i
            has read the prompt and the new tokens before the i-th.
        """


@runtime_checkable
class StepScorer(Protocol):
    """What a target may have, so that noise is measured in passes of one token, too."""

    def score_stepwise(
        self, prompt_ids: Sequence[int], new_tokens: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """As `Scorer.score`, from one pass a token; yields ``[1, V]``."""


@runtime_checkable
class LengthAware(Protocol):
    """What a target must have if what it computes depends on how long its sequence may become."""

    def expect(self, max_tokens: int) -> None:
        """Take every pass from now on as part of a sequence of at most ``max_tokens``.

        `Target.start` does the same; whoever scores an answer says it first.
        """
