"""Accepted length of a drafter on greedy answers that are already there, without decoding again.

What a greedy target accepts is what it would say itself, so a recorded answer decides every draft:
the drafter drafts behind all tokens of many answers in one pass, and a walk over each answer takes
the rounds that decoding would have had. In bfloat16 near-ties may fall otherwise. A τ from here is
labelled *replayed*, and is never timed.

Shapes: A tokens of an answer drafted behind, K block size, N blocks of a pass, D hidden, T tokens
and F features of some sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from drafters.block_diffusion.data import Ints, TrainingSequence, make_blocks
from drafters.block_diffusion.draft_head import DraftHead, scaled
from drafters.block_diffusion.model import BlockDiffusionModel
from harness.correlation import Correlation, clustered_correlation
from harness.records import Round
from harness.verify import best_tokens
from targets.transformers_lm import TransformersTarget

FeaturesOf = Callable[[Sequence[int]], torch.Tensor]
"""Features ``[T, F]`` of the sequences with these indices, end to end, as the target gives them."""

_ROWS = 8192
"""Block rows of one pass of the drafter."""
_LOGITS = 2**24
"""Logits formed at a time."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a drafter says behind every token of one answer but the last.

    Attributes:
        answer: ``[A + 1]`` ids, cut at the limit.
        tokens: ``[A, K − 1]`` ids drafted behind each.
        log_q: ``[A, K − 1]`` float32, log-probability of the answer's own tokens at those places;
            -inf outside the draft vocabulary, nan behind the answer's end.
        limit: tokens the answer may have.
    """

    answer: Ints
    tokens: Ints
    log_q: npt.NDArray[np.float32]
    limit: int

    @property
    def accepted(self) -> Ints:
        """``[A]`` leading drafts that are the answer's own."""
        right = self.tokens == _windows(self.answer, self.tokens.shape[1])
        accepted: Ints = right.cumprod(1).sum(1)
        return accepted


@torch.no_grad()
def draft_behind(
    model: BlockDiffusionModel,
    target: TransformersTarget,
    head: DraftHead,
    sequences: Sequence[TrainingSequence],
    features: FeaturesOf,
    *,
    block_size: int,
    max_new_tokens: int,
) -> list[Drafts]:
    """Draft behind every token of every answer, in passes of bounded size.

    Args:
        model: the drafter, for raw features, on the target's device and in its dtype.
        target: its embedding is shared, its context is the other limit.
        head: the target's, whole or the part that is drafted from.
        sequences: prompts and the target's greedy answers. One that ends below ``max_new_tokens``
            counts as ended there: the limit is not to be above the one it was made with.
        features: of ``sequences``.
        block_size: of this drafting, at least 2; it need not be the one trained with.
        max_new_tokens: longer answers are cut.

    Raises:
        ValueError: the drafter chooses each token behind the one before it.
    """
    if model.candidate_selector is not None:
        raise ValueError("a drafter with a candidate selector decodes only; it cannot be replayed")
    embedding = target.embed_tokens.weight.detach()
    drafts = []
    for item in sequences:
        limit = min(max_new_tokens, target.max_context - item.start)
        answer = np.asarray(item.ids[item.start :][:limit], np.int64)
        shape = (max(0, len(answer) - 1), block_size - 1)
        blank = np.full(shape, np.nan, np.float32)
        drafts.append(Drafts(answer, np.zeros(shape, np.int64), blank, limit))
    counts = [len(item.tokens) for item in drafts]
    for parts in _passes(counts, max(1, _ROWS // block_size)):
        indices = [index for index, _ in parts]
        some = [sequences[index] for index in indices]
        anchors = [np.arange(places.start, places.stop) + sequences[i].start for i, places in parts]
        blocks = make_blocks(some, anchors, block_size).to(target.device)
        hidden = model.drafts(blocks, features(indices).to(embedding), embedding)
        tokens, log_q = _read(model, head, hidden, blocks.labels)
        ends = np.cumsum([len(chosen) for chosen in anchors])[:-1]
        for (index, places), ids, values in zip(
            parts, np.split(tokens, ends), np.split(log_q, ends), strict=True
        ):
            known = _windows(drafts[index].answer, block_size - 1)[places] >= 0
            drafts[index].tokens[places] = ids
            drafts[index].log_q[places] = np.where(known, values, np.nan)
    return drafts


def walk(drafts: Drafts) -> tuple[Round, ...]:
    """The rounds of one answer: from its first token on, each begins where the last one ended.

    Behind a token that stopped the answer nothing is known: ``accepted`` counts no draft there,
    where decoding would count those the target had accepted before the cut.
    """
    matches = drafts.accepted.tolist()
    last = len(drafts.answer) - 1
    rounds = []
    at = 0
    while at < last:
        # The bonus takes one of the tokens that are left, as in the decoding loop.
        depth = max(0, min(drafts.tokens.shape[1], drafts.limit - at - 2))
        accepted = min(matches[at], depth)
        committed = min(accepted + 1, last - at)
        rounds.append(
            Round(
                depth=depth,
                nodes=depth,
                accepted=accepted,
                committed=committed,
                draft_tokens=tuple(drafts.tokens[at, :depth].tolist()),
            )
        )
        at += committed
    return tuple(rounds)


def chain_correlation(drafts: Sequence[Drafts]) -> Correlation:
    """The chain reward of a block against its accepted length, behind every token of the answers.

    Rounds begin behind some tokens only; of those it is `harness.study_curves.reward_association`.
    Blocks that reach over the end of their answer are left out. The reward is that of
    arXiv 2606.11552, Eq. 12, with the answer's tokens for the training data's.

    Raises:
        NoData: too few answers, or one of the two never varies.
    """
    rewards, accepted, owners = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for owner, item in enumerate(drafts):
        whole = ~np.isnan(item.log_q).any(1)
        rewards.append(np.exp(item.log_q[whole].astype(np.float64).cumsum(1)).mean(1))
        accepted.append(item.accepted[whole])
        owners.append(np.full(whole.sum(), owner))
    return clustered_correlation(
        np.concatenate(rewards), np.concatenate(accepted), np.concatenate(owners)
    )


def _windows(answer: Ints, width: int) -> Ints:
    """``[A, width]``: the answer's tokens behind each of its tokens, -1 behind its end."""
    if len(answer) < 2:
        return np.zeros((0, width), np.int64)
    padded = np.concatenate((answer[1:], np.full(width - 1, -1, np.int64)))
    return np.lib.stride_tricks.sliding_window_view(padded, width)


def _passes(counts: Sequence[int], most: int) -> Iterator[list[tuple[int, slice]]]:
    """Parts of sequences for one pass each: at most ``most`` places, no sequence twice."""
    parts: list[tuple[int, slice]] = []
    room = most
    for index, count in enumerate(counts):
        for start in range(0, count, most):
            places = slice(start, min(start + most, count))
            if places.stop - start > room:
                yield parts
                parts, room = [], most
            parts.append((index, places))
            room -= places.stop - start
    if parts:
        yield parts


def _read(
    model: BlockDiffusionModel, head: DraftHead, hidden: torch.Tensor, labels: torch.Tensor
) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Best tokens and log-probabilities of ``labels``, both ``[N, K − 1]``."""
    rows = head.rows(labels).flatten()
    chunk = max(1, _LOGITS // head.size)
    tokens, log_q = [], []
    for part, row in zip(hidden.flatten(0, 1).split(chunk), rows.split(chunk), strict=True):
        logits = scaled(head.logits(part), model.config)
        tokens.append(head.token_ids(best_tokens(logits)))
        at_row = logits.gather(1, row.clamp_min(0)[:, None])[:, 0].float()
        own = at_row - logits.float().logsumexp(1)
        log_q.append(own.masked_fill(row < 0, float("-inf")))
    shape = hidden.shape[:2]
    return (
        torch.cat(tokens).view(shape).cpu().numpy(),
        torch.cat(log_q).view(shape).cpu().numpy(),
    )
