"""What a drafter is, and what it hands to the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from harness.sampling import Sampling
    from harness.verify import Verdict

Rule = Literal["rejection", "match", "multi_round", "select"]
RULES: tuple[Rule, ...] = ("rejection", "match", "multi_round", "select")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token tree below the pending token, and the rule that accepts it.

    Attributes:
        tokens: ``[n]`` int64, on the target's device; n may be 0.
        parents: for each node the index of its parent, -1 for a child of the pending token;
            a parent comes before its children, and siblings carry distinct tokens.
        rule: ``rejection`` (a chain truly sampled from `q`), ``multi_round`` (several chains truly
            sampled from `q`), ``match`` (anything else) or ``select`` (any several chains).
        q: ``[d, V]`` float32, row i the distribution that every token of depth i + 1 was drawn
            from, after temperature, top-k and top-p; d is the depth of the chains. Given for
            ``rejection`` and ``multi_round`` only.
        chains: for ``multi_round`` only, the nodes of every chain from the root down, in the order
            drawn; a chain drawn twice stands there twice, and all are equally long.
    """

    tokens: torch.Tensor
    parents: tuple[int, ...]
    rule: Rule = "match"
    q: torch.Tensor | None = None
    chains: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        n = len(self.parents)
        if self.tokens.ndim != 1 or self.tokens.shape[0] != n:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} do not fit {n} parents")
        if any(not -1 <= parent < node for node, parent in enumerate(self.parents)):
            raise ValueError("a node's parent must be -1 or an earlier node")
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, not {self.rule!r}")
        if (self.q is not None) != (self.rule in ("rejection", "multi_round")):
            raise ValueError("q goes with the rules rejection and multi_round, and with no other")
        if self.q is not None and self.q.shape[0] != (depth := max(self.depths(), default=0)):
            raise ValueError(f"q has {self.q.shape[0]} rows for a depth of {depth}")
        if self.rule == "rejection" and not self.is_chain:
            raise ValueError("the rule rejection takes a chain")
        self._check_chains()
        if not self.is_chain:
            edges = list(zip(self.parents, self.tokens.tolist(), strict=True))
            if len(set(edges)) != n:
                raise ValueError("siblings must carry distinct tokens")

    def _check_chains(self) -> None:
        """Drawn chains are root-to-leaf paths of one length, and leave no node out."""
        if self.rule != "multi_round":
            if self.chains:
                raise ValueError("chains go with the rule multi_round, and with no other")
            return
        for chain in self.chains:
            if [self.parents[node] for node in chain] != [-1, *chain[:-1]]:
                raise ValueError(f"the nodes {chain} are no chain from the root down")
        if {node for chain in self.chains for node in chain} != set(range(len(self.parents))):
            raise ValueError("every node must be on one of the chains")
        if len({len(chain) for chain in self.chains}) > 1:
            raise ValueError("chains must be equally long")

    @classmethod
    def chain(cls, tokens: torch.Tensor, q: torch.Tensor | None = None) -> Proposal:
        """A chain: sampled from ``q`` where one is given, else accepted by ``match``."""
        parents = tuple(range(-1, tokens.shape[0] - 1))
        return cls(tokens, parents, "match" if q is None else "rejection", q)

    @property
    def is_chain(self) -> bool:
        """Whether every node is the only child of the one before it."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    def depths(self) -> list[int]:
        """Depth of each node; a child of the pending token has depth 1."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent < 0 else depths[parent] + 1)
        return depths


class Drafter(Protocol):
    """Proposes tokens; never sees the answer, the clock or the stopping rules.

    One that keeps what it learnt from one answer for the next declares ``remembers = True``, which
    its run records. Code from outside of this project that does not is built anew before it is
    asked the same prompt again.
    """

    feature_layers: tuple[int, ...]
    """Target layers whose outputs it reads, ascending; empty for none."""
    max_nodes: int
    """Most nodes it ever proposes in one round; sizes the target's cache."""
    block_size: int | None
    """Tokens of a block, the pending one included; None where the word has no meaning."""
    draft: Literal["argmax", "sample"]
    """How draft tokens are chosen; shown in the table."""

    def start(
        self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
    ) -> None:
        """Take a new prompt; its time counts in ``decode_s``.

        Args:
            prompt_ids: ``[L]`` int64.
            features: ``[L, len(feature_layers) * H]``, or None for a drafter that reads none.
            sampling: the run's rules, with the seed of this generation.
        """

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        """Propose what may follow ``pending``.

        Args:
            prefix_ids: every committed token before the pending one, the prompt included.
            pending: the last committed token; the target has not read it yet.
            budget: greatest useful depth, at least 1; deeper nodes are an error.
        """

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        """Learn what the target made of the last proposal.

        Args:
            verdict: the accepted path and the token that follows it.
            features: ``[1 + accepted, len(feature_layers) * H]``: rows of the pending token that
                the proposal hung from and of the accepted nodes, in order.
        """

    def reset(self) -> None:
        """Forget the prompt."""


@runtime_checkable
class Oracle(Drafter, Protocol):
    """A drafter that is told the target's answer before it drafts, and says so.

    It is marked as an upper bound wherever it is shown, and never ranked. A method called
    `prepare` alone makes no oracle: nothing is told to a drafter that does not declare itself.
    """

    oracle: Literal[True]
    """The declaration."""

    def prepare(self, prompt_ids: Sequence[int], continuation: Sequence[int]) -> None:
        """Learn, outside of the clock, what ``ar_loop`` answered to the prompt `start` will bring.

        Args:
            prompt_ids: of the prompt.
            continuation: the answer's tokens.
        """


def is_oracle(drafter: object) -> bool:
    """Whether a drafter declares that it is told the answers.

    Raises:
        ValueError: it does, and cannot be told any.
    """
    if getattr(drafter, "oracle", False) is not True:
        return False
    if not isinstance(drafter, Oracle):
        raise ValueError("an oracle needs prepare(prompt_ids, continuation), to be told answers")
    return True


@dataclass(frozen=True, slots=True)
class Marginals:
    """What a drafter believes of every draft position by itself, before any choice is made.

    Attributes:
        logits: ``[n, V']`` in the model's dtype, on the target's device; row i is for depth i + 1.
        vocabulary: ``[V']`` int64 token ids of the columns; None where they are the target's own.
    """

    logits: torch.Tensor
    vocabulary: torch.Tensor | None = None

    def token_ids(self, columns: torch.Tensor) -> torch.Tensor:
        """Tokens of columns of ``logits``; any shape."""
        return columns if self.vocabulary is None else self.vocabulary[columns]

    def widened(self, q: torch.Tensor, vocab_size: int) -> torch.Tensor:
        """Probabilities ``[n, V']`` of the columns as ``[n, V]``, zero for any other token."""
        if self.vocabulary is None:
            return q
        return q.new_zeros(q.shape[0], vocab_size).index_copy_(1, self.vocabulary, q)


@runtime_checkable
class MarginalDrafter(Drafter, Protocol):
    """A drafter whose proposal is a choice from `Marginals`: what a policy can be put over."""

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        """One draft pass; arguments as in `Drafter.propose`, at most ``budget`` rows."""
