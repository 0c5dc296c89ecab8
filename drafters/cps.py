"""Causal-consistency path search: the path that marginals and a 3-gram model like best.

A draft pass knows each position by itself; a left-to-right model knows what follows what. Of the
few likeliest tokens at each position a beam search makes the path with the best mean score.

Source: DiffuSpec, arXiv 2510.02358, Eq. 7-8 and Alg. 1. What the paper leaves open: where the mass
is not reached within the greatest width, that width is taken; the paper's score is a sum, by which
a path that ends at once beats every longer one, so paths are compared by their mean a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from drafters.base import Drafter, MarginalDrafter, Marginals, Proposal
from drafters.block_diffusion.checkpoint import MissingCheckpoint, find
from drafters.ngram_model import FILE, Floats, Ints, NgramModel
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import Policy, recorded, require_marginals
from harness.errors import UserError
from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``cps``; the defaults are the paper's."""

    mass: float = 0.8
    """Tokens of a position are taken until they hold this much probability (τ)."""
    max_width: int = 15
    """Most tokens of a position (M_max); stop tokens are kept beside them."""
    beam: int = 3
    """Paths that are gone on with at each depth (B)."""
    weight: float = 0.5
    """Of the drafter's log-probability; the rest is the 3-gram model's (λ)."""
    ngram: str = ""
    """File of the 3-gram model, or a directory that holds one; by default that of ``dlm``."""

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise ValueError(f"mass must be above 0 and at most 1, not {self.mass:g}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie between 0 and 1, not {self.weight:g}")
        for name in ("max_width", "beam"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def build(
    inner: Drafter, target: Target, options: DrafterOptions, policy: PolicyOptions
) -> PathSearch:
    """Path search over what ``inner`` believes.

    Raises:
        UserError: a setting it cannot have, a sampled draft, a drafter without marginals, or no
            3-gram model.
    """
    settings = policy.read(Settings)
    if options.draft == "sample":
        raise UserError("cps searches its draft and samples none; leave draft at None or argmax.")
    drafter = require_marginals(inner, options, policy)
    ngrams = NgramModel.load(_ngram_path(settings, options, target), target.vocab_size)
    made = PathSearch(drafter, ngrams, settings, target.stop_ids)
    return recorded(made, policy, asdict(settings))


def _ngram_path(settings: Settings, options: DrafterOptions, target: Target) -> Path:
    """Where the 3-gram model is.

    Raises:
        UserError: nowhere.
    """
    if settings.ngram:
        return Path(settings.ngram)
    argument = options.argument if options.name in ("dlm", "diffuspec") else None
    try:
        path = Path(find("dlm", argument, target.name)) / FILE
    except MissingCheckpoint as error:
        raise UserError(
            f"policy cps needs a 3-gram model of {target.name}; `python -m harness train --drafter "
            f"dlm --target {target.name}` makes one, or name a file: cps:ngram=PATH."
        ) from error
    if not path.is_file():
        raise UserError(
            f"policy cps needs a 3-gram model and there is no {path}; name a file: cps:ngram=PATH."
        )
    return path


@dataclass(frozen=True, slots=True)
class Column:
    """The tokens that may stand at one depth.

    Attributes:
        tokens: ``[c]``, the likeliest first; stop tokens that are not among them come last.
        log_p: ``[c]``, the drafter's.
    """

    tokens: Ints
    log_p: Floats


class PathSearch(Policy):
    """See `drafters.base.Drafter`; proposes the chain that is found.

    The drafter's probabilities are the softmax of its logits as they are: temperature, top-k and
    top-p are the target's, which draws its own token at every node.
    """

    draft: Literal["argmax", "sample"] = "argmax"

    def __init__(
        self,
        inner: MarginalDrafter,
        ngrams: NgramModel,
        settings: Settings,
        stop_ids: frozenset[int],
    ) -> None:
        super().__init__(inner)
        self.max_nodes = inner.max_nodes
        self.checkpoint = {**(self.checkpoint or {}), "ngram_sha256": ngrams.digest()}
        self._ngrams = ngrams
        self._settings = settings
        self._stop_ids = np.array(sorted(stop_ids), np.int64)

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """The best path; it ends where a stop token is best."""
        found = self.inner.marginals(prefix_ids, pending, budget)
        columns = lattice(found, self._stop_ids, self._settings)
        before = np.array([prefix_ids[-1], pending], np.int64)
        path = best_path(columns, before, self._ngrams, self._stop_ids, self._settings)
        return Proposal.chain(torch.tensor(path, device=found.logits.device))


def lattice(found: Marginals, stop_ids: Ints, settings: Settings) -> list[Column]:
    """The tokens of every position that hold ``mass``, and the stop tokens (Eq. 7)."""
    log_p = found.logits.float().log_softmax(-1)
    best = log_p.topk(min(settings.max_width, log_p.shape[1]), dim=-1)
    stops, stop_columns = _stops(found, stop_ids)
    # One transfer; float64 holds every token id.
    parts = (best.values, found.token_ids(best.indices), log_p[:, stop_columns])
    host = torch.cat([part.double() for part in parts], dim=-1).cpu().numpy()
    columns = []
    for row in host:
        values, tokens, others = np.split(row, [best.values.shape[1], 2 * best.values.shape[1]])
        # The token that brings the sum to the mass is the last one taken.
        taken = int((np.exp(values).cumsum()[:-1] < settings.mass).sum()) + 1
        kept = tokens[:taken].astype(np.int64)
        new = ~np.isin(stops, kept)
        columns.append(
            Column(
                np.concatenate((kept, stops[new])), np.concatenate((values[:taken], others[new]))
            )
        )
    return columns


def _stops(found: Marginals, stop_ids: Ints) -> tuple[Ints, torch.Tensor]:
    """Stop tokens that the marginals know, and their columns."""
    wanted = torch.from_numpy(stop_ids).to(found.logits.device)
    if found.vocabulary is None:
        return stop_ids, wanted
    columns = torch.isin(found.vocabulary, wanted).nonzero()[:, 0]
    known: Ints = found.vocabulary[columns].cpu().numpy()
    return known, columns


def best_path(
    columns: Sequence[Column],
    before: Ints,
    ngrams: NgramModel,
    stop_ids: Ints,
    settings: Settings,
) -> list[int]:
    """Tokens of the path with the best mean score (Eq. 8), by a beam from left to right.

    Args:
        columns: of the depths, one at least.
        before: ``[2]``, the tokens that the path follows.
        ngrams: scores a token by the two before it.
        stop_ids: a path ends with one of these, or with the last column.
        settings: beam and weight.
    """
    paths, scores = before[None], np.zeros(1)
    best, best_mean = paths[0], -np.inf
    for depth, column in enumerate(columns, start=1):
        tokens = np.broadcast_to(column.tokens, (len(paths), len(column.tokens)))
        by_ngrams = ngrams.log_probs(paths[:, -2:], tokens)
        new = scores[:, None] + settings.weight * column.log_p + (1 - settings.weight) * by_ngrams
        parents, places = np.divmod(np.argsort(-new, axis=None, kind="stable"), new.shape[1])
        paths = np.concatenate((paths[parents], column.tokens[places][:, None]), axis=1)
        scores = new[parents, places]
        ended = np.isin(paths[:, -1], stop_ids) | (depth == len(columns))
        # Both are in order of their scores: the first that ended has the best mean of this depth.
        if ended.any() and scores[ended][0] / depth > best_mean:
            best, best_mean = paths[ended][0], scores[ended][0] / depth
        paths, scores = paths[~ended][: settings.beam], scores[~ended][: settings.beam]
        if not len(paths):
            break
    found: list[int] = best[2:].tolist()
    return found
