"""D²SD: a second drafter takes up the draft where the first one is likeliest to be refused.

The first drafter's argmax chain says, by its own confidences, where it will break. From each of
the K likeliest places a branch goes on, drafted by a second drafter that was trained to continue a
given beginning; the target checks chain and branches in one pass, as one tree.

Source: arXiv 2606.04446, Eq. 3–5.

Shapes: n draft positions, B branches, V' columns of the first drafter's marginals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch

from drafters.base import Drafter, MarginalDrafter, Marginals, Proposal
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.drafter import build as build_block_diffusion
from drafters.block_diffusion.span import Span
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import Policy, merged, recorded, require_marginals
from harness import registry
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens
from targets.base import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the policy ``d2sd``."""

    top_k: int = 4
    """Branches."""
    second: str = "vp"
    """Drafter of the branches: a name, or a directory or hub id (anything with a slash)."""
    second_block_size: int = 0
    """Tokens of the second drafter's block, the pending one included; 0 takes the first one's."""
    resample: bool = False
    """Draw whole chains from the first drafter's marginals instead; there is no second drafter."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")
        if self.second_block_size < 0:
            raise ValueError(f"second_block_size must be 0 or more, not {self.second_block_size}")
        if self.resample and (self.second != "vp" or self.second_block_size):
            raise ValueError(
                "resample=on leaves no second drafter; give it, or second and second_block_size"
            )


def build(
    inner: Drafter, target: Target, options: DrafterOptions, policy: PolicyOptions
) -> D2SDDrafter:
    """Branches from what ``inner`` believes, by a second drafter or by ``inner`` again.

    Raises:
        MissingCheckpoint: the second drafter has to be trained first.
        UserError: a setting it cannot have, a sampled draft, or a drafter that does not fit.
    """
    settings = policy.read(Settings)
    if options.draft == "sample":
        raise UserError(
            "d2sd starts from the argmax chain and cannot sample it; leave draft at None or argmax."
        )
    first = require_marginals(inner, options, policy)
    second = None
    if not settings.resample:
        own = first.max_nodes + 1
        settings = replace(settings, second_block_size=settings.second_block_size or own)
        if settings.second_block_size < own:
            raise UserError(
                f"policy {policy}: second_block_size must be at least the first drafter's block "
                f"size, {own}, not {settings.second_block_size}."
            )
        second = _second(first, target, options, settings)
    made = D2SDDrafter(first, second, settings.top_k, target.device)
    return recorded(made, policy, asdict(settings))


def _second(
    first: MarginalDrafter, target: Target, options: DrafterOptions, settings: Settings
) -> BlockDiffusionDrafter:
    """The second drafter, in blocks of the size that ``settings`` say."""
    asked = settings.second
    name, argument = ("vp", asked) if "/" in asked else (asked, None)
    if registry.resolve("drafters", name).path != registry.BLOCK_DIFFUSION:
        raise UserError(
            f"{name} cannot continue a block; second of policy d2sd must be a block-diffusion "
            "drafter, as vp is."
        )
    second = build_block_diffusion(
        target,
        DrafterOptions(
            name=name,
            argument=argument,
            block_size=settings.second_block_size,
            draft_vocab=options.draft_vocab,
        ),
    )
    if second.feature_layers != first.feature_layers:
        raise UserError(
            f"{asked} reads layers {second.feature_layers} of the target and {options.name} reads "
            f"{first.feature_layers}; d2sd takes two drafters that were trained on the same layers."
        )
    if any(layer.span != Span() for layer in second.model.stack()):
        raise UserError(
            f"{asked} has sliding or causal layers, which read one block at a time; d2sd takes a "
            "second drafter without them."
        )
    return second


class D2SDDrafter(Policy):
    """See `drafters.base.Drafter`; proposes a chain and its branches as one tree.

    Confidences are those of the draft itself, at temperature 1, whatever the run's. A second
    drafter with longer blocks also goes on behind the whole chain, as the authors' code does for
    ``--block-size-2``. Without a second drafter the branches are K whole chains, drawn from the
    first one's marginals at temperature 1 from the first position on: what the paper's Section 4.3
    (Table 5) compares the second drafter with.
    """

    def __init__(
        self,
        first: MarginalDrafter,
        second: BlockDiffusionDrafter | None,
        top_k: int,
        device: torch.device | str,
    ) -> None:
        super().__init__(first)
        self.draft: Literal["argmax", "sample"] = "sample" if second is None else "argmax"
        depth = first.max_nodes
        self._longer = second is not None and second.max_nodes > depth
        if second is None:
            self.max_nodes = (1 + top_k) * depth
        else:
            deepest = second.max_nodes
            self.max_nodes = deepest + sum(deepest - kept for kept in range(min(top_k, depth)))
            self.checkpoint = {**(self.checkpoint or {}), "second": second.checkpoint}
        self._second = second
        self._top_k = top_k
        self._device = device

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Hand the prompt to both."""
        super().start(prompt_ids, features, sampling)
        self._generator = sampling.generator("draft", self._device)
        if self._second is not None:
            self._second.start(prompt_ids, features, sampling)

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Hand the verdict to both."""
        super().observe(verdict, features)
        if self._second is not None:
            self._second.observe(verdict, features)

    def reset(self) -> None:
        """Forget the prompt."""
        super().reset()
        if self._second is not None:
            self._second.reset()

    @torch.inference_mode()
    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """The argmax chain, and a branch from each of its likeliest ends."""
        found = self.inner.marginals(prefix_ids, pending, budget)
        chain = found.token_ids(best_tokens(found.logits))
        if self._second is None:
            drawn = whole_chains(found, self._top_k, self._generator)
            chains = torch.cat((chain[None], drawn))
        else:
            confidences = found.logits.float().softmax(-1).amax(-1)
            posterior = rejection_posterior(confidences)
            kept = posterior.topk(min(self._top_k, len(posterior))).indices
            missing = min(self._second.max_nodes, budget) - len(chain) if self._longer else 0
            if missing > 0:
                kept = torch.cat((kept.new_full((1,), len(chain)), kept))
            shown = torch.nn.functional.pad(chain, (0, missing))
            branches = self._second.continuations(prefix_ids, pending, shown, kept)
            # A branch that keeps the whole chain stands for it.
            chains = branches if missing else torch.cat((chain[None], branches))
        tokens, parents, _ = merged(chains.tolist())
        return Proposal(torch.tensor(tokens, dtype=torch.int64, device=self._device), parents)


def rejection_posterior(confidences: torch.Tensor) -> torch.Tensor:
    """``[n]``: the chance r(i) that exactly the first i tokens of a chain are accepted (Eq. 4).

    Args:
        confidences: ``[n]``, the chance of each token, all before it accepted.
    """
    reached = confidences.cumprod(0)
    before = torch.cat((reached.new_ones(1), reached[:-1]))
    return before * (1 - confidences)


def whole_chains(found: Marginals, count: int, generator: torch.Generator) -> torch.Tensor:
    """``[count, n]`` chains drawn from marginals, each position of each by itself.

    Args:
        found: the marginals.
        count: chains.
        generator: on the same device.
    """
    chances = found.logits.float().softmax(-1)
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return found.token_ids(drawn).T
