"""The choice of a DFlash 2 draft: left to right, among the best tokens of every position.

A block's positions are filled at once, so neighbours do not know of each other. The selector takes
the k best tokens of each position and goes through them in order; a candidate's score is its base
logit and how well it follows the token chosen before it.

Source: DFlash 2 (inco.ai/blog/dflash2, August 2026); names and arithmetic as in the PyPI package
``dflash`` 0.1.0.

Shapes: n draft positions, k candidates, R rank, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from drafters.base import Marginals
from harness.sampling import Sampling

Choose = Callable[[torch.Tensor], torch.Tensor]
"""Scores ``[k]`` of a position's candidates to the chosen one's index ``[1]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorShape:
    """How many candidates a position has, and how finely pairs are told apart."""

    rank: int
    """Numbers a token is known by in either codebook."""
    top_k: int
    """Candidates of a position."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.top_k < 1:
            raise ValueError(
                "selector_rank and selector_top_k must be at least 1, not "
                f"{self.rank} and {self.top_k}"
            )


class CandidateSelector(nn.Module):
    """Chooses a chain; ``U_t(b) + ⟨A[a] ⊙ (W h_t), B[b]⟩`` scores b behind a at position t."""

    def __init__(self, width: int, vocab_size: int, shape: SelectorShape) -> None:
        """New, it follows the base logits: the successors' codebook is zero."""
        super().__init__()
        self.top_k = shape.top_k
        self.predecessor_codebook = nn.Parameter(torch.randn(vocab_size, shape.rank))
        self.successor_codebook = nn.Parameter(torch.zeros(vocab_size, shape.rank))
        self.hidden_projection = nn.Linear(width, shape.rank, bias=False)

    def best_chain(self, hidden: torch.Tensor, base: Marginals, pending: int) -> torch.Tensor:
        """Tokens ``[n]``, each the best behind the one before it.

        Args:
            hidden: ``[n, D]`` outputs of the network, n at least 1.
            base: what was read from them.
            pending: the token before the first.
        """
        candidates, first, steps = self._scores(hidden, base, pending)
        picks = _walk(first, steps, lambda scores: scores.argmax(-1, keepdim=True))
        return candidates.gather(1, picks)[:, 0]

    def sampled_chain(
        self,
        hidden: torch.Tensor,
        base: Marginals,
        pending: int,
        temperature: float,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``[n]``, each drawn behind the one before it, and the q ``[n, V]`` drawn from.

        The softmax runs over a position's candidates alone, at the run's temperature; its top-k
        and top-p bound the target's draws only.

        Args:
            hidden: as in `best_chain`.
            base: as in `best_chain`.
            pending: as in `best_chain`.
            temperature: 0 draws the best.
            generator: on the device of ``hidden``.
        """
        candidates, first, steps = self._scores(hidden, base, pending)
        rows: list[torch.Tensor] = []

        def draw(scores: torch.Tensor) -> torch.Tensor:
            rows.append(Sampling(temperature).probs(scores))
            return torch.multinomial(rows[-1], 1, generator=generator)

        picks = _walk(first, steps, draw)
        q = torch.stack(rows)
        wide = q.new_zeros((len(q), len(self.successor_codebook)))
        return candidates.gather(1, picks)[:, 0], wide.scatter_(1, candidates, q)

    def _scores(
        self, hidden: torch.Tensor, base: Marginals, pending: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every step the walk could take, at once: the walk itself then multiplies nothing.

        Returns:
            Candidates ``[n, k]`` (tokens); scores ``[k]`` of the first position's behind the
            pending token; scores ``[n − 1, k, k]`` of each later position's behind each candidate
            of the position before it.
        """
        values, columns = base.logits.topk(min(self.top_k, base.logits.shape[-1]), dim=-1)
        candidates = base.token_ids(columns)
        gates = self.hidden_projection(hidden)
        successors = self.successor_codebook[candidates].transpose(1, 2)
        first = values[0] + (self.predecessor_codebook[pending] * gates[0]) @ successors[0]
        before = self.predecessor_codebook[candidates[:-1]] * gates[1:, None]
        return candidates, first, values[1:, None] + before @ successors[1:]


def _walk(first: torch.Tensor, steps: torch.Tensor, choose: Choose) -> torch.Tensor:
    """Indices ``[n, 1]`` chosen one behind the other; no index ever comes to the host."""
    picks = [choose(first)]
    for step in steps:
        picks.append(choose(step.index_select(0, picks[-1])[0]))
    return torch.stack(picks)
