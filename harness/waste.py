"""Draft tokens that were right and thrown away: what became of every slot of every round."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from harness.metrics import NoData
from harness.records import Generation, Round


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Every slot once: a round has one for each draft token it offered and one for the bonus.

    A draft token is correct where it is the token that the answer has at its place, whatever the
    drafts before it were.

    Source: arXiv 2606.11552, Table 1; its waste is 1 - accept / correct.
    """

    accepted: int
    """Draft tokens that reached the answer."""
    bonus: int
    """Tokens that the target added."""
    wasted: int
    """Draft tokens that are correct and stand behind a rejected one."""
    wrong: int
    """Draft tokens that are not correct."""
    behind_end: int
    """Slots whose place the answer does not reach: neither right nor wrong, in no share."""

    @property
    def judged(self) -> int:
        """Slots that the shares speak about."""
        return self.accepted + self.bonus + self.wasted + self.wrong

    @property
    def accept(self) -> float:
        """Share of slots whose token reached the answer, the bonus included."""
        return (self.accepted + self.bonus) / self.judged

    @property
    def correct(self) -> float:
        """Share of slots whose token is the answer's, the bonus included."""
        return (self.accepted + self.bonus + self.wasted) / self.judged

    @property
    def waste(self) -> float:
        """Share of correct slots that was thrown away, the bonus among the correct ones."""
        return self.wasted / (self.accepted + self.bonus + self.wasted)

    @property
    def draft_waste(self) -> float | None:
        """Share of correct draft tokens that was thrown away; None where none was correct."""
        correct = self.accepted + self.wasted
        return self.wasted / correct if correct else None


def slots(generations: Sequence[Generation]) -> Slots:
    """What became of the slots of one method, pooled.

    Raises:
        NoData: nothing was drafted, or a round offered a tree, of which records hold one path.
    """
    return pooled([slots_of(item.rounds or (), item.new_tokens) for item in generations])


def slots_of(rounds: Sequence[Round], new_tokens: Sequence[int]) -> Slots:
    """The slots of one answer.

    Raises:
        NoData: a round offered a tree.
    """
    if any(item.is_tree for item in rounds):
        raise NoData("a round offered a tree")
    counts = [(0, 0, 0, 0, 0)]
    start = 0
    for item in rounds:
        counts.append(_slots_of(item, new_tokens[start + 1 : start + 1 + item.depth]))
        start += item.committed
    return _slots(counts)


def pooled(parts: Sequence[Slots]) -> Slots:
    """The slots of several answers together.

    Raises:
        NoData: nothing was drafted.
    """
    total = _slots([(0, 0, 0, 0, 0), *(dataclasses.astuple(part) for part in parts)])
    if total.accepted + total.wasted + total.wrong == 0:
        raise NoData("nothing was drafted")
    return total


def _slots(counts: Sequence[tuple[int, ...]]) -> Slots:
    accepted, bonus, wasted, wrong, behind_end = map(sum, zip(*counts, strict=True))
    return Slots(accepted=accepted, bonus=bonus, wasted=wasted, wrong=wrong, behind_end=behind_end)


def _slots_of(item: Round, answer: Sequence[int]) -> tuple[int, int, int, int, int]:
    """The counts of `Slots` for one chain; ``answer`` has its own tokens at the drafts' places."""
    # A last round cut at stop or limit lost its bonus, and drafts that the target had accepted.
    kept = min(item.accepted, item.committed)
    bonus = item.committed - kept
    drafts = item.draft_tokens[kept : len(answer)]
    wasted = sum(draft == own for draft, own in zip(drafts, answer[kept:], strict=True))
    wrong = len(drafts) - wasted
    return kept, bonus, wasted, wrong, item.depth - len(answer) + 1 - bonus
