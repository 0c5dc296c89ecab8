"""A small autoregressive draft model: lossless, and its cache never holds what was refused."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import toy
from scipy.stats import chisquare
from tiny_model import write_model
from transformers import LlamaConfig, LlamaForCausalLM

from drafters import draft_model
from drafters.base import Proposal
from drafters.draft_model import DEFAULT_BLOCK_SIZE, DraftModelDrafter, WholeModel, build
from drafters.options import DrafterOptions
from harness.decode import generate
from harness.errors import UserError
from harness.kv_cache import KVCache
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget

LONGEST = 24
PROMPT = [9, 4, 33, 17, 50]


def nearly(target: toy.ToyTarget, noise: float = 0.03) -> toy.ToyTarget:
    """The target with noise on its weights: a draft model that is often right, and often not."""
    model = copy.deepcopy(target.model)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=draw)
    return toy.ToyTarget(model, None, name="nearly")


def drafter_of(model: toy.ToyTarget, block_size: int = 4, **options: Any) -> DraftModelDrafter:
    return DraftModelDrafter(
        WholeModel(model, toy.VOCAB), torch.device("cpu"), block_size, **options
    )


class Checked(DraftModelDrafter):
    """Compares each draft with whole passes of the model, and the cache with a fresh one."""

    def __init__(self, model: toy.ToyTarget, block_size: int) -> None:
        super().__init__(WholeModel(model, toy.VOCAB), torch.device("cpu"), block_size)
        self.model = model
        self.rows: list[int] = []
        """Committed tokens that had no row when a round ended."""

    def propose(self, prefix_ids: Any, pending: int, budget: int) -> Proposal:
        proposal = super().propose(prefix_ids, pending, budget)
        depth = min(self.max_nodes, budget)
        expected = toy.plain_greedy(self.model, [[*prefix_ids, pending]], depth)[0]
        assert proposal.tokens.tolist() == expected
        self.before = [*prefix_ids, pending]
        return proposal

    def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
        super().observe(verdict, features)
        committed = [*self.before, *verdict.tokens]
        rows = self._cache.length
        self.rows.append(len(committed) - rows)
        fresh = KVCache(self.model.num_layers, rows)
        with torch.inference_mode():
            self.model.model(
                input_ids=torch.tensor([committed[:rows]]), past_key_values=fresh, use_cache=True
            )
        for own, its in zip(self._cache.layers, fresh.layers, strict=True):
            for name in ("keys", "values"):
                kept = getattr(own, name)[:, :, :rows]
                torch.testing.assert_close(kept, getattr(its, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_size", (2, 4, 8))
@pytest.mark.parametrize("name", sorted(toy.TARGETS))
def test_lossless_with_a_cache_of_the_committed_tokens(name: str, block_size: int) -> None:
    target = toy.TARGETS[name]()
    histogram: Counter[str] = Counter()
    unread: Counter[int] = Counter()
    for model in (nearly(target, 0.002), nearly(target), toy.TARGETS[name](seed=1)):
        for prompt in ([5], list(range(20))):
            answer = toy.plain_greedy(target, [prompt], LONGEST)[0]
            drafter = Checked(model, block_size)
            done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=LONGEST)
            assert list(done.new_tokens) == answer
            assert done.rounds is not None
            unread.update(drafter.rows)
            for item in done.rounds:
                if item.depth == block_size - 1:  # not cut by the limit
                    whole = item.accepted == item.depth
                    histogram["full" if whole else "some" if item.accepted else "none"] += 1
    # One token is unread behind a chain that was accepted whole, none behind any other.
    assert unread.keys() <= {0, 1}
    assert histogram["none"] > 2 and histogram["full"] > 2, histogram
    assert histogram["some"] > 2 or block_size == 2, histogram


@pytest.mark.parametrize("last", range(1, 9))
def test_a_stop_inside_a_block(last: int) -> None:
    target = toy.llama()
    prompt, answer = toy.varied_prompt(target, 12)
    target.stop_ids = frozenset({answer[last]})
    drafter = drafter_of(nearly(target), 5)
    done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=LONGEST)
    assert (list(done.new_tokens), done.finish_reason) == (answer[: last + 1], "stop")


@pytest.mark.parametrize("block_size", (2, 5))
def test_the_target_as_its_own_draft_model_accepts_everything(block_size: int) -> None:
    target = toy.llama()
    answer = toy.plain_greedy(target, [PROMPT], LONGEST)[0]
    drafter = drafter_of(target, block_size)
    done = generate(target, drafter, PROMPT, sampling=Sampling(), max_new_tokens=LONGEST)
    assert list(done.new_tokens) == answer
    assert done.rounds and all(item.accepted == item.depth for item in done.rounds)
    assert {item.depth for item in done.rounds[:-1]} == {block_size - 1}


def test_its_own_samples_are_all_accepted() -> None:
    """p and q are the same numbers: min(1, p/q) is 1."""
    target = toy.llama()
    sampling = Sampling(temperature=0.9, top_k=12, top_p=0.9, seed=3)
    drafter = drafter_of(target, 4, draft="sample")
    done = generate(target, drafter, PROMPT, sampling=sampling, max_new_tokens=LONGEST)
    assert done.rounds and all(item.accepted == item.depth for item in done.rounds)


def test_one_drafter_answers_many_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers are used again, and grow while tokens are in them."""
    monkeypatch.setattr(draft_model, "_GROWTH", 4)
    target = toy.llama()
    drafter = drafter_of(nearly(target))
    for prompt in (PROMPT, [8], [3, 1, 2]):
        answer = toy.plain_greedy(target, [prompt], LONGEST)[0]
        done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=LONGEST)
        assert list(done.new_tokens) == answer
    fresh = drafter_of(nearly(target))
    again = generate(target, fresh, [3, 1, 2], sampling=Sampling(), max_new_tokens=LONGEST)
    assert again.rounds == done.rounds


def test_a_shorter_context_than_the_targets() -> None:
    """Nothing is read, and nothing proposed, past what the draft model can read."""
    target = toy.llama()
    answer = toy.plain_greedy(target, [PROMPT], LONGEST)[0]
    drafter = drafter_of(target, 4)
    drafter._network.max_context = len(PROMPT) + 10
    done = generate(target, drafter, PROMPT, sampling=Sampling(), max_new_tokens=LONGEST)
    assert list(done.new_tokens) == answer
    assert done.rounds is not None
    # Rounds of 4 tokens from 5 + 0 rows: before 5, 9 and 13 tokens; the last has room for 2.
    assert [item.depth for item in done.rounds][:4] == [3, 3, 2, 0]
    assert not any(item.depth for item in done.rounds[4:])
    long = list(range(30))
    first = drafter.propose(long, 1, 5)
    assert len(first.parents) == 0


def test_a_chain_is_never_deeper_than_the_budget() -> None:
    drafter = drafter_of(toy.llama(), 6)
    for budget in (1, 3, 5, 9):
        drafter.start(torch.tensor(PROMPT), None, Sampling())
        assert len(drafter.propose(PROMPT, 7, budget).parents) == min(5, budget)


def test_a_prefix_that_shrank_is_an_error() -> None:
    drafter = drafter_of(toy.llama())
    drafter.start(torch.tensor(PROMPT), None, Sampling())
    drafter.propose(PROMPT, 7, 3)
    with pytest.raises(ValueError, match="cache has"):
        drafter.propose(PROMPT, 7, 3)


SAMPLED = Sampling(temperature=1.3, top_k=2)
DRAWS = 500


def expected_answers(target: toy.ToyTarget, length: int) -> dict[tuple[int, ...], float]:
    """Probability of every answer of ``length`` tokens, from whole passes."""
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer = {}
        for answer, chance in found.items():
            with torch.no_grad():
                ids = torch.tensor([[*PROMPT, *answer]])
                p = SAMPLED.probs(target.model(input_ids=ids).logits[0, -1])
            for token in p.nonzero()[:, 0].tolist():
                longer[*answer, token] = chance * p[token].item()
        found = longer
    return found


def p_value(drafter: DraftModelDrafter, target: toy.ToyTarget) -> tuple[float, Counter[int]]:
    """Chi-square of 4-token answers against the target's own, and how much was accepted."""
    expected = expected_answers(target, 4)
    seen: Counter[tuple[int, ...]] = Counter()
    accepted: Counter[int] = Counter()
    for seed in range(DRAWS):
        sampling = Sampling(SAMPLED.temperature, SAMPLED.top_p, SAMPLED.top_k, seed)
        done = generate(target, drafter, PROMPT, sampling=sampling, max_new_tokens=4)
        seen[done.new_tokens] += 1
        assert done.rounds is not None
        accepted.update(item.accepted for item in done.rounds if item.depth == 2)
    assert seen.keys() <= expected.keys()
    # Rare answers share a cell: a chi-square wants five expected in each.
    rare = {answer for answer, chance in expected.items() if chance * DRAWS < 5}
    cells = [(seen[a], expected[a]) for a in expected if a not in rare]
    cells.append((sum(seen[a] for a in rare), sum(expected[a] for a in rare)))
    cells = [cell for cell in cells if cell[1] > 0]
    assert len(cells) > 5
    total = sum(chance for _, chance in cells)
    result = chisquare([n for n, _ in cells], [DRAWS * chance / total for _, chance in cells])
    return float(result.pvalue), accepted


def test_sampled_answers_have_the_targets_distribution() -> None:
    target = toy.llama()
    value, accepted = p_value(drafter_of(nearly(target), 3, draft="sample"), target)
    assert value > 1e-3
    assert min(accepted[n] for n in (0, 1, 2)) > DRAWS // 50, accepted


def test_the_distribution_test_sees_a_wrong_q(monkeypatch: pytest.MonkeyPatch) -> None:
    target = toy.llama()
    drafter = drafter_of(nearly(target), 3, draft="sample")

    def uniform(q: torch.Tensor) -> torch.Tensor:
        return (q > 0).float() / (q > 0).sum()

    monkeypatch.setattr(drafter._network, "widen", uniform)
    assert p_value(drafter, target)[0] < 1e-3


@pytest.mark.parametrize("draft", ("argmax", "sample"))
def test_sampling_at_temperature_offers_q_only_where_it_drew(draft: Any) -> None:
    drafter = drafter_of(toy.llama(), 4, draft=draft)
    drafter.start(torch.tensor(PROMPT), None, Sampling(temperature=0.7, top_p=0.8))
    proposal = drafter.propose(PROMPT, 7, 5)
    if draft == "argmax":
        assert (proposal.rule, proposal.q) == ("match", None)
    else:
        assert proposal.rule == "rejection" and proposal.q is not None
        assert proposal.q.shape == (3, toy.VOCAB)
        torch.testing.assert_close(proposal.q.sum(1), torch.ones(3))
        assert bool((proposal.q.gather(1, proposal.tokens[:, None]) > 0).all())


@pytest.mark.parametrize("draft", ("argmax", "sample"))
def test_drafting_reads_nothing_back(draft: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft token goes into the next pass where it is; the host would have to wait for it."""
    drafter = drafter_of(toy.llama(), 5, draft=draft)
    temperature = 0.8 if draft == "sample" else 0.0
    drafter.start(torch.tensor(PROMPT), None, Sampling(temperature))
    drafter.propose(PROMPT, 7, 4)
    drafter.observe(Verdict((0, 1), (1, 2), 3), None)
    transfers = []
    for name in ("tolist", "item", "cpu", "numpy", "__int__", "__bool__", "__float__"):
        original = getattr(torch.Tensor, name)

        def counted(self: Any, *args: Any, original: Any = original, name: str = name) -> Any:
            transfers.append(name)
            return original(self, *args)

        monkeypatch.setattr(torch.Tensor, name, counted)
    drafter.propose([*PROMPT, 7, 1, 2], 3, 4)
    assert transfers == []


def with_rows(rows: int, seed: int = 1) -> toy.ToyTarget:
    """A model whose vocabulary is padded to ``rows``."""
    torch.manual_seed(seed)
    config = LlamaConfig(num_hidden_layers=2, **{**toy.SIZES, "vocab_size": rows})
    return toy.ToyTarget(LlamaForCausalLM(config).eval(), None, name=f"rows {rows}")


@pytest.mark.parametrize("rows", (toy.VOCAB - 24, toy.VOCAB + 64))
def test_heads_of_other_sizes(rows: int) -> None:
    """Of a larger head the target's rows are drafted; a smaller one has q 0 where it ends."""
    target = toy.llama()
    network = WholeModel(with_rows(rows), toy.VOCAB)
    answer = toy.plain_greedy(target, [PROMPT], LONGEST)[0]
    assert max(PROMPT) >= toy.VOCAB - 24  # the smaller embedding lacks it
    drafter = DraftModelDrafter(network, torch.device("cpu"), 4)
    done = generate(target, drafter, PROMPT, sampling=Sampling(), max_new_tokens=LONGEST)
    assert list(done.new_tokens) == answer
    sampled = DraftModelDrafter(network, torch.device("cpu"), 4, "sample")
    sampled.start(torch.tensor(PROMPT), None, Sampling(temperature=2.0))
    q = sampled.propose(PROMPT, 7, 3).q
    assert q is not None and q.shape == (3, toy.VOCAB)
    torch.testing.assert_close(q.sum(1), torch.ones(3))
    assert float(q[:, rows:].sum()) == 0


# From a directory, as ``--drafter draft_model=PATH`` is built


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TransformersTarget:
    directory = write_model(tmp_path_factory.mktemp("target") / "model")
    loaded = load_target(TargetOptions(name=str(directory), dtype="float32"))
    assert isinstance(loaded, TransformersTarget)
    return loaded


def options(argument: object, **others: Any) -> DrafterOptions:
    return DrafterOptions(name="draft_model", argument=str(argument), **others)


def test_built_from_a_directory(target: TransformersTarget, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "small", seed=1, hidden_size=16)
    drafter = build(target, options(directory))
    assert (drafter.block_size, drafter.max_nodes) == (DEFAULT_BLOCK_SIZE, DEFAULT_BLOCK_SIZE - 1)
    assert (drafter.draft, drafter.feature_layers) == ("argmax", ())
    assert build(target, options(directory, greedy=False)).draft == "sample"
    assert build(target, options(directory, block_size=3)).max_nodes == 2
    assert drafter.checkpoint is not None
    assert drafter.checkpoint["path"] == str(directory)
    assert len(drafter.checkpoint["weights_sha256"]) == 64
    prompt = target.encode_chat([{"role": "user", "content": "w1 w2 w3"}])
    ids = torch.tensor([prompt])
    expected = target.model.generate(ids, max_new_tokens=20, do_sample=False)[0, len(prompt) :]
    done = generate(target, drafter, prompt, sampling=Sampling(), max_new_tokens=20)
    assert list(done.new_tokens) == expected.tolist()


def refusal(target: TransformersTarget, wanted: DrafterOptions) -> str:
    with pytest.raises(UserError) as caught:
        build(target, wanted)
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_what_cannot_be_a_draft_model(target: TransformersTarget, tmp_path: Path) -> None:
    assert "draft_model=PATH" in refusal(target, DrafterOptions(name="draft_model"))
    assert "no directory" in refusal(target, options(tmp_path / "absent"))
    assert "unknown target 'nonsense'" in refusal(target, options("nonsense"))

    masked = tmp_path / "masked"
    masked.mkdir()
    (masked / "config.json").write_text(json.dumps({"model_type": "t5"}))
    assert "not a causal language model" in refusal(target, options(masked))

    small = write_model(tmp_path / "small", seed=1)
    assert "--block-size 1" in refusal(target, options(small, block_size=1))
    path = small / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"w1"', '"another"'), encoding="utf-8")
    assert "does not have the tokenizer" in refusal(target, options(small))
    (small / "model.safetensors").write_bytes(b"short")
    assert "damaged or cut short" in refusal(target, options(small))
