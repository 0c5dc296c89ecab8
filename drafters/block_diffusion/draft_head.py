"""The LM head as a drafter uses it: the target's own, or the rows of it that were trained on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from targets.packed import PackedLinear, can_pack
from targets.transformers_lm import TransformersTarget


class DraftHead:
    """Logits over the draft vocabulary, and the way back to token ids.

    The head is most of a small drafter's pass, and most of its rows are never right: with some of
    the rows a draft is cheaper, a token outside them is never proposed, and what is committed stays
    the target's choice (as FR-Spec has it, arXiv 2502.14856).
    """

    def __init__(self, target: TransformersTarget, vocabulary: torch.Tensor | None) -> None:
        """Take rows ``vocabulary`` ``[V']`` of the target's head; None takes it whole."""
        self._target = target
        self.vocabulary = None if vocabulary is None else vocabulary.to(target.device)
        """``[V']`` tokens of its rows, None for all."""
        self._part = None if self.vocabulary is None else _rows(target.lm_head, self.vocabulary)

    @property
    def size(self) -> int:
        """Tokens of the draft vocabulary."""
        return self._target.vocab_size if self.vocabulary is None else len(self.vocabulary)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """``[n, D]`` to ``[n, V']``."""
        # A whole head is asked for at each call: the target may have packed it meanwhile.
        head = self._target.lm_head if self._part is None else self._part
        logits: torch.Tensor = head(hidden)
        return logits.to(hidden.device)

    def token_ids(self, rows: torch.Tensor) -> torch.Tensor:
        """Tokens ``[n]`` of rows of the head."""
        return rows if self.vocabulary is None else self.vocabulary[rows]

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """Row of the head of each token, -1 for one outside the draft vocabulary; any shape."""
        if self.vocabulary is None:
            return tokens
        row_of = self.vocabulary.new_full((self._target.vocab_size,), -1)
        row_of[self.vocabulary] = torch.arange(len(self.vocabulary), device=tokens.device)
        return row_of[tokens]

    def widen(self, q: torch.Tensor) -> torch.Tensor:
        """Probabilities ``[n, V']`` as ``[n, V]``, zero outside the draft vocabulary."""
        if self.vocabulary is None:
            return q
        wide = q.new_zeros((q.shape[0], self._target.vocab_size))
        return wide.index_copy_(1, self.vocabulary, q)


class LogitScales(Protocol):
    """A drafter's config, or the target's own scales."""

    @property
    def output_multiplier(self) -> float:
        """Of what the head returns."""

    @property
    def final_logit_softcapping(self) -> float | None:
        """Where logits are capped."""


def scaled(logits: torch.Tensor, config: LogitScales) -> torch.Tensor:
    """Logits as ``config`` has them: multiplied, then capped."""
    logits = logits * config.output_multiplier
    cap = config.final_logit_softcapping
    return torch.tanh(logits / cap) * cap if cap is not None and cap > 0 else logits


def _rows(head: nn.Linear, rows: torch.Tensor) -> nn.Module:
    part = nn.Linear(head.in_features, len(rows), bias=head.bias is not None, device="meta")
    its = rows.to(head.weight.device)
    part.weight = nn.Parameter(head.weight.detach()[its].to(rows.device), requires_grad=False)
    if head.bias is not None:
        part.bias = nn.Parameter(head.bias.detach()[its].to(rows.device), requires_grad=False)
    return PackedLinear(part) if can_pack(part) else part
