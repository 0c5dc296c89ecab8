"""Wrong tokens planted in the acceptance rule, and what the audit makes of each."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from drafters.ngram import NgramDrafter
from harness.audit import deviations
from harness.decode import generate
from harness.sampling import Sampling
from harness.verdicts import stands
from harness.verify import Verdict, verify
from targets.transformers_lm import TransformersTarget

Kind = Literal["runner-up", "random"]
KINDS: tuple[Kind, ...] = ("runner-up", "random")
ONE_IN = 200
EDGES = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 100.0, math.inf)
"""Of margin over noise; a token stands up to 3."""

_VERIFY = verify


@dataclass(frozen=True, slots=True)
class Case:
    """One wrong token."""

    margin: float
    """Below the reference's best; 0 where the wrong token ties with it."""
    noise: float
    caught: bool


class CarelessRule:
    """The acceptance rule, but one token of 200 that leave it is another than the target's."""

    def __init__(self, kind: Kind, draw: random.Random) -> None:
        self.places: list[int] = []
        """Positions in the answer of the tokens planted."""
        self._kind, self._draw = kind, draw
        self._length = 1  # the prefill's token

    def __call__(self, logits: torch.Tensor, proposal: Any, **rules: Any) -> Verdict:
        verdict = _VERIFY(logits, proposal, **rules)
        self._length += verdict.accepted + 1
        # One chance a token, though only a round's last can be exchanged.
        if self._draw.random() >= (verdict.accepted + 1) / ONE_IN:
            return verdict
        self.places.append(self._length - 1)
        row = logits[verdict.path[-1] + 1 if verdict.path else 0]
        (token,) = wrong_tokens(row[None], [verdict.next_token], self._kind, self._draw)
        return Verdict(verdict.path, verdict.tokens, token)


def wrong_tokens(
    logits: torch.Tensor, tokens: Sequence[int], kind: Kind, draw: random.Random
) -> list[int]:
    """For each row ``[V]``: the best token but the right one, or any but that."""
    right = torch.tensor(tokens)[:, None]
    if kind == "runner-up":
        return logits.float().cpu().scatter(1, right, -math.inf).argmax(-1).tolist()
    others = (draw.randrange(logits.shape[1] - 1) for _ in tokens)
    return [other + (other >= token) for other, token in zip(others, tokens, strict=True)]


def scores(
    target: TransformersTarget,
    reference: TransformersTarget,
    prompt: Sequence[int],
    answer: Sequence[int],
) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[int]]]:
    """Logits of the reference and of the target, and the tokens they are about."""
    first = 0
    passes = (item.score(prompt, answer) for item in (reference, target))
    for wide, own in zip(*passes, strict=True):
        yield wide, own, list(answer[first : first + wide.shape[0]])
        first += wide.shape[0]


def cases(wide: torch.Tensor, own: torch.Tensor, tokens: Sequence[int]) -> list[Case]:
    """What the audit says of ``tokens``, one a row."""
    found = {item.position: item for item in deviations(wide, own, torch.tensor(tokens))}
    made = []
    for place in range(len(tokens)):
        item = found.get(place)
        made.append(
            Case(0.0, 0.0, False)
            if item is None
            else Case(item.margin, item.noise, not stands(item))
        )
    return made


def planted_everywhere(
    target: TransformersTarget,
    reference: TransformersTarget,
    prompt: Sequence[int],
    answer: Sequence[int],
    kind: Kind,
    draw: random.Random,
) -> list[Case]:
    """Each position of an honest answer in turn holds a wrong token; what is before it is right."""
    found: list[Case] = []
    for wide, own, tokens in scores(target, reference, prompt, answer):
        found += cases(wide, own, wrong_tokens(own, tokens, kind, draw))
    return found


def planted_in_the_loop(
    target: TransformersTarget,
    reference: TransformersTarget,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    kind: Kind,
    patch: Callable[[str, object], None],
) -> tuple[list[Case], list[Case]]:
    """Answers of the loop with a careless rule: the planted tokens, and the honest ones."""
    draw = random.Random(0)
    planted: list[Case] = []
    honest: list[Case] = []
    for prompt in prompts:
        rule = CarelessRule(kind, draw)
        patch("harness.decode.verify", rule)
        drafter = NgramDrafter(str(target.device), 6)
        done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=num_tokens)
        found: list[Case] = []
        for wide, own, tokens in scores(target, reference, prompt, done.new_tokens):
            found += cases(wide, own, tokens)
        for place, case in enumerate(found):
            (planted if place in rule.places else honest).append(case)
    return planted, honest


def table(found: Sequence[Case]) -> list[str]:
    """Caught of planted, by margin over noise, and where the two part."""
    lines = []
    for low, high in itertools.pairwise(EDGES):
        inside = [case for case in found if low <= _ratio(case) < high]
        caught = sum(case.caught for case in inside)
        margins = sorted(case.margin for case in inside)
        middle = f"{margins[len(margins) // 2]:.3g}" if margins else "–"
        lines.append(f"  {low:>5g} to {high:<5g} {caught:>6} of {len(inside):<6} {middle}")
    missed = [case.margin for case in found if not case.caught]
    caught_margins = [case.margin for case in found if case.caught]
    share = len(caught_margins) / len(found) if found else math.nan
    largest = f"{max(missed):.3g}" if missed else "–"
    smallest = f"{min(caught_margins):.3g}" if caught_margins else "–"
    lines.append(
        f"  caught {100 * share:.1f} % of {len(found)}; largest margin missed {largest}, "
        f"smallest caught {smallest}"
    )
    return lines


def _ratio(case: Case) -> float:
    if case.margin == 0:
        return 0.0
    return case.margin / case.noise if case.noise else math.inf
