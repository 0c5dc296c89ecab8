"""A proposal policy: another way to propose from what a drafter believes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

import torch

from drafters.base import Drafter, MarginalDrafter
from drafters.options import DrafterOptions, PolicyOptions
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict


class Policy:
    """What is the drafter's under any policy: context, features and weights.

    A policy adds `propose`, ``max_nodes`` and ``draft``; see `drafters.base.Drafter`.
    """

    record: dict[str, Any] | None = None
    """Name and every setting, defaults too, for the record of a run; from `recorded`."""

    def __init__(self, inner: MarginalDrafter) -> None:
        self.inner = inner
        self.feature_layers = inner.feature_layers
        self.block_size = inner.block_size
        self.draft_vocab_size: int | None = getattr(inner, "draft_vocab_size", None)
        self.checkpoint: dict[str, Any] | None = getattr(inner, "checkpoint", None)

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Hand the prompt on."""
        self.inner.start(prompt_ids, features, sampling)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Hand the verdict on; its rows are a chain's, whatever tree they came from."""
        self.inner.observe(verdict, features)

    def reset(self) -> None:
        """Forget the prompt."""
        self.inner.reset()


Made = TypeVar("Made", bound=Policy)


def recorded(made: Made, policy: PolicyOptions, settings: Mapping[str, Any]) -> Made:
    """``made``, with what it was made of."""
    made.record = {"policy": policy.name, "settings": dict(settings)}
    return made


def records_of(drafter: object) -> list[dict[str, Any]]:
    """What each policy over a drafter was made of, the innermost first."""
    found = []
    while isinstance(drafter, Policy):
        found.append(drafter.record)
        drafter = drafter.inner
    return [record for record in reversed(found) if record is not None]


def require_marginals(
    inner: Drafter, options: DrafterOptions, policy: PolicyOptions
) -> MarginalDrafter:
    """The drafter that ``policy`` is put over, if it shows its marginals.

    Raises:
        UserError: it shows none.
    """
    if isinstance(inner, MarginalDrafter):
        return inner
    below = takewhile(lambda item: item is not policy, options.policies)
    name = "+".join((options.name, *(item.name for item in below)))
    raise UserError(
        f"policy {policy.name} chooses from a drafter's marginals, and {name} shows none; put it "
        "directly over a block-diffusion drafter or dlm."
    )


class Merged(NamedTuple):
    """Chains as one tree, shared beginnings once."""

    tokens: list[int]
    parents: tuple[int, ...]
    chains: tuple[tuple[int, ...], ...]
    """Nodes of each chain, in the order given."""


def merged(chains: Sequence[Sequence[int]]) -> Merged:
    """The tree whose paths are ``chains`` and their beginnings."""
    nodes: dict[tuple[int, int], int] = {}
    paths = []
    for chain in chains:
        path = [-1]
        for token in chain:
            path.append(nodes.setdefault((path[-1], token), len(nodes)))
        paths.append(tuple(path[1:]))
    tokens = [token for _, token in nodes]
    return Merged(tokens, tuple(parent for parent, _ in nodes), tuple(paths))
