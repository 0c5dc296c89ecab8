"""D²SD: where branches begin, what they say, and that the target's text stays its own."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import test_verify
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from marginals import Table, TableDrafter, put_over
from test_block_diffusion import small_config

from drafters.base import Marginals, Proposal
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.checkpoint import MissingCheckpoint
from drafters.block_diffusion.context import Context
from drafters.block_diffusion.data import TrainingSequence, make_blocks, visible_prefix
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.objectives import OBJECTIVES
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model
from drafters.build import build_drafter
from drafters.d2sd import D2SDDrafter, rejection_posterior, whole_chains
from drafters.options import DrafterOptions
from harness import methods
from harness.decode import generate
from harness.errors import UserError
from harness.sampling import Sampling
from harness.verify import Verdict

BLOCK = 6
LENGTH = 40
CONFIDENCES = st.lists(st.floats(0, 1), min_size=1, max_size=9)


# Where branches begin


@given(confidences=CONFIDENCES)
def test_the_posterior_is_the_chance_of_every_end(confidences: list[float]) -> None:
    """Eq. 4 with loops; with the chance of no refusal at all they are everything."""
    found = rejection_posterior(torch.tensor(confidences, dtype=torch.float64))
    expected = [math.prod(confidences[:i]) * (1 - c) for i, c in enumerate(confidences)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert float(found.sum()) + math.prod(confidences) == pytest.approx(1)


class Given:
    """Marginals that were given; as a second drafter it goes on in a fixed way."""

    feature_layers: tuple[int, ...] = ()
    draft = "argmax"
    checkpoint = None

    def __init__(self, logits: torch.Tensor, vocabulary: torch.Tensor | None = None) -> None:
        self.found = Marginals(logits, vocabulary)
        self.max_nodes = logits.shape[0]
        self.block_size: int | None = self.max_nodes + 1
        self.kept: list[int] = []

    def start(self, *args: object) -> None:
        pass

    observe = reset = start

    def propose(self, *args: object) -> Proposal:
        raise AssertionError("a policy proposes")

    def marginals(self, prefix_ids: object, pending: int, budget: int) -> Marginals:
        return Marginals(self.found.logits[:budget], self.found.vocabulary)

    def continuations(
        self, prefix_ids: object, pending: int, chain: torch.Tensor, kept: torch.Tensor
    ) -> torch.Tensor:
        self.kept = kept.tolist()
        places = torch.arange(len(chain))
        return torch.where(places < kept[:, None], chain, 100 + places)


def paths(proposal: Proposal) -> set[tuple[int, ...]]:
    """Tokens from the root to every node."""
    found: list[tuple[int, ...]] = []
    for token, parent in zip(proposal.tokens.tolist(), proposal.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    assert len(set(found)) == len(found)
    return set(found)


@given(
    depth=st.integers(1, 7),
    columns=st.integers(2, 5),
    top_k=st.integers(1, 9),
    budget=st.integers(1, 9),
    seed=st.integers(0, 1000),
    mapped=st.booleans(),
)
def test_branches_begin_at_the_likeliest_ends(
    depth: int, columns: int, top_k: int, budget: int, seed: int, mapped: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(depth, columns, generator=draw)
    vocabulary = torch.randperm(90, generator=draw)[:columns] if mapped else None
    first, second = Given(logits, vocabulary), Given(logits)
    drafter = D2SDDrafter(first, second, top_k, "cpu")
    drafter.start(torch.tensor([1]), None, Sampling())
    proposal = drafter.propose([], 0, budget)

    count = min(depth, budget)
    best = [int(row.argmax()) for row in logits[:count]]
    chain = [int(vocabulary[column]) for column in best] if vocabulary is not None else best
    c = [float(row.softmax(-1).max()) for row in logits[:count].double()]
    r = [math.prod(c[:i]) * (1 - c[i]) for i in range(count)]
    likeliest = sorted(range(count), key=lambda i: -r[i])[:top_k]
    assert sorted(r[i] for i in second.kept) == pytest.approx(
        sorted(r[i] for i in likeliest), abs=1e-5
    )
    expected = {tuple(chain[:length]) for length in range(1, count + 1)}
    for kept in second.kept:
        branch = [*chain[:kept], *range(100 + kept, 100 + count)]
        expected |= {tuple(branch[:length]) for length in range(1, count + 1)}
    assert paths(proposal) == expected
    assert proposal.tokens[:count].tolist() == chain  # the records' top path
    assert proposal.rule == "match"
    assert len(proposal.parents) <= drafter.max_nodes
    if budget >= depth and sorted(second.kept) == list(range(len(second.kept))):
        assert len(proposal.parents) == drafter.max_nodes


# What branches say


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


def random_model(target: toy.ToyTarget, seed: int = 1):
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target, BLOCK), head, seed=seed, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def prompt_of(target: toy.ToyTarget, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, toy.VOCAB - 1, (length,), generator=torch.Generator().manual_seed(7))
    return ids, target.features_of(ids[None], torch.ones(1, length), (0, 2))[0]


def test_branches_together_are_each_alone_and_the_models_own_pass(target) -> None:
    """The last is the form that is trained: no cache, every block behind its own copy."""
    model = random_model(target)
    ids, features = prompt_of(target, 17)
    context = Context(model)
    # Two steps, as in decoding.
    context.extend(features[:9])
    context.extend(features[9:16])
    noise = torch.randn(4, BLOCK, target.hidden_size, generator=torch.Generator().manual_seed(3))
    together = context.outputs(noise)
    alone = torch.cat([context.outputs(block[None]) for block in noise])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(context.outputs(noise), together)  # nothing was left behind
    sequence = TrainingSequence(tuple(ids.tolist()), 0)
    blocks = make_blocks([sequence], [np.array([16] * 4)], BLOCK)
    torch.testing.assert_close(together, model(noise, features, blocks), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("size", (BLOCK - 1, 3))
def test_a_branch_goes_on_with_the_best_tokens_behind_what_it_keeps(target, size) -> None:
    model = random_model(target)
    ids, features = prompt_of(target, 12)
    drafter = BlockDiffusionDrafter(model, target, BLOCK)
    drafter.start(ids[:11], features[:11], Sampling())
    chain = torch.tensor([5, 9, 40, 22, 7])[:size]
    kept = torch.tensor([2, 0, 1, size - 1])
    found = drafter.continuations(range(11), 33, chain, kept)
    sequence = TrainingSequence(tuple(ids.tolist()), 0)
    blocks = make_blocks([sequence], [np.array([11])], BLOCK)
    for row, count in zip(found, kept.tolist(), strict=True):
        noise = torch.full((1, BLOCK), model.config.mask_token_id)
        noise[0, 0] = 33
        noise[0, 1 : count + 1] = chain[:count]
        hidden = model(target.embed_tokens.weight[noise], features, blocks)
        best = target.lm_head(hidden[0, 1 : size + 1]).argmax(-1)
        assert row.tolist() == [*chain[:count].tolist(), *best[count:].tolist()]
    with pytest.raises(ValueError, match="context has 11 rows for 12 tokens"):
        drafter.continuations(range(12), 33, chain, kept)


def test_without_a_second_drafter_whole_chains_are_drawn_from_the_first_position() -> None:
    """Each position by itself, the argmax as likely as it is, and not bound to the chain."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.0, 0.5, 1.0, 0.0]])
    vocabulary = torch.tensor([4, 10, 11, 30])
    drawn = whole_chains(Marginals(logits, vocabulary), 4_000, torch.Generator().manual_seed(0))
    counts = Counter(map(tuple, drawn.tolist()))
    first, second = logits.softmax(-1)
    for i, j in ((i, j) for i in range(4) for j in range(4)):
        share = counts[int(vocabulary[i]), int(vocabulary[j])] / 4_000
        assert share == pytest.approx(float(first[i] * second[j]), abs=0.03)

    drafter = put_over(Given(torch.zeros(3, toy.VOCAB)), "d2sd:resample=on:top_k=2")
    drafter.start(torch.tensor([0]), None, Sampling())
    proposal = drafter.propose([], 0, 3)
    assert proposal.tokens[:3].tolist() == [0, 0, 0]  # the argmax chain, the records' top path
    assert len(proposal.parents) == drafter.max_nodes == 9
    assert proposal.parents.count(-1) == 3


@given(
    depth=st.integers(1, 5),
    longer=st.integers(1, 4),
    top_k=st.integers(1, 6),
    budget=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_a_longer_second_drafter_also_goes_on_behind_the_whole_chain(
    depth: int, longer: int, top_k: int, budget: int, seed: int
) -> None:
    logits = 3 * torch.randn(depth, 4, generator=torch.Generator().manual_seed(seed))
    second = Given(torch.zeros(depth + longer, 4))
    drafter = D2SDDrafter(Given(logits), second, top_k, "cpu")
    drafter.start(torch.tensor([1]), None, Sampling())
    proposal = drafter.propose([], 0, budget)
    count, deepest = min(depth, budget), min(depth + longer, budget)
    chain = logits[:count].argmax(-1).tolist()
    assert (second.kept[0] == count) == (deepest > count)
    expected = {tuple(chain[:length]) for length in range(1, count + 1)}
    for kept in second.kept:
        branch = [*chain[:kept], *range(100 + kept, 100 + deepest)]
        expected |= {tuple(branch[:length]) for length in range(1, deepest + 1)}
    assert paths(proposal) == expected
    assert proposal.tokens[:count].tolist() == chain
    assert len(proposal.parents) <= drafter.max_nodes
    # All of the likeliest ends are the first ones: as many nodes as can be.
    full = count == depth and deepest == depth + longer
    if full and sorted(second.kept) == [*range(min(top_k, depth)), depth]:
        assert len(proposal.parents) == drafter.max_nodes


def test_one_seed_draws_the_same_branches() -> None:
    drafter = put_over(Given(torch.zeros(4, toy.VOCAB)), "d2sd:resample=on")
    assert drafter.draft == "sample"
    runs = []
    for seed in (1, 1, 2):
        drafter.start(torch.tensor([0]), None, Sampling(seed=seed))
        runs.append([drafter.propose([], 0, 4).tokens.tolist() for _ in range(3)])
    assert runs[0] == runs[1] != runs[2]


# The text stays the target's


def sequence_of(target: toy.ToyTarget, prompt: list[int]) -> TrainingSequence:
    [answer] = toy.plain_greedy(target, [prompt], LENGTH)
    return TrainingSequence((*prompt, *answer), len(prompt))


@pytest.fixture(scope="module")
def sequences(target) -> list[TrainingSequence]:
    draw = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, toy.VOCAB, (n,), generator=draw).tolist() for n in range(3, 9)]
    return [sequence_of(target, prompt) for prompt in prompts]


def trained(target, sequences, name: str, steps: int):
    """A drafter trained on the answers it will be measured on, and its losses."""
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target, BLOCK), head, seed=1, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    anchors = [np.arange(s.start, len(s.ids) - 1) for s in sequences]
    blocks = make_blocks(sequences, anchors, BLOCK)
    features = torch.cat(
        [
            target.features_of(torch.tensor([s.ids]), torch.ones(1, len(s.ids)), (0, 2))[0]
            for s in sequences
        ]
    )
    draw = torch.Generator().manual_seed(2)
    decay = OBJECTIVES[name].prefix_decay
    for _ in range(steps):
        visible = None
        if decay is not None:
            coins = torch.rand(len(blocks.anchors), generator=draw, dtype=torch.float64)
            visible = visible_prefix(coins, decay, BLOCK - 1)
        optimizer.zero_grad()
        loss = block_loss(model, blocks, features, head, OBJECTIVES[name], visible=visible)
        loss.total.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def places(target, sequences, tmp_path_factory) -> dict[str, str]:
    """Checkpoint directories of two drafters, neither always right nor always wrong."""
    root = tmp_path_factory.mktemp("drafters")
    found = {}
    for name, steps in (("uniform", 25), ("vp", 40)):
        checkpoint.save(root / name, trained(target, sequences, name, steps), {"name": name})
        found[name] = str(root / name)
    return found


def built(target, places: dict[str, str], settings: str = "", **options):
    text = f"uniform+d2sd:second={places['vp']}{settings}={places['uniform']}"
    if "resample" in settings:
        text = f"uniform+d2sd{settings}={places['uniform']}"
    return build_drafter(target, dataclasses.replace(DrafterOptions.parse(text), **options))


def noted(drafter: D2SDDrafter) -> tuple[list[Verdict], list[tuple[object, ...]]]:
    """Verdicts of a decode, and what the second drafter was asked and said."""
    verdicts: list[Verdict] = []
    asked: list[tuple[object, ...]] = []
    observe = drafter.observe

    def note(verdict, features):
        verdicts.append(verdict)
        observe(verdict, features)

    drafter.observe = note
    if drafter._second is not None:
        go_on = drafter._second.continuations

        def keep(prefix_ids, pending, chain, kept):
            said = go_on(prefix_ids, pending, chain, kept)
            asked.append((list(prefix_ids), pending, chain.clone(), kept.clone(), said))
            return said

        drafter._second.continuations = keep
    return verdicts, asked


@pytest.mark.parametrize("settings", ("", ":top_k=2", ":resample=on", ":second_block_size=9"))
def test_greedy_output_is_the_targets(target, sequences, places, settings) -> None:
    drafter = built(target, places, settings)
    verdicts, _ = noted(drafter)
    rounds = []
    for item in sequences:
        prompt, answer = list(item.ids[: item.start]), item.ids[item.start :]
        for limit in (LENGTH, 9):
            done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=limit)
            assert done.new_tokens == answer[:limit]
            rounds += [round_ for round_ in done.rounds if round_.nodes]
    longest = drafter.record["settings"]["second_block_size"] or BLOCK
    assert longest == (9 if "size" in settings else BLOCK)
    assert {item.accepted for item in rounds} >= set(range(BLOCK))
    assert (max(item.accepted for item in rounds) >= BLOCK) == (longest > BLOCK)
    assert all(item.nodes <= drafter.max_nodes for item in rounds)
    # Paths that leave the first chain, whose nodes come first, and go on.
    left = [v for v in verdicts if v.path != tuple(range(v.accepted))]
    assert len(left) >= 3
    assert settings or max(map(len, (v.path for v in left))) > 1


def test_branches_are_worth_a_round(target, sequences, places) -> None:
    """The target's passes fall where a trained second drafter goes on, and by more than chance."""
    passes = {}
    chain = build_drafter(target, DrafterOptions.parse(f"uniform={places['uniform']}"))
    methods_ = {
        "chain": chain,
        "resampled": built(target, places, ":resample=on"),
        "second": built(target, places),
    }
    for name, drafter in methods_.items():
        passes[name] = 0
        for item in sequences:
            prompt = list(item.ids[: item.start])
            done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=LENGTH)
            passes[name] += len(done.rounds)
    assert passes["second"] < passes["chain"]
    assert passes["second"] < passes["resampled"] <= passes["chain"]


def test_both_drafters_read_the_text_and_nothing_else(target, sequences, places) -> None:
    """Behind trees the second drafter says what it says behind the committed text, read anew."""
    drafter = built(target, places)
    verdicts, asked = noted(drafter)
    item = sequences[0]
    generate(
        target,
        drafter,
        list(item.ids[: item.start]),
        sampling=Sampling(),
        max_new_tokens=LENGTH,
    )
    assert any(v.path != tuple(range(v.accepted)) for v in verdicts)
    fresh = BlockDiffusionDrafter(drafter._second.model, target, BLOCK)
    for prefix, pending, chain, kept, said in asked:
        ids = torch.tensor(prefix)
        features = target.features_of(ids[None], torch.ones(1, len(ids)), (0, 2))[0]
        fresh.start(ids, features, Sampling())
        assert torch.equal(fresh.continuations(prefix, pending, chain, kept), said)


class TableSecond(TableDrafter):
    """The table's own best tokens behind what is kept: often right, where the first is not."""

    checkpoint = None

    def continuations(self, prefix_ids, pending, chain, kept):
        rows = []
        for count in kept.tolist():
            tokens = chain[:count].tolist()
            while len(tokens) < len(chain):
                context = (*prefix_ids[1:], pending, *tokens)
                tokens.append(int(test_verify.TARGET[context[-2:]].argmax()))
            rows.append(tokens)
        return torch.tensor(rows)


TABLES = {
    "second": lambda: D2SDDrafter(TableDrafter(), TableSecond(), 2, "cpu"),
    "resampled": lambda: put_over(TableDrafter(), "d2sd:resample=on:top_k=2"),
}


@pytest.mark.parametrize(
    ("name", "sampling"),
    [
        ("second", test_verify.PLAIN),
        ("second", test_verify.NUCLEUS),
        ("resampled", test_verify.PLAIN),
    ],
)
def test_sampled_output_has_the_targets_distribution(name, sampling) -> None:
    """The first three tokens of answers of the whole loop, their joint enumerated."""
    target, drafter = Table(), TABLES[name]()
    counts: Counter[tuple[int, ...]] = Counter()
    accepted: Counter[int] = Counter()
    for seed in range(2_000):
        seeded = dataclasses.replace(sampling, seed=seed)
        done = generate(target, drafter, [0], sampling=seeded, max_new_tokens=4)
        counts[done.new_tokens[:3]] += 1
        accepted[done.rounds[0].accepted] += 1
    assert test_verify.p_value(counts, sampling) > test_verify.THRESHOLD
    assert set(accepted) == {0, 1, 2}


# Settings, checkpoints and refusals


def test_what_was_used_is_told(target, places) -> None:
    drafter = built(target, places)
    assert (drafter.draft, drafter.block_size, drafter.feature_layers) == ("argmax", BLOCK, (0, 2))
    assert drafter.max_nodes == 5 + (5 + 4 + 3 + 2)
    assert drafter.checkpoint["training"] == {"name": "uniform"}
    assert drafter.checkpoint["second"]["training"] == {"name": "vp"}
    assert built(target, places, ":top_k=99").max_nodes == 5 + (5 + 4 + 3 + 2 + 1)
    shorter = built(target, places, block_size=4)
    assert (shorter.block_size, shorter._second.block_size) == (4, 4)


def test_the_vp_of_the_target_is_the_default(target, places, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))
    options = DrafterOptions.parse(f"uniform+d2sd={places['uniform']}")
    with pytest.raises(MissingCheckpoint, match=r"no vp drafter .* for target qwen3; run .* vp "):
        build_drafter(target, options)
    model = checkpoint.load(places["vp"], target).model
    checkpoint.save(checkpoint.user_directory("qwen3", "vp"), model, {"name": "found"})
    drafter = build_drafter(target, options)
    assert drafter.checkpoint["second"]["training"] == {"name": "found"}
    cascade = DrafterOptions.parse(f"uniform+d2sd:second=uniform={places['uniform']}")
    with pytest.raises(MissingCheckpoint, match="no uniform drafter"):
        build_drafter(target, cascade)


def test_the_drafter_that_is_missing_is_the_one_that_is_trained(monkeypatch) -> None:
    options = DrafterOptions.parse("uniform+d2sd")
    plan = SimpleNamespace(config=SimpleNamespace(train_if_missing=True))
    trained_names: list[str] = []

    def build(target, asked):
        assert asked == options
        if "vp" not in trained_names:
            raise MissingCheckpoint("no vp drafter", "vp")
        return "built"

    monkeypatch.setattr(methods, "build_drafter", build)
    monkeypatch.setattr(methods, "_train", lambda asked, plan: trained_names.append(asked.name))
    assert methods._build(options, plan, None) == "built"
    assert trained_names == ["vp"]
    monkeypatch.setattr(methods, "_train", lambda asked, plan: None)
    trained_names.clear()
    with pytest.raises(MissingCheckpoint, match="no vp drafter"):
        methods._build(options, plan, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ngram+d2sd", "policy d2sd chooses from a drafter's marginals, and ngram shows none"),
        ("uniform+d2sd:top_k=0=HERE", "top_k must be at least 1, not 0"),
        ("uniform+d2sd:topk=3=HERE", "has no setting 'topk'; did you mean top_k"),
        ("uniform+d2sd:second=vpp=HERE", "unknown drafter 'vpp'; did you mean vp"),
        ("uniform+d2sd:second=ngram=HERE", "ngram cannot continue a block; second of policy d2sd"),
        ("uniform+d2sd:second=./nowhere=HERE", "there is no drafter directory ./nowhere"),
        ("uniform+d2sd:resample=on:second=focal=HERE", "resample=on leaves no second drafter"),
        ("uniform+d2sd:resample=on:second_block_size=9=HERE", "resample=on leaves no second"),
        (
            "uniform+d2sd:second_block_size=5=HERE",
            "must be at least the first drafter's block size, 6",
        ),
        ("uniform+d2sd:second_block_size=-1=HERE", "second_block_size must be 0 or more, not -1"),
        ("uniform+d2sd:resample=yes=HERE", "resample must be on or off, not 'yes'"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(target, places, text, words) -> None:
    options = DrafterOptions.parse(text.replace("HERE", places["uniform"]))
    with pytest.raises(UserError, match=words):
        build_drafter(target, options)


def test_a_sampled_draft_is_refused(target, places) -> None:
    with pytest.raises(UserError, match="d2sd starts from the argmax chain and cannot sample it"):
        built(target, places, draft="sample")


def test_drafters_that_read_other_layers_are_refused(target, places, tmp_path) -> None:
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    config = dataclasses.replace(small_config(target, BLOCK), target_layer_ids=(0, 1))
    other = initial_model(config, head, seed=1, dtype=torch.float32)
    checkpoint.save(tmp_path / "other", other, {"name": "vp"})
    with pytest.raises(UserError, match=r"reads layers \(0, 1\) .* uniform reads \(0, 2\)"):
        built(target, {**places, "vp": str(tmp_path / "other")})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
def test_on_a_gpu_branches_are_those_of_the_cpu(target, sequences, places) -> None:
    """There the branches' attention is written out in tensors, and trees have a whole mask."""
    moved = toy.ToyTarget(toy.qwen3().model.cuda(), None, name="qwen3")
    drafter = built(moved, places)
    for item in sequences[:3]:
        prompt, answer = list(item.ids[: item.start]), item.ids[item.start :]
        done = generate(moved, drafter, prompt, sampling=Sampling(), max_new_tokens=LENGTH)
        expected = generate(
            target, built(target, places), prompt, sampling=Sampling(), max_new_tokens=LENGTH
        )
        assert done.new_tokens == answer
        assert done.rounds == expected.rounds
