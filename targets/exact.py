"""Exact mode: the rows of a chain have the bits of one-token passes, or the run does not begin.

A kernel, and with it the rounding, is chosen by shape: a row alone may be rounded otherwise than
the same row among eight, and so may attention over another number of keys. So every pass after the
prefill has one shape, one-token passes included: ``fixed_rows`` rows (copies of the last token fill
it up; no earlier row sees them) over keys and values of one width, unwritten ones masked. What is
left is that a row's place in the pass must not matter, and `hold` compares bits.
"""

from __future__ import annotations

from typing import Any

import torch

from drafters.base import Proposal
from harness.errors import UserError

_CONTEXTS = (5, 61, 250)
"""Tokens before the first row that is compared."""
_ROWS = 24
"""Rows compared at each context, at the least."""


class TreeProposed(UserError):
    """A drafter proposed a tree, for which exact mode promises nothing."""


def hold(target: Any, most_rows: int) -> None:
    """Set ``target.fixed_rows``, and show on its weights that bits are equal.

    Args:
        target: a `targets.transformers_lm.TransformersTarget`, no longer to be changed.
        most_rows: of any pass of the run: the pending token and the largest proposal.

    Raises:
        UserError: bits differ on this machine, or the target has no such mode.
    """
    if not hasattr(target, "fixed_rows"):
        raise UserError(f"target {target.name} has no exact mode; leave --exact out.")
    target.fixed_rows = most_rows
    if not _same_bits(target, most_rows):
        raise UserError(
            f"--exact does not hold here: {target.name} in {target.dtype} on {target.device} gives "
            f"a row other bits by its place among {most_rows}; leave --exact out."
        )


@torch.inference_mode()
def _same_bits(target: Any, most_rows: int) -> bool:
    """Whether chains of several widths have the logits of one-token passes, at every context."""
    count = max(_ROWS, most_rows)
    contexts = [length for length in _CONTEXTS if length + count <= target.max_context]
    if not contexts:
        raise UserError(
            f"target {target.name} reads {target.max_context} tokens, too few to show that --exact "
            "holds; leave --exact out."
        )
    longest = contexts[-1]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(target.vocab_size, (longest + count,), generator=generator)
    ids = ids.to(target.device)
    target.start(longest + count, most_rows - 1, ())
    target.prefill(ids[:longest])
    widths = {most_rows, most_rows - 1, most_rows // 2 + 1}
    for length in reversed(contexts):  # a shorter context is the beginning of a longer one
        rows = ids[length : length + count]
        expected = _logits(target, length, rows, 1)
        for width in sorted(item for item in widths if 1 < item <= most_rows):
            if not torch.equal(_logits(target, length, rows, width), expected):
                return False
    return True


def _logits(target: Any, context: int, ids: torch.Tensor, width: int) -> torch.Tensor:
    """``[len(ids), V]`` behind the first ``context`` rows of the cache, ``width`` rows a pass."""
    target.rewind(context)
    found = []
    for rows in ids.split(width):
        output = target.verify(int(rows[0]), Proposal.chain(rows[1:]))
        target.commit(range(len(rows) - 1))
        found.append(output.logits)
    return torch.cat(found)
