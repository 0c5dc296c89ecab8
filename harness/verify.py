"""Pure acceptance rules on tensors; ``p_`` is the target's distribution, ``q_`` the drafter's.

Every rule ends in ONE transfer to the host, and every draw comes from the generator passed in.
Indices that live on the device go through ``index_select``: plain indexing would fetch them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.errors import NotNumbers

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
    """Apply the proposal's rule; greedy, all rules are one and only the argmax is taken.

    Args:
        logits: ``[1 + n, V]``, the pending token's row and one for each node.
        proposal: the tree of ``n`` nodes that the logits belong to.
        sampling: how the target draws.
        generator: on the logits' device; the ``verify`` stream.

    Raises:
        NotNumbers: greedy, and a row's largest logit is none.
    """
    if sampling.greedy:
        return _descend(_chosen(logits), proposal)
    p = sampling.probs(logits)
    if proposal.rule == "rejection" and proposal.q is not None and proposal.parents:
        return _reject(p, proposal.q, proposal.tokens, generator)
    if proposal.rule == "multi_round" and proposal.q is not None and proposal.parents:
        return _multi_round(p, proposal.q, proposal, generator)
    if proposal.rule == "select" and proposal.parents:
        return _select(p, proposal, generator)
    return _descend(torch.multinomial(p, 1, generator=generator)[:, 0], proposal)


def draw(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """A token from one row ``[V]`` of logits.

    Raises:
        NotNumbers: its largest is none.
    """
    token = int(_chosen(logits))
    if token < 0:
        raise NotNumbers
    if sampling.greedy:
        return token
    return int(torch.multinomial(sampling.probs(logits), 1, generator=generator))


def best_tokens(logits: torch.Tensor) -> torch.Tensor:
    """Argmax of ``[..., V]``, the first of equals; on a CPU three times as fast in bfloat16."""
    return logits.max(-1).indices


def _chosen(logits: torch.Tensor) -> torch.Tensor:
    """`best_tokens`, -1 where the largest logit is NaN or infinite; known without a transfer."""
    best = logits.max(-1)
    return torch.where(best.values.isfinite(), best.indices, -1)


def _descend(drawn: torch.Tensor, proposal: Proposal) -> Verdict:
    """``match``: follow the target's own draws ``[1 + n]`` while a child carries them."""
    host = torch.cat((drawn, proposal.tokens)).tolist()
    own, tokens = host[: drawn.shape[0]], host[drawn.shape[0] :]
    if min(own) < 0:
        raise NotNumbers
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


def _multi_round(
    p: torch.Tensor, q: torch.Tensor, proposal: Proposal, generator: torch.Generator
) -> Verdict:
    """``multi_round``: at each node, try the drawn tokens one after another against a residual.

    Sources: SpecInfer, arXiv 2305.09781, Algorithm 2; SpecTr, arXiv 2310.15141.

    At a node, the chains that go through it are *alive*: m of them, k = 0 … m−1 in the order drawn.
    With r_0 = p, the token x of chain k is accepted with chance min(1, r_k(x) / q(x)); refused, it
    leaves r_{k+1} = norm(max(r_k - q, 0)) for the next. If all m are refused, r_m is drawn from.
    After an accepted x the chains whose token it is stay alive, tried or not.

    This keeps p. (1) The alive chains' tokens are m independent draws from q, whatever led here:
    who is alive was decided by tokens of smaller depths and their coins, and positions are drawn
    independently. (2) Given r_k, one draw x from q, accepted so and else replaced by a draw from
    r_{k+1}, is distributed as r_k: that is Leviathan's rule. (3) So by induction from the last
    chain back, what follows attempt k is distributed as r_k, and what follows the node as r_0 = p.
    A token that was refused before has r_k(x) = 0 and is refused again for sure, yet its attempt
    counts, as the order of attempts does: leaving repeats out would try tokens that are not drawn
    from q. That is why a proposal keeps its chains beside the tree they share.

    The residuals need no loop over the vocabulary's rows: r_k = max(p - a_k q, 0) / z_k with
    a_0 = 0, z_k the sum of the numerator, and a_{k+1} = a_k + z_k.
    """
    tokens, depth = proposal.tokens, q.shape[0]
    chains = torch.tensor(proposal.chains, device=p.device)
    coins = torch.rand(depth, len(proposal.chains), generator=generator, device=p.device)
    alive = torch.ones_like(chains[:, 0], dtype=torch.bool)
    node = chains.new_full((1,), -1)
    path, taken = [], []
    for step in range(depth):
        row = p.index_select(0, node + 1)[0]
        drawn = tokens[chains[:, step]]
        offsets, sums = _residuals(row, q[step], len(proposal.chains))
        attempt = (alive.cumsum(0) - 1).clamp_(min=0)
        given = q[step][drawn]
        passed = alive & (
            coins[step] * sums[attempt] * given < row[drawn] - offsets[attempt] * given
        )
        first = passed.long().argmax(0, keepdim=True)
        # Where the walk has ended nobody is alive, and a refused attempt takes nothing from p.
        taken.append(offsets.index_select(0, alive.sum(0, keepdim=True)))
        alive = alive & passed.any() & (drawn == drawn.index_select(0, first))
        node = torch.where(alive.any(), chains[:, step].index_select(0, first), node)
        path.append(torch.where(alive.any(), node, -1))
    nodes = torch.cat(path)
    accepted = (nodes >= 0).sum(0, keepdim=True)
    row = p.index_select(0, node + 1)[0]
    # Past the last node nothing was tried: the bonus is drawn from p itself.
    offset = torch.cat((*taken, p.new_zeros(1))).index_select(0, accepted)
    left = row - offset * q.index_select(0, accepted.clamp(max=depth - 1))[0]
    following = _draw_or(left.clamp_(min=0), row, generator)
    count, next_token, *host = torch.cat((accepted, following, nodes, tokens)).tolist()
    found, own = host[:count], host[depth:]
    return Verdict(tuple(found), tuple(own[item] for item in found), next_token)


def _residuals(
    p: torch.Tensor, q: torch.Tensor, attempts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``a`` and ``z``, ``[attempts + 1]`` each: after k refusals p is max(p - a_k q, 0) / z_k.

    Args:
        p: ``[V]``, sums to 1.
        q: ``[V]``.
        attempts: refusals at most.
    """
    offset = p.new_zeros(())
    offsets, sums = [], []
    for _ in range(attempts + 1):
        rest = torch.addcmul(p, offset, q, value=-1).clamp_(min=0).sum()
        offsets.append(offset)
        sums.append(rest)
        offset = offset + rest
    return torch.stack(offsets), torch.stack(sums)


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
