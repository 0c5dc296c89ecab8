"""Drafters that policies are put over in tests, and a target that is a table."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import test_verify
import torch
import toy

from drafters.base import Marginals, Proposal
from drafters.options import DrafterOptions
from harness import registry
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import TargetOutput


def put_over(inner: Any, text: str, device: str = "cpu") -> Any:
    """The drafter ``inner`` under the policy written as ``NAME:KEY=VALUE…``."""
    options = DrafterOptions.parse(f"inner+{text}")
    [policy] = options.policies
    build = registry.resolve("policies", policy.name).load()
    target = type("Bare", (), {"device": device, "vocab_size": toy.VOCAB})
    return build(inner, target, options, policy)


def watched(policy: Any, proposals: list[Proposal]) -> Any:
    """``policy``, whose proposals go to the list, too."""
    propose = policy.propose

    def kept(*args: Any) -> Proposal:
        proposals.append(propose(*args))
        return proposals[-1]

    policy.propose = kept
    return policy


class Beliefs(toy.Script):
    """Marginals by a known answer, whose tokens stand at a drawn rank: most of them first."""

    def __init__(self, answer: Sequence[int], block_size: int, seed: int = 0) -> None:
        super().__init__(answer, block_size, lambda turn: 0)
        self._random = random.Random(seed)
        self._noise = torch.Generator().manual_seed(seed)

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        self.expect(pending, self._answer[len(prefix_ids) - self._prompt_length])
        self.budgets.append(budget)
        future = self.future(prefix_ids, budget)
        logits = 6 * torch.randn(len(future), toy.VOCAB, generator=self._noise)
        for row, token in zip(logits, future, strict=True):
            rank = self._random.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 50))
            place = int(row.argsort(descending=True)[rank])
            row[[token, place]] = row[[place, token]]
        return Marginals(logits)


class Table:
    """The target of `test_verify`: a row of logits for each context of at most two tokens.

    The prompt is one token that does not count.
    """

    name = "table"
    vocab_size = test_verify.VOCAB
    hidden_size = 1
    num_layers = 1
    max_context = 1000
    stop_ids: frozenset[int] = frozenset()
    device = torch.device("cpu")
    dtype = torch.float32

    def describe(self) -> Mapping[str, Any]:
        return {}

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def start(self, max_tokens: int, max_nodes: int, feature_layers: Sequence[int]) -> None:
        self._context: tuple[int, ...] = ()

    def prefill(self, prompt_ids: torch.Tensor) -> TargetOutput:
        return TargetOutput(test_verify.TARGET[()][None], None)

    def verify(self, pending: int, proposal: Proposal) -> TargetOutput:
        self._context += (pending,)
        self._tokens = proposal.tokens.tolist()
        return TargetOutput(test_verify.target_logits(self._context, proposal), None)

    def commit(self, path: Sequence[int]) -> None:
        self._context += tuple(self._tokens[node] for node in path)


class TableDrafter:
    """The block drafter of `test_verify`: two rows, each blind to the other."""

    feature_layers: tuple[int, ...] = ()
    block_size: int | None = 3
    max_nodes = 2
    draft = "argmax"

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        pass

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        raise AssertionError("a policy proposes")

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        context = (*prefix_ids[1:], pending)
        rows = [test_verify.DRAFTER[(*context, step)[-2:]] for step in range(min(2, budget))]
        return Marginals(torch.stack(rows))

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        pass

    def reset(self) -> None:
        pass
