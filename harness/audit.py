"""The losslessness rule: where a committed token is not the argmax, by how much, and what noise is.

Two passes over the same prefix are compared: the run's dtype, and the same target one dtype wider.
Where an answer may end is no question of logits, and looked at apart.
"""

from __future__ import annotations

import torch

from harness.audit_records import Deviation
from harness.records import Generation

WIDER = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}
"""Dtype of the reference by dtype of the run, weights and arithmetic alike."""
_BEST = 64
"""Tokens whose logits measure the noise; see `harness.verdicts.TOLERANCE`."""


def deviations(
    reference: torch.Tensor, own: torch.Tensor, tokens: torch.Tensor, first: int = 0
) -> list[Deviation]:
    """Committed tokens that are not the reference's argmax; a token tied with it is one.

    With l the reference's logits and m the run's, the margin is max l - l[token], and the noise is
    the largest |m - l| among the 64 best tokens of l and the committed one, after the mean of m - l
    over those 64 is taken off: a shift of all logits changes no choice.

    Args:
        reference: ``[rows, V]``, logits of the wider pass.
        own: ``[rows, V]``, logits of the run's dtype.
        tokens: ``[rows]`` int64, what was committed.
        first: position in the answer of row 0.

    Raises:
        ValueError: a margin or noise is not finite.
    """
    margins = reference.amax(-1) - reference.gather(1, tokens[:, None])[:, 0]
    rows = (margins != 0).nonzero()[:, 0]
    wide, narrow = reference[rows].double(), own[rows].double()
    best = wide.topk(min(_BEST, wide.shape[1])).indices
    error = narrow - wide
    shift = error.gather(1, best).mean(1, keepdim=True)
    looked_at = torch.cat((best, tokens[rows, None]), 1)
    noise = (error.gather(1, looked_at) - shift).abs().amax(1)
    positions = (rows + first).tolist()
    facts = zip(positions, margins[rows].tolist(), noise.tolist(), strict=True)
    return [Deviation(position=p, margin=m, noise=n) for p, m, n in facts]


def wrong_end(
    answer: Generation, *, stop_ids: frozenset[int], max_new_tokens: int, max_context: int
) -> str:
    """How the end of ``answer`` breaks the rules of stopping: words about it, or none.

    Judged from tokens alone and not by `harness.stopping`, which made the end. An answer that says
    it ended at a stop string may end anywhere within the other rules: the strings are not kept.

    Args:
        answer: with any tokens and finish reason.
        stop_ids: the target's.
        max_new_tokens: the run's.
        max_context: tokens the target reads, the prompt's and the answer's together.
    """
    *before, last = answer.new_tokens
    behind = next((place for place, token in enumerate(before) if token in stop_ids), None)
    if behind is not None:
        return f"goes on behind the stop token at position {behind}"
    length, room = len(answer.new_tokens), max_context - answer.num_prompt_tokens
    limit = min(max_new_tokens, room)
    if length > limit:
        return f"has {length} tokens, and the limit was {limit}"
    reason = "stop" if last in stop_ids else None
    if reason is None and length == limit:
        reason = "length" if max_new_tokens <= room else "context"
    said = answer.finish_reason
    if said == reason or (said == "stop_string" and reason != "stop"):
        return ""
    if reason is None:
        return f"ends after {length} tokens at no stop token, and the limit was {limit}"
    return f"ended by {reason} and says it was {said}"
