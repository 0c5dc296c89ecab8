"""Log-probability of labels under a frozen LM head, in bounded memory.

The gradient of log p[label] by the hidden row is ``W[label] − Σ_v p_v W_v``: the mean row under the
softmax does not depend on what comes after, so it is formed in the forward pass, while a chunk's
probabilities are at hand. No logits outlive their chunk, and none are formed twice.
"""

from __future__ import annotations

from typing import Any

import torch


class _LabelLogProb(torch.autograd.Function):
    """``log softmax(h Wᵀ)[label]`` and ``log Σ exp(h Wᵀ)`` of every row; h alone has a gradient."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int
    ) -> tuple[torch.Tensor, ...]:
        log_ps, log_zs, corrects, means = [], [], [], []
        for h, label in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            logits = h @ weight.T
            at_label = logits.gather(1, label[:, None])
            corrects.append(at_label[:, 0] >= logits.amax(1))
            probs = logits.softmax(-1)
            wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
            # Through logits where p underflows would need another pass; such rows are hopeless.
            p = probs.gather(1, label[:, None])[:, 0].to(wide)
            log_ps.append(p.clamp_min(torch.finfo(wide).tiny).log())
            log_zs.append(at_label[:, 0].to(wide) - log_ps[-1])
            if ctx.needs_input_grad[0]:
                means.append(probs @ weight)
        ctx.save_for_backward(weight, labels, *means)
        correct = torch.cat(corrects)
        ctx.mark_non_differentiable(correct)
        return torch.cat(log_ps), torch.cat(log_zs), correct

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, labels, *means = ctx.saved_tensors
        mean = torch.cat(means)
        by_log_p, by_log_z = (grad.to(mean.dtype)[:, None] for grad in grads[:2])
        # log p falls by the mean row of W under the softmax, by which log Z rises.
        return by_log_p * (weight[labels] - mean) + by_log_z * mean, None, None, None


def label_log_prob(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = 1024
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each label, and whether it is the argmax.

    Args:
        hidden: ``[M, D]``, with gradient.
        weight: ``[V, D]``, frozen rows of the LM head.
        labels: ``[M]`` int64 in ``[0, V)``.
        chunk: rows worked on at a time; twice ``chunk · V`` numbers are held at once.

    Returns:
        ``[M]`` float32 (float64 for float64 input) and ``[M]`` bool. Ties count as correct.
    """
    log_p, _, correct = _log_prob(hidden, weight, labels, chunk)
    return log_p, correct


def label_log_prob_and_soft_ce(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    expected: torch.Tensor,
    chunk: int = 1024,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `label_log_prob`, with the cross-entropy against a teacher's distribution t in between.

    ``−Σ_v t_v log q_v = log Z − h · Σ_v t_v W_v``: of the teacher only the mean row of the head
    under its softmax is needed, which depends on no drafter and can be kept.

    Args:
        hidden: ``[M, D]``, with gradient.
        weight: ``[V, D]``.
        labels: ``[M]``.
        expected: ``[M, D]``, ``Σ_v t_v W_v``.
        chunk: as in `label_log_prob`.

    Returns:
        Log-probabilities, cross-entropies, both ``[M]`` float32 or float64, and ``[M]`` bool.
    """
    log_p, log_z, correct = _log_prob(hidden, weight, labels, chunk)
    at_teacher = (hidden.to(log_z.dtype) * expected.to(log_z.dtype)).sum(1)
    return log_p, log_z - at_teacher, correct


def _log_prob(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if hidden.shape[0] == 0:
        nothing = hidden.new_zeros(0, dtype=torch.float32)
        return nothing, nothing, labels.bool()
    log_p, log_z, correct = _LabelLogProb.apply(hidden, weight, labels, chunk)
    return log_p, log_z, correct


@torch.no_grad()
def expected_rows(
    hidden: torch.Tensor, weight: torch.Tensor, cap: float | None = None, chunk: int = 1024
) -> torch.Tensor:
    """``[M, D]``: mean row of ``weight [V, D]`` under the softmax of ``hidden [M, D] Wᵀ``, capped.

    ``cap`` as in `targets.scales.Scales`.
    """

    def mean_rows(h: torch.Tensor) -> torch.Tensor:
        logits = h @ weight.T
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits.softmax(-1) @ weight

    return torch.cat([mean_rows(h) for h in hidden.split(chunk)])


def is_argmax(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = 512
) -> torch.Tensor:
    """Whether each label ``[M]`` is the argmax of ``hidden @ weight.T``; ties count as correct."""
    parts = []
    for h, label in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        logits = h @ weight.T
        parts.append(logits.gather(1, label[:, None])[:, 0] >= logits.amax(1))
    return torch.cat(parts)
