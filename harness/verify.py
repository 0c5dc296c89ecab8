"""Pure acceptance rules on tensors; ``p_`` is the target's distribution, ``q_`` the drafter's.

Every rule ends in ONE transfer to the host, and every draw comes from the generator passed in.
Indices that live on the device go through ``index_select``: plain indexing would fetch them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from drafters.base import Proposal
    from harness.sampling import Sampling


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


def verify(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> Verdict:
    """Apply the proposal's rule; greedy, the three rules are one and only the argmax is taken.

    Args:
        logits: ``[1 + n, V]``, the pending token's row and one for each node.
        proposal: the tree of ``n`` nodes that the logits belong to.
        sampling: how the target draws.
        generator: on the logits' device; the ``verify`` stream.
    """
    if sampling.greedy:
        return _descend(best_tokens(logits), proposal)
    p = sampling.probs(logits)
    if proposal.rule == "rejection" and proposal.q is not None and proposal.parents:
        return _reject(p, proposal.q, proposal.tokens, generator)
    if proposal.rule == "select" and proposal.parents:
        return _select(p, proposal, generator)
    return _descend(torch.multinomial(p, 1, generator=generator)[:, 0], proposal)


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token from one row ``[V]`` of logits."""
    if sampling.greedy:
        return int(best_tokens(logits))
    return int(torch.multinomial(sampling.probs(logits), 1, generator=generator))


def best_tokens(logits: torch.Tensor) -> torch.Tensor:
    """Argmax of ``[..., V]``, the first of equals; on a CPU three times as fast in bfloat16."""
    return logits.max(-1).indices


def _descend(drawn: torch.Tensor, proposal: Proposal) -> Verdict:
    """``match``: follow the target's own draws ``[1 + n]`` while a child carries them."""
    host = torch.cat((drawn, proposal.tokens)).tolist()
    own, tokens = host[: drawn.shape[0]], host[drawn.shape[0] :]
    children = {edge: node for node, edge in enumerate(zip(proposal.parents, tokens, strict=True))}
    path: list[int] = []
    node = -1
    while (child := children.get((node, own[node + 1]))) is not None:
        path.append(child)
        node = child
    return Verdict(tuple(path), tuple(tokens[item] for item in path), own[node + 1])


def _reject(
    p: torch.Tensor, q: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator
) -> Verdict:
    """``rejection``: accept with min(1, p/q), else draw from norm(max(p - q, 0)).

    Source: Leviathan et al., arXiv 2211.17192, Algorithm 1; arXiv 2606.11552, Eq. 1-2.
    """
    n = tokens.shape[0]
    column = tokens[:, None]
    coins = torch.rand(n, generator=generator, device=p.device)
    passed = coins * q.gather(1, column)[:, 0] < p[:n].gather(1, column)[:, 0]
    accepted = passed.long().cumprod(0).sum(0, keepdim=True)
    row = p.index_select(0, accepted)[0]
    # After the last node nothing was rejected: the bonus is drawn from p itself.
    refused = q.index_select(0, accepted.clamp(max=n - 1))[0] * (accepted < n)
    following = _draw_or((row - refused).clamp_(min=0), row, generator)
    count, next_token, *chain = torch.cat((accepted, following, tokens)).tolist()
    return Verdict(tuple(range(count)), tuple(chain[:count]), next_token)


def _select(p: torch.Tensor, proposal: Proposal, generator: torch.Generator) -> Verdict:
    """``select``: the best chain by ``p`` alone, then accept x with probability p(x).

    A chain scores Σ_m Π_{j≤m} p(x_j), its expected accepted length. The coins are tossed after
    the choice, so a refused x leaves p without x.

    Source: SpecDiff-2, arXiv 2511.00606 (self-selection).
    """
    tokens = proposal.tokens
    chains = torch.tensor(_chains(proposal.parents), device=p.device)
    parents = torch.tensor(proposal.parents, device=p.device)
    given = p[parents + 1].gather(1, tokens[:, None])[:, 0]
    # Chains are padded with -1, where the probability is 0: nothing past the leaf is accepted.
    steps = torch.where(chains >= 0, given[chains], 0.0)
    best = steps.cumprod(1).sum(1).argmax(0, keepdim=True)
    chain, chances = chains.index_select(0, best)[0], steps.index_select(0, best)[0]
    coins = torch.rand(chain.shape[0], generator=generator, device=p.device)
    accepted = (coins < chances).long().cumprod(0).sum(0, keepdim=True)

    nodes = torch.nn.functional.pad(chain, (1, 1), value=-1)  # the pending token, nodes, an end
    row = p.index_select(0, nodes[accepted] + 1)[0]
    refused = nodes[accepted + 1]
    without = row.scatter(0, tokens[refused], 0.0)
    following = _draw_or(torch.where(refused >= 0, without, row), row, generator)
    count, next_token, *host = torch.cat((accepted, following, chain, tokens)).tolist()
    path, own = host[:count], host[chain.shape[0] :]
    return Verdict(tuple(path), tuple(own[node] for node in path), next_token)


def _chains(parents: Sequence[int]) -> list[list[int]]:
    """Nodes of every root-to-leaf chain, leaves in order, padded at the end with -1."""
    leaves = [node for node in range(len(parents)) if node not in set(parents)]
    chains = []
    for leaf in leaves:
        chain = [leaf]
        while (parent := parents[chain[-1]]) >= 0:
            chain.append(parent)
        chains.append(chain[::-1])
    deepest = max(map(len, chains))
    return [chain + [-1] * (deepest - len(chain)) for chain in chains]


def _draw_or(
    weights: torch.Tensor, otherwise: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """One index ``[1]`` drawn by ``weights``, or by ``otherwise`` where rounding left no weight."""
    weights = torch.where(weights.sum() > 0, weights, otherwise)
    return torch.multinomial(weights, 1, generator=generator)
