"""Log-probability of labels under a frozen LM head, in bounded memory.

The gradient of log p[label] by the hidden row is ``W[label] − Σ_v p_v W_v``: it does not depend on
what comes after, so it is formed in the forward pass, while a chunk's probabilities are at hand.
No logits outlive their chunk, and none are formed twice.
"""

from __future__ import annotations

from typing import Any

import torch


class _LabelLogProb(torch.autograd.Function):
    """``log softmax(h Wᵀ)[label]`` for every row; the gradient reaches h only."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_ps, corrects, slopes = [], [], []
        for h, label in zip(hidden.split(chunk), labels.split(chunk), strict=True):
            logits = h @ weight.T
            at_label = logits.gather(1, label[:, None])
            corrects.append(at_label[:, 0] >= logits.amax(1))
            probs = logits.softmax(-1)
            wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
            # Through logits where p underflows would need another pass; such rows are hopeless.
            p = probs.gather(1, label[:, None])[:, 0].to(wide)
            log_ps.append(p.clamp_min(torch.finfo(wide).tiny).log())
            if ctx.needs_input_grad[0]:
                slopes.append(torch.addmm(weight[label], probs, weight, alpha=-1))
        ctx.save_for_backward(*slopes)
        correct = torch.cat(corrects)
        ctx.mark_non_differentiable(correct)
        return torch.cat(log_ps), correct

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        slopes = torch.cat(ctx.saved_tensors)
        return slopes * grads[0].to(slopes.dtype)[:, None], None, None, None


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
    if hidden.shape[0] == 0:
        return hidden.new_zeros(0, dtype=torch.float32), labels.bool()
    return _LabelLogProb.apply(hidden, weight, labels, chunk)


def is_argmax(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = 512
) -> torch.Tensor:
    """Whether each label ``[M]`` is the argmax of ``hidden @ weight.T``; ties count as correct."""
    parts = []
    for h, label in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        logits = h @ weight.T
        parts.append(logits.gather(1, label[:, None])[:, 0] >= logits.amax(1))
    return torch.cat(parts)
