"""The acceptance rules keep the target's distribution; rules that do not are caught here."""

from __future__ import annotations

import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from drafters import policy
from drafters.base import RULES, Proposal
from harness.sampling import Sampling
from harness.verify import Verdict, best_tokens, draw, verify

VOCAB = 5
LENGTH = 3
DRAWS = 20_000
THRESHOLD = 1e-4
"""A right rule fails once in ten thousand seeds; the seed is fixed, so it never flickers."""

Rule = Callable[[torch.Tensor, Proposal, Sampling, torch.Generator], Verdict]
Draft = Callable[[tuple[int, ...], torch.Generator], Proposal]
PLAIN = Sampling(temperature=1.0)
NUCLEUS = Sampling(temperature=0.8, top_p=0.9, top_k=4)


def _table(seed: int, sharpness: float) -> dict[tuple[int, ...], torch.Tensor]:
    """Logits for every context of fewer than six tokens' last two."""
    generator = torch.Generator().manual_seed(seed)
    contexts = [c for n in range(3) for c in itertools.product(range(VOCAB), repeat=n)]
    return {c: torch.randn(VOCAB, generator=generator) * sharpness for c in contexts}


TARGET = _table(seed=1, sharpness=1.0)
DRAFTER = _table(seed=2, sharpness=1.2)


@functools.cache
def logits_after(
    context: tuple[int, ...], parents: tuple[int, ...], tokens: tuple[int, ...]
) -> torch.Tensor:
    """``[1 + n, V]``: what the target says after the context and after every node."""
    contexts = [context]
    for parent, token in zip(parents, tokens, strict=True):
        contexts.append((*contexts[parent + 1], token))
    return torch.stack([TARGET[item[-2:]] for item in contexts])


def target_logits(context: tuple[int, ...], proposal: Proposal) -> torch.Tensor:
    return logits_after(context[-2:], proposal.parents, tuple(proposal.tokens.tolist()))


@functools.cache
def draft_q(context: tuple[int, ...], sampling: Sampling) -> torch.Tensor:
    """``[2, V]``: a block drafter's rows, each blind to the other."""
    return sampling.probs(torch.stack([DRAFTER[(*context, step)[-2:]] for step in range(2)]))


class Chains:
    """Chains sampled from q, drawn many at a time because one at a time is slow."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._stock: dict[tuple[int, ...], list[list[int]]] = {}

    def next(self, context: tuple[int, ...], generator: torch.Generator) -> tuple[int, ...]:
        stock = self._stock.setdefault(context[-2:], [])
        if not stock:
            q = draft_q(context[-2:], self._sampling)
            drawn = torch.multinomial(q, 2_000, replacement=True, generator=generator)
            stock.extend(drawn.T.tolist())
        return tuple(stock.pop())


@functools.cache
def labelled_chain(
    context: tuple[int, ...], tokens: tuple[int, ...], sampling: Sampling
) -> Proposal:
    return Proposal.chain(torch.tensor(tokens), draft_q(context, sampling))


def sampled_chain(sampling: Sampling) -> Draft:
    chains = Chains(sampling)
    return lambda context, generator: labelled_chain(
        context[-2:], chains.next(context, generator), sampling
    )


@functools.cache
def _argmax(context: tuple[int, ...]) -> torch.Tensor:
    return draft_q(context, PLAIN).argmax(-1)


def argmax_chain(context: tuple[int, ...], generator: torch.Generator) -> Proposal:
    return Proposal.chain(_argmax(context[-2:]))


def mislabelled_chain(context: tuple[int, ...], generator: torch.Generator) -> Proposal:
    """Planted: an argmax chain that claims to be sampled, so that min(1, p/q) judges it."""
    return Proposal.chain(_argmax(context[-2:]), draft_q(context[-2:], PLAIN))


@functools.cache
def _tree(context: tuple[int, ...]) -> Proposal:
    first, second = draft_q(context, PLAIN).argsort(-1, descending=True)[:, :3].tolist()
    tokens = [first[0], first[1], second[0], first[2], second[1], second[2]]
    return Proposal(torch.tensor(tokens), (-1, -1, 0, -1, 0, 3))


def tree(context: tuple[int, ...], generator: torch.Generator) -> Proposal:
    """Three children, the first and last of them with children of their own."""
    return _tree(context[-2:])


@functools.cache
def merged(chains: tuple[tuple[int, ...], ...]) -> Proposal:
    """Chains as one tree, shared prefixes once."""
    nodes: dict[tuple[int, ...], int] = {}
    parents = []
    for chain in chains:
        for depth in (1, 2):
            if chain[:depth] not in nodes:
                nodes[chain[:depth]] = len(parents)
                parents.append(nodes.get(chain[: depth - 1], -1))
    return Proposal(torch.tensor([item[-1] for item in nodes]), tuple(parents), "select")


def sampled_tree() -> Draft:
    """Three chains sampled from q."""
    chains = Chains(PLAIN)
    return lambda context, generator: merged(
        tuple(chains.next(context, generator) for _ in range(3))
    )


@functools.cache
def labelled_tree(
    context: tuple[int, ...], chains: tuple[tuple[int, ...], ...], sampling: Sampling
) -> Proposal:
    tree = policy.merged(chains)
    q = draft_q(context, sampling)
    return Proposal(torch.tensor(tree.tokens), tree.parents, "multi_round", q, tree.chains)


def labelled_chains(count: int, sampling: Sampling) -> Draft:
    """As many chains sampled from q, which goes with them."""
    chains = Chains(sampling)
    return lambda context, generator: labelled_tree(
        context[-2:], tuple(chains.next(context, generator) for _ in range(count)), sampling
    )


@torch.inference_mode()
def sample_counts(rule: Rule, draft: Draft, sampling: Sampling, draws: int) -> Counter[Any]:
    """Joint counts of the first three tokens, written round by round as the loop does."""
    generator = torch.Generator().manual_seed(3)
    counts: Counter[Any] = Counter()
    for _ in range(draws):
        context: tuple[int, ...] = ()
        while len(context) < LENGTH:
            proposal = draft(context, generator)
            verdict = rule(target_logits(context, proposal), proposal, sampling, generator)
            context = (*context, *verdict.tokens, verdict.next_token)
        counts[context[:LENGTH]] += 1
    return counts


def p_value(counts: Counter[Any], sampling: Sampling) -> float:
    """Pearson's chi-square against exact enumeration; cells expected below 5 are pooled."""
    total = sum(counts.values())
    expected = {}
    for cell in itertools.product(range(VOCAB), repeat=LENGTH):
        chance = 1.0
        for step, token in enumerate(cell):
            chance *= float(sampling.probs(TARGET[cell[:step][-2:]])[token])
        expected[cell] = chance * total
    if any(expected[cell] == 0 for cell in counts):
        return 0.0
    large = [cell for cell in expected if expected[cell] >= 5]
    pairs = [(counts[cell], expected[cell]) for cell in large]
    rest = total - sum(count for count, _ in pairs), total - sum(mean for _, mean in pairs)
    if rest[1] >= 5:
        pairs.append(rest)
    statistic = sum((count - mean) ** 2 / mean for count, mean in pairs)
    freedom = torch.tensor((len(pairs) - 1) / 2, dtype=torch.float64)
    half = torch.tensor(statistic / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, half))


RIGHT: dict[str, tuple[Draft, Sampling]] = {
    "rejection": (sampled_chain(PLAIN), PLAIN),
    "rejection, nucleus": (sampled_chain(NUCLEUS), NUCLEUS),
    "match, chain": (argmax_chain, PLAIN),
    "match, tree": (tree, NUCLEUS),
    "select": (sampled_tree(), PLAIN),
    "multi_round": (labelled_chains(4, PLAIN), PLAIN),
    "multi_round, nucleus": (labelled_chains(3, NUCLEUS), NUCLEUS),
}


@pytest.mark.parametrize("name", RIGHT)
def test_the_joint_of_three_tokens_is_the_targets(name: str) -> None:
    draft, sampling = RIGHT[name]
    # The exact law of multi_round is summed up in test_multi_round.py.
    draws = 3_000 if "multi_round" in name else DRAWS
    counts = sample_counts(verify, draft, sampling, draws)
    assert sum(counts.values()) == draws
    assert p_value(counts, sampling) > THRESHOLD


def _chain_walk(
    logits: torch.Tensor,
    proposal: Proposal,
    generator: torch.Generator,
    accept: Callable[[torch.Tensor, int, int], bool],
    instead: Callable[[torch.Tensor, int], torch.Tensor],
    bonus: Callable[[torch.Tensor], torch.Tensor],
) -> Verdict:
    p, tokens = logits.softmax(-1), proposal.tokens.tolist()
    for step, token in enumerate(tokens):
        if not accept(p[step], step, token):
            drawn = torch.multinomial(instead(p[step], step), 1, generator=generator)
            return Verdict(tuple(range(step)), tuple(tokens[:step]), int(drawn))
    drawn = torch.multinomial(bonus(p[-1]), 1, generator=generator)
    return Verdict(tuple(range(len(tokens))), tuple(tokens), int(drawn))


def _coin_accept(
    proposal: Proposal, generator: torch.Generator
) -> Callable[[torch.Tensor, int, int], bool]:
    q = proposal.q
    assert q is not None
    return lambda p, step, token: bool(
        torch.rand(1, generator=generator) * q[step, token] < p[token]
    )


def _residual(proposal: Proposal) -> Callable[[torch.Tensor, int], torch.Tensor]:
    q = proposal.q
    assert q is not None
    return lambda p, step: (p - q[step]).clamp(min=0)


def forgets_q(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> Verdict:
    """Planted: a refused token is replaced by a draw from p, not from the residual."""
    accept = _coin_accept(proposal, generator)
    return _chain_walk(logits, proposal, generator, accept, lambda p, _: p, lambda p: p)


def bonus_from_q(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> Verdict:
    """Planted: the bonus comes from the drafter's last row."""
    q = proposal.q
    assert q is not None
    accept = _coin_accept(proposal, generator)
    return _chain_walk(logits, proposal, generator, accept, _residual(proposal), lambda p: q[-1])


def keeps_argmax(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> Verdict:
    """Planted: a draft token is kept when it is the target's argmax."""
    return _chain_walk(
        logits,
        proposal,
        generator,
        lambda p, _, token: int(p.argmax()) == token,
        lambda p, _: p,
        lambda p: p,
    )


def coin_in_selection(
    logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
) -> Verdict:
    """Planted: every chain is tried, and the one whose coins fell best is taken."""
    verdicts = []
    tokens = proposal.tokens.tolist()
    for leaf in range(len(tokens)):
        if leaf in proposal.parents:
            continue
        path = [leaf]
        while (parent := proposal.parents[path[0]]) >= 0:
            path.insert(0, parent)
        chain = Proposal(proposal.tokens[path], tuple(range(-1, len(path) - 1)), "select")
        verdict = verify(logits[[0, *(node + 1 for node in path)]], chain, sampling, generator)
        verdicts.append(verdict)
    return max(verdicts, key=lambda verdict: verdict.accepted)


WRONG: dict[str, tuple[Rule, Draft]] = {
    "min(1, p/q) on an argmax chain": (verify, mislabelled_chain),
    "no residual": (forgets_q, sampled_chain(PLAIN)),
    "bonus from q": (bonus_from_q, sampled_chain(PLAIN)),
    "keep the argmax": (keeps_argmax, argmax_chain),
    "the coin chooses": (coin_in_selection, sampled_tree()),
}


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_rules_are_caught(name: str) -> None:
    rule, draft = WRONG[name]
    assert p_value(sample_counts(rule, draft, PLAIN, 3_000), PLAIN) < THRESHOLD


def test_the_planted_walk_is_right_without_its_fault() -> None:
    def walk(
        logits: torch.Tensor, proposal: Proposal, sampling: Sampling, generator: torch.Generator
    ) -> Verdict:
        accept = _coin_accept(proposal, generator)
        return _chain_walk(logits, proposal, generator, accept, _residual(proposal), lambda p: p)

    assert p_value(sample_counts(walk, sampled_chain(PLAIN), PLAIN, 4_000), PLAIN) > THRESHOLD


@pytest.mark.parametrize("name", RIGHT)
def test_one_seed_gives_one_verdict(name: str) -> None:
    draft, sampling = RIGHT[name]
    proposals = [draft((), sampling.generator("draft")) for _ in range(20)]
    runs = []
    for _ in range(2):
        generator = sampling.generator("verify")
        runs.append([verify(target_logits((), p), p, sampling, generator) for p in proposals])
    assert runs[0] == runs[1]
    assert len({step.next_token for step in runs[0]}) > 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sampling", (Sampling(), PLAIN), ids=("greedy", "sampled"))
def test_a_verdict_takes_one_transfer(
    rule: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts: dict[str, Draft] = {
        "rejection": sampled_chain(PLAIN),
        "match": tree,
        "select": sampled_tree(),
        "multi_round": labelled_chains(4, PLAIN),
    }
    generator = torch.Generator().manual_seed(0)
    proposal = drafts[rule]((), generator)
    logits = target_logits((), proposal)
    transfers = []
    for name in ("tolist", "item", "cpu", "numpy", "__int__", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(
            self: torch.Tensor, *args: Any, original: Any = original, name: str = name
        ) -> Any:
            transfers.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    verify(logits, proposal, sampling, generator)
    assert transfers == ["tolist"]


def test_greedy_keeps_no_token_but_the_argmax() -> None:
    logits = torch.tensor([[0.0, 5.0, 4.9], [9.0, 0.0, 0.0]])
    q = torch.tensor([[0.0, 0.0, 1.0]])
    for proposal in (
        Proposal.chain(torch.tensor([2])),
        Proposal.chain(torch.tensor([2]), q),
        Proposal(torch.tensor([2]), (-1,), "select"),
        Proposal(torch.tensor([2]), (-1,), "multi_round", q, ((0,), (0,))),
    ):
        verdict = verify(logits, proposal, Sampling(), torch.Generator())
        assert verdict == Verdict((), (), 1)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_proposed_draws_the_next_token_from_p(rule: str) -> None:
    q = torch.empty(0, VOCAB) if rule in ("rejection", "multi_round") else None
    nothing = Proposal(torch.empty(0, dtype=torch.int64), (), rule, q)  # type: ignore[arg-type]
    logits = torch.full((1, VOCAB), -1e9)
    logits[0, 3] = 0.0
    assert verify(logits, nothing, PLAIN, torch.Generator()) == Verdict((), (), 3)


def test_a_certain_target_accepts_its_own_chain_under_every_rule() -> None:
    logits = torch.full((3, VOCAB), float("-inf"))
    logits[0, 1] = logits[1, 4] = logits[2, 2] = 0.0
    tokens = torch.tensor([1, 4])
    q = torch.nn.functional.one_hot(tokens, VOCAB).float()
    for proposal in (
        Proposal.chain(tokens),
        Proposal.chain(tokens, q),
        Proposal(tokens, (-1, 0), "select"),
        Proposal(tokens, (-1, 0), "multi_round", q, ((0, 1), (0, 1))),
    ):
        verdict = verify(logits, proposal, PLAIN, torch.Generator().manual_seed(0))
        assert verdict == Verdict((0, 1), (1, 4), 2)


def test_select_takes_the_chain_that_p_prefers() -> None:
    certain = torch.full((6, VOCAB), -1e9)
    certain[0, 2] = certain[3, 3] = certain[4, 0] = certain[5, 1] = 0.0
    # Chains (1), (2, 3, 0), with the better one listed second.
    proposal = Proposal(torch.tensor([1, 4, 2, 3, 0]), (-1, 0, -1, 2, 3), "select")
    verdict = verify(certain, proposal, PLAIN, torch.Generator().manual_seed(0))
    assert verdict == Verdict((2, 3, 4), (2, 3, 0), 1)


def test_select_looks_for_the_longest_accepted_chain_not_the_surest_tokens() -> None:
    probs = torch.full((6, VOCAB), 1e-6)
    # Chain (1, 2, 3): chances .1, 1, 1. Chain (0, 4): .9, .5, the longer one as it is expected.
    probs[0, 1], probs[1, 2], probs[2, 3] = 0.1, 1.0, 1.0
    probs[0, 0], probs[4, 4], probs[4, 0] = 0.9, 0.5, 0.5
    proposal = Proposal(torch.tensor([1, 2, 3, 0, 4]), (-1, 0, 1, -1, 3), "select")
    generator = torch.Generator().manual_seed(0)
    paths = {verify(probs.log(), proposal, PLAIN, generator).path for _ in range(50)}
    assert paths == {(), (3,), (3, 4)}


def test_select_accepts_with_the_chance_that_p_gives() -> None:
    logits = torch.tensor([[0.6, 0.1, 0.1, 0.1, 0.1]] * 2).log()
    proposal = Proposal(torch.tensor([0]), (-1,), "select")
    generator = torch.Generator().manual_seed(0)
    draws = 4_000
    kept = sum(verify(logits, proposal, PLAIN, generator).accepted for _ in range(draws))
    assert abs(kept / draws - 0.6) < 0.03  # four standard deviations


def test_after_a_whole_chain_select_may_draw_its_last_token_again() -> None:
    probs = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    proposal = Proposal(torch.tensor([1]), (-1,), "select")
    generator = torch.Generator().manual_seed(0)
    drawn = [verify(probs.log(), proposal, PLAIN, generator) for _ in range(50)]
    assert {(item.tokens, item.next_token) for item in drawn} == {((1,), 1), ((1,), 2)}


def test_where_rounding_leaves_no_residual_the_draw_is_from_p() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5]])
    # Twice p stands for a q that rounding put above p everywhere.
    proposal = Proposal.chain(torch.tensor([1]), 2 * p)
    generator = torch.Generator().manual_seed(0)
    logits = torch.cat((p, p)).log()
    drawn = [verify(logits, proposal, PLAIN, generator) for _ in range(200)]
    refused = [item for item in drawn if item.accepted == 0]
    assert 60 < len(refused) < 140 and {item.next_token for item in refused} == {0, 1, 2}


def test_draw_follows_the_sampling() -> None:
    logits = torch.tensor([0.0, 3.0, -1e9])
    assert draw(logits, Sampling(), torch.Generator()) == 1
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(draw(logits, PLAIN, generator) for _ in range(300))
    assert set(drawn) == {0, 1} and drawn[1] > drawn[0]


@given(seed=st.integers(0, 10_000), data=st.data())
def test_match_descends_as_a_walk_over_paths_does(seed: int, data: st.DataObject) -> None:
    """Against brute force: the deepest path of which every token is the target's own draw."""
    chain = data.draw(st.lists(st.integers(0, toy.VOCAB - 1), max_size=5))
    proposal = toy.random_tree(random.Random(seed), chain, max_nodes=40)
    tokens = proposal.tokens.tolist()
    n = len(tokens)
    own = [data.draw(st.sampled_from([*tokens, 0])) for _ in range(n + 1)]
    logits = torch.nn.functional.one_hot(torch.tensor(own), toy.VOCAB).float()

    paths: list[tuple[int, ...]] = [()]
    for node in range(n):
        path = [node]
        while (parent := proposal.parents[path[0]]) >= 0:
            path.insert(0, parent)
        before = [-1, *path[:-1]]
        if all(own[up + 1] == tokens[item] for up, item in zip(before, path, strict=True)):
            paths.append(tuple(path))
    best = max(paths, key=len)

    verdict = verify(logits, proposal, Sampling(), torch.Generator())
    assert verdict.path == best
    assert verdict.tokens == tuple(tokens[node] for node in best)
    assert verdict.next_token == own[(best[-1] if best else -1) + 1]


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float32))
def test_of_equal_logits_the_first_is_best(dtype: torch.dtype) -> None:
    logits = torch.randint(0, 4, (200, 97), generator=torch.Generator().manual_seed(0)).to(dtype)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert best_tokens(logits).tolist() == first
