"""Pure acceptance rules on tensors; ``p_`` is the target's distribution, ``q_`` the drafter's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the target made of a proposal."""

    path: tuple[int, ...]
    """Accepted nodes from the root down; indices into the proposal."""
    tokens: tuple[int, ...]
    """Their tokens."""
    next_token: int
    """The token that follows: bonus, correction or residual draw. The next pending token."""

    @property
    def accepted(self) -> int:
        """Draft tokens accepted."""
        return len(self.path)
