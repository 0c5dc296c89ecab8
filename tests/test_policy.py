"""Every policy over marginals: lossless, at home in loop and cache, refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import test_verify
import torch
import toy
from marginals import Beliefs, Table, TableDrafter, put_over, watched
from test_block_diffusion import small_config
from test_cli import TOY, refused
from tiny_model import write_model

from drafters.base import Marginals, Proposal
from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.drafter import BlockDiffusionDrafter
from drafters.block_diffusion.model import BlockDiffusionModel
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from drafters.build import build_drafter
from drafters.options import DrafterOptions, PolicyOptions
from drafters.policy import records_of
from harness import decode, registry
from harness.cli import main
from harness.config import RunConfig
from harness.decode import generate
from harness.errors import UserError
from harness.plan import make_plan
from harness.records import Generation, read_records
from harness.runner import run
from harness.sampling import Sampling
from harness.verify import verify

POLICIES = ("ddtree:budget=14", "self_selection:chains=6")
LONGEST = 18
GREEDY = Sampling()


@pytest.fixture(scope="module", params=sorted(toy.TARGETS))
def scene(request: pytest.FixtureRequest) -> tuple[toy.ToyTarget, list[int], list[int]]:
    target = toy.TARGETS[request.param]()
    prompt, answer = toy.varied_prompt(target, LONGEST)
    return target, prompt, answer


def is_first_sibling(proposal: Proposal, node: int) -> bool:
    return proposal.parents.index(proposal.parents[node]) == node


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_output_is_the_targets_and_rounds_say_what_was_offered(
    scene: tuple[toy.ToyTarget, list[int], list[int]], policy: str
) -> None:
    target, prompt, answer = scene
    accepted: Counter[int] = Counter()
    places: Counter[bool] = Counter()
    for block_size in (2, 4, 7):
        for last in (*range(block_size + 2), *[LONGEST - 1] * 4):
            beliefs = Beliefs(answer, block_size, seed=sum(accepted.values()))
            proposals: list[Proposal] = []
            drafter = watched(put_over(beliefs, policy), proposals)
            target.stop_ids = frozenset({answer[last]})
            done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=LONGEST)
            assert list(done.new_tokens) == answer[: last + 1]
            assert done.finish_reason == "stop"
            assert done.rounds is not None
            assert 1 + sum(item.committed for item in done.rounds) == len(done.new_tokens)
            offered = [item for item in done.rounds if item.nodes]
            assert [item.nodes for item in offered] == [len(x.parents) for x in proposals]
            assert [item.depth for item in offered] == [max(x.depths()) for x in proposals]
            for item, budget in zip(offered, beliefs.budgets, strict=True):
                assert item.depth <= min(budget, block_size - 1)
                assert item.nodes <= drafter.max_nodes
                accepted[item.accepted] += 1
            for proposal, verdict in zip(proposals, beliefs.verdicts, strict=False):
                places.update(is_first_sibling(proposal, node) for node in verdict.path)
    deep = sum(accepted[count] for count in range(3, 7))
    assert min(accepted[0], accepted[1], accepted[2], deep) >= 3, accepted
    assert min(places[True], places[False]) >= 10, places


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("attn", ("eager", "grouped"))
def test_with_whatever_attention_and_limit(policy: str, attn: str) -> None:
    target = toy.qwen3(attn=attn)
    prompt, _ = toy.varied_prompt(target, 12)
    [answer] = toy.plain_greedy(target, [prompt], 60)
    for limit in (1, 2, 3, 4, 5, 6, 60):
        beliefs = Beliefs(answer, 5, seed=limit)
        done = generate(
            target, put_over(beliefs, policy), prompt, sampling=GREEDY, max_new_tokens=limit
        )
        assert list(done.new_tokens) == answer[:limit]
        assert done.finish_reason == "length"


def joint(policy: str, sampling: Sampling, answers: int) -> Counter[Any]:
    """Counts of the first three tokens of answers that the whole loop writes."""
    target, drafter = Table(), put_over(TableDrafter(), policy)
    counts: Counter[Any] = Counter()
    for seed in range(answers):
        seeded = dataclasses.replace(sampling, seed=seed)
        done = generate(target, drafter, [0], sampling=seeded, max_new_tokens=4)
        counts[done.new_tokens[:3]] += 1
    return counts


SAMPLED = {
    "ddtree:budget=5": test_verify.NUCLEUS,
    "self_selection:chains=3": test_verify.PLAIN,
    "self_selection:chains=8:temperature=0.7": test_verify.NUCLEUS,
    "self_selection:chains=3:rule=select": test_verify.PLAIN,
}


@pytest.mark.parametrize("policy", SAMPLED)
def test_sampled_output_has_the_targets_distribution(policy: str) -> None:
    sampling = SAMPLED[policy]
    assert test_verify.p_value(joint(policy, sampling, 3_000), sampling) > test_verify.THRESHOLD


def test_a_rule_that_bends_the_distribution_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def coin(logits: torch.Tensor, proposal: Proposal, **how: Any) -> Any:
        rule = test_verify.coin_in_selection if proposal.parents else verify
        return rule(logits, proposal, **how)

    monkeypatch.setattr(decode, "verify", coin)
    counts = joint("self_selection:chains=8:rule=select", test_verify.PLAIN, 1_500)
    assert test_verify.p_value(counts, test_verify.PLAIN) < test_verify.THRESHOLD


def random_model(target: toy.ToyTarget) -> BlockDiffusionModel:
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    return initial_model(small_config(target), head, seed=1, dtype=torch.float32)


class Noting(BlockDiffusionDrafter):
    """Keeps what it was asked and said."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.said: list[tuple[list[int], int, int, torch.Tensor]] = []
        self.paths: list[tuple[int, ...]] = []

    def marginals(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Marginals:
        found = super().marginals(prefix_ids, pending, budget)
        self.said.append((list(prefix_ids), pending, budget, found.logits.clone()))
        return found

    def observe(self, verdict: Any, features: torch.Tensor | None) -> None:
        self.paths.append(verdict.path)
        super().observe(verdict, features)


@pytest.mark.parametrize("policy", POLICIES)
def test_behind_a_tree_the_drafter_believes_what_it_would_behind_the_text(policy: str) -> None:
    """Its context is made of the rows of the accepted nodes, wherever those stood in the pass."""
    target = toy.qwen3()
    drafter = Noting(random_model(target), target, 4)
    prompt, _ = toy.varied_prompt(target, LONGEST)
    [answer] = toy.plain_greedy(target, [prompt], 90)
    done = generate(target, put_over(drafter, policy), prompt, sampling=GREEDY, max_new_tokens=90)
    assert list(done.new_tokens) == answer
    assert any(path != tuple(range(len(path))) for path in drafter.paths)
    fresh = BlockDiffusionDrafter(drafter.model, target, 4)
    for prefix, pending, budget, logits in drafter.said:
        ids = torch.tensor([prefix])
        features = target.features_of(ids, torch.ones_like(ids), fresh.feature_layers)[0]
        fresh.start(ids[0], features, GREEDY)
        expected = fresh.marginals(prefix, pending, budget).logits
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_draft_vocabulary_is_kept_to(policy: str, tmp_path: Path) -> None:
    target = toy.qwen3()
    some = torch.arange(1, toy.VOCAB, 3)
    path = tmp_path / "part"
    checkpoint.save(path, random_model(target), {"name": "uniform"}, some)
    options = DrafterOptions.parse(f"uniform+{policy}={path}")
    prompt, answer = toy.varied_prompt(target, LONGEST)
    for draft_vocab, size in (("trained", len(some)), ("full", None)):
        drafter = build_drafter(target, dataclasses.replace(options, draft_vocab=draft_vocab))
        assert drafter.draft_vocab_size == size
        assert drafter.checkpoint["training"] == {"name": "uniform"}
        proposals: list[Proposal] = []
        done = generate(
            target, watched(drafter, proposals), prompt, sampling=GREEDY, max_new_tokens=LONGEST
        )
        assert list(done.new_tokens) == answer
        tokens = {token for item in proposals for token in item.tokens.tolist()}
        assert (tokens <= set(some.tolist())) == (draft_vocab == "trained")


@pytest.fixture
def plugins(toy_plugin: Path) -> tuple[Path, Path]:
    """The second one has the drafter ``believer``, which shows its marginals."""
    return toy_plugin, toy_plugin.parent / "my_marginals.py"


def flags(plugins: tuple[Path, Path], drafter: str, place: Path) -> list[str]:
    """Of a quick run on the toy target."""
    loaded = [text for path in plugins for text in ("--plugin", str(path))]
    return [*TOY, *loaded, "--drafter", drafter, "--output-dir", str(place)]


def test_a_run_from_the_command_line(
    plugins: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ("believer", "believer+ddtree:budget=6", "believer+self_selection@picked")
    assert main(["run", *flags(plugins, ",".join(methods), tmp_path)]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["num_failures"] == 0
    directory = Path(summary["run_dir"])
    answers: dict[tuple[str, int], set[tuple[int, ...]]] = {}
    taus: dict[str, list[int]] = {name: [] for name in (*methods, "ar_loop")}
    for record in read_records(directory / "records.jsonl"):
        assert isinstance(record, Generation) and record.rounds is not None
        answers.setdefault((record.prompt_id, record.turn), set()).add(record.new_tokens)
        taus[record.method] += [item.committed for item in record.rounds]
        if "ddtree" in record.method:
            assert all(item.nodes in (0, 6) for item in record.rounds)
    assert all(len(texts) == 1 for texts in answers.values())
    tau = {name: sum(counts) / len(counts) for name, counts in taus.items()}
    # A chain is wrong at depth 2; the tree has the right token there, too.
    assert tau["believer+ddtree:budget=6"] > tau["believer"] > tau["ar_loop"] == 1
    facts = {
        item["method"]: item
        for item in json.loads((directory / "config.json").read_text())["methods"]
    }
    assert facts[methods[1]]["draft"] == "argmax"
    assert facts[methods[2]]["draft"] == "sample"
    leaderboard = Path(summary["leaderboard_md"]).read_text(encoding="utf-8")
    assert all(name in leaderboard for name in methods)


@pytest.mark.parametrize("policy", ("ddtree:budget=6", "self_selection:chains=3"))
def test_exact_mode_refuses_the_trees(
    policy: str, plugins: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in plugins:
        registry.load_plugin(path)
    asked = RunConfig(
        drafter=(f"believer+{policy}",),
        target=str(write_model(tmp_path / "tiny")),
        tasks=("counting",),
        device="cpu",
        exact=True,
        max_new_tokens=12,
        output_dir=tmp_path,
    )
    with pytest.raises(UserError, match=rf"believer\+{policy}: a drafter proposed a tree"):
        run(make_plan(asked), ["run"])


@pytest.mark.parametrize(
    ("drafter", "message"),
    [
        ("ngram+ddtree", "policy ddtree chooses from a drafter's marginals, and ngram shows none"),
        (
            "believer+ddtree:budget=3+self_selection",
            "policy self_selection chooses from a drafter's marginals, and believer+ddtree shows",
        ),
        ("believer+ddtree:budget=0", "ddtree:budget=0: budget must be at least 1, not 0."),
        ("believer+ddtree:budget=many", "budget must be a whole number, not 'many'"),
        ("believer+ddtree:budgett=3", "has no setting 'budgett'; did you mean budget?"),
        ("believer+self_selection:chains=257", "chains must be from 1 to 256, not 257"),
        ("believer+self_selection:chains=0", "chains must be from 1 to 256, not 0"),
        ("believer+self_selection:rule=best", "rule must be multi_round or select, not 'best'"),
        ("believer+self_selection:temperature=0", "temperature must be above 0 and finite"),
        ("believer+self_selection:temperature=nan", "temperature must be above 0 and finite"),
        ("believer+ddtre", "unknown policy 'ddtre'; did you mean ddtree?"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    drafter: str,
    message: str,
    plugins: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refused(capsys, "run", *flags(plugins, drafter, tmp_path))


@pytest.mark.parametrize(("policy", "draft"), [("ddtree", "sample"), ("self_selection", "argmax")])
def test_a_draft_that_the_policy_does_not_make_is_refused(
    policy: str, draft: Literal["argmax", "sample"]
) -> None:
    options = DrafterOptions(name="inner", policies=(PolicyOptions(policy),), draft=draft)
    build = registry.resolve("policies", policy).load()
    with pytest.raises(UserError, match=f"^{policy} .*leave draft at None or"):
        build(Beliefs([], 2), None, options, options.policies[0])


def test_the_record_holds_every_setting_defaults_too() -> None:
    """Of each policy, innermost first; a length that follows from the drafter as well."""
    options = DrafterOptions.parse("believer+adl:rho=0.25+ddtree:budget=5")
    target = toy.qwen3()
    made: Any = Beliefs([], 7)
    for policy in options.policies:
        made = registry.resolve("policies", policy.name).load()(made, target, options, policy)
    assert records_of(made) == [
        {"policy": "adl", "settings": {"k_min": 4, "k_max": 6, "delta": 2, "rho": 0.25}},
        {"policy": "ddtree", "settings": {"budget": 5}},
    ]
    assert records_of(Beliefs([], 6)) == []
