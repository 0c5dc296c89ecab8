"""The loop's accounts: what is recorded, what is timed, and what a drafter is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import toy

from drafters.base import Proposal
from drafters.none import NoDrafter
from harness import verify as rules
from harness.baselines import hf_generate
from harness.clock import FakeClock
from harness.decode import generate
from harness.errors import UserError
from harness.records import Round
from harness.sampling import Sampling
from harness.verify import Verdict
from targets.base import TargetOutput

GREEDY = Sampling()


@pytest.fixture(scope="module")
def scene() -> tuple[toy.ToyTarget, list[int], list[int]]:
    target = toy.llama()
    prompt, answer = toy.varied_prompt(target, 16)
    return target, prompt, answer


@pytest.fixture(autouse=True)
def no_stop_ids(scene: tuple[toy.ToyTarget, list[int], list[int]]) -> None:
    scene[0].stop_ids = frozenset()


def test_a_scripted_pattern_gives_exactly_these_rounds(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene
    target.stop_ids = frozenset({answer[11]})
    drafter = toy.Script(answer, 5, lambda turn: (0, 2, 4, 4)[turn])
    done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=16)
    wrong = [(token + 1) % toy.VOCAB for token in answer]
    assert done.rounds == (
        Round(depth=4, nodes=4, accepted=0, committed=1, draft_tokens=tuple(wrong[1:5])),
        Round(
            depth=4,
            nodes=4,
            accepted=2,
            committed=3,
            draft_tokens=(*answer[2:4], *wrong[4:6]),
        ),
        Round(depth=4, nodes=4, accepted=4, committed=5, draft_tokens=tuple(answer[5:9])),
        Round(depth=4, nodes=4, accepted=4, committed=2, draft_tokens=tuple(answer[10:14])),
    )
    assert list(done.new_tokens) == answer[:12]
    assert done.finish_reason == "stop"


def test_a_drafter_sees_its_prefix_its_budget_and_no_last_round(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene
    drafter = toy.Script(answer, 5, lambda turn: 5)
    done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=13)
    assert drafter.prefixes == [(*prompt, *answer[: 1 + 5 * turn]) for turn in range(3)]
    assert drafter.budgets == [11, 6, 1]
    assert [verdict.accepted for verdict in drafter.verdicts] == [4, 4]
    assert done.rounds is not None
    assert [item.committed for item in done.rounds] == [5, 5, 2]


def test_without_a_budget_nothing_is_asked(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene
    drafter = toy.Script(answer, 5, lambda turn: 0)
    done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=2)
    assert drafter.budgets == [] and drafter.verdicts == []
    assert done.rounds == (Round(depth=0, nodes=0, accepted=0, committed=1, draft_tokens=()),)


class Branching(toy.Script):
    """Two branches: a wrong one as deep as the right one, listed first."""

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        first, second = self.future(prefix_ids, budget)[:2]
        self.budgets.append(budget)
        tokens = [(first + 1) % toy.VOCAB, first, 7, second]
        return Proposal(torch.tensor(tokens), (-1, -1, 0, 1))


def test_a_tree_records_its_first_deepest_path(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene
    drafter = Branching(answer, 5, lambda turn: 0)
    done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=7)
    assert list(done.new_tokens) == answer[:7]
    assert done.rounds is not None
    first = done.rounds[0]
    assert (first.nodes, first.depth, first.accepted, first.committed) == (4, 2, 2, 3)
    assert first.draft_tokens == ((answer[1] + 1) % toy.VOCAB, 7)
    assert [verdict.path for verdict in drafter.verdicts] == [(1, 3)]


@pytest.mark.parametrize("kind", [toy.Script, Branching])
def test_a_drafter_is_shown_the_features_of_what_was_committed(
    scene: tuple[toy.ToyTarget, list[int], list[int]], kind: type[toy.Script]
) -> None:
    target, prompt, answer = scene
    seen: list[torch.Tensor] = []

    class Looking(kind):  # type: ignore[misc, valid-type]
        feature_layers = (0,)

        def start(
            self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
        ) -> None:
            super().start(prompt_ids, features, sampling)
            assert features is not None
            seen.append(features.clone())

        def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
            assert features is not None and features.shape[0] == 1 + verdict.accepted
            seen.append(features.clone())

    generate(target, Looking(answer, 5, lambda t: 2), prompt, sampling=GREEDY, max_new_tokens=10)
    shown = torch.cat(seen)
    ids = torch.tensor([[*prompt, *answer]])[:, : shown.shape[0]]
    expected = target.features_of(ids, torch.ones_like(ids), (0,))[0]
    assert shown.shape[0] == len(prompt) + 6
    assert torch.allclose(shown, expected, atol=1e-5)


class Reusing(toy.Script):
    """Writes every draft into the same buffer."""

    def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
        tokens = super().propose(prefix_ids, pending, budget).tokens
        self._buffer = getattr(self, "_buffer", torch.zeros(4, dtype=torch.int64))
        return Proposal.chain(self._buffer[: len(tokens)].copy_(tokens))


def test_a_reused_buffer_does_not_change_the_record(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene
    done = [
        generate(
            target, kind(answer, 5, lambda turn: 2), prompt, sampling=GREEDY, max_new_tokens=12
        ).rounds
        for kind in (toy.Script, Reusing)
    ]
    assert done[0] == done[1]


def test_all_work_is_in_prefill_or_decode(
    scene: tuple[toy.ToyTarget, list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, answer = scene
    clock = FakeClock()

    class Timed(toy.Script):
        def start(
            self, prompt_ids: torch.Tensor, features: torch.Tensor | None, sampling: Sampling
        ) -> None:
            clock.advance(100)
            super().start(prompt_ids, features, sampling)

        def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
            clock.advance(10)
            return super().propose(prefix_ids, pending, budget)

        def observe(self, verdict: Verdict, features: torch.Tensor | None) -> None:
            clock.advance(1)
            super().observe(verdict, features)

        def reset(self) -> None:
            clock.advance(1e9)

    prefill, verify = target.prefill, target.verify

    def timed_prefill(prompt_ids: torch.Tensor) -> TargetOutput:
        clock.advance(10_000)
        return prefill(prompt_ids)

    def timed_verify(pending: int, proposal: Proposal) -> TargetOutput:
        clock.advance(1_000)
        return verify(pending, proposal)

    monkeypatch.setattr(target, "prefill", timed_prefill)
    monkeypatch.setattr(target, "verify", timed_verify)
    drafter = Timed(answer, 5, lambda turn: 4)
    done = generate(target, drafter, prompt, sampling=GREEDY, max_new_tokens=13, clock=clock)
    assert done.rounds is not None and len(done.rounds) == 3
    assert done.prefill_s == 10_000
    # One start, three drafts and passes, and no observation after the last.
    assert done.decode_s == 100 + 3 * 10 + 3 * 1_000 + 2 * 1

    plain = generate(target, NoDrafter(), prompt, sampling=GREEDY, max_new_tokens=4, clock=clock)
    assert (plain.prefill_s, plain.decode_s) == (10_000, 3_000)


def test_generates_time_is_split_at_the_first_token(
    scene: tuple[toy.ToyTarget, list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, answer = scene
    clock = FakeClock()
    hook = target.model.register_forward_pre_hook(lambda module, inputs: clock.advance(7))
    try:
        done = hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=5, clock=clock)
    finally:
        hook.remove()
    assert list(done.new_tokens) == answer[:5]
    assert (done.prefill_s, done.decode_s) == (7, 4 * 7)
    assert done.peak_memory_bytes is None


def test_generate_forgets_the_models_generation_defaults(
    scene: tuple[toy.ToyTarget, list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, answer = scene
    config = target.model.generation_config
    monkeypatch.setattr(config, "repetition_penalty", 50.0)
    monkeypatch.setattr(config, "suppress_tokens", [answer[0]])
    done = hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=8)
    assert list(done.new_tokens) == answer[:8]
    assert target.model.generation_config is config


def test_a_seed_fixes_a_sampled_answer(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, _ = scene
    for method in (hf_generate, lambda *a, **k: generate(a[0], NoDrafter(), *a[1:], **k)):
        answers = [
            method(
                target,
                prompt,
                sampling=Sampling(temperature=2.0, seed=seed),
                max_new_tokens=12,
            ).new_tokens
            for seed in (1, 1, 2)
        ]
        assert answers[0] == answers[1] != answers[2]


def test_a_sampled_answer_leaves_torchs_own_generator_alone(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, _ = scene
    before = torch.get_rng_state()
    sampling = Sampling(temperature=1.0, seed=3)
    generate(target, NoDrafter(), prompt, sampling=sampling, max_new_tokens=4)
    hf_generate(target, prompt, sampling=sampling, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_loop_draws_its_first_token_from_the_targets_distribution(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, _ = scene
    sampling = Sampling(temperature=1.5, top_k=3, seed=0)
    target.start(32, 0, ())
    p = sampling.probs(target.prefill(torch.tensor(prompt)).logits[-1])
    draws = torch.zeros(toy.VOCAB)
    for seed in range(300):
        done = generate(
            target,
            NoDrafter(),
            prompt,
            sampling=Sampling(temperature=1.5, top_k=3, seed=seed),
            max_new_tokens=1,
        )
        draws[done.new_tokens[0]] += 1
    assert set(draws.nonzero()[:, 0].tolist()) <= set(p.nonzero()[:, 0].tolist())
    assert float((draws / 300 - p).abs().max()) < 0.1


def test_bad_calls_say_what_is_wrong(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, _ = scene
    for method in (hf_generate, lambda *a, **k: generate(a[0], NoDrafter(), *a[1:], **k)):
        with pytest.raises(ValueError, match="max_new_tokens"):
            method(target, prompt, sampling=GREEDY, max_new_tokens=0)
        with pytest.raises(ValueError, match="at least one token"):
            method(target, [], sampling=GREEDY, max_new_tokens=3)
        with pytest.raises(UserError, match="128 in all"):
            method(target, [1] * 128, sampling=GREEDY, max_new_tokens=3)


def test_a_drafter_that_breaks_its_word_is_stopped(
    scene: tuple[toy.ToyTarget, list[int], list[int]],
) -> None:
    target, prompt, answer = scene

    class Deep(toy.Script):
        def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
            return Proposal.chain(torch.zeros(budget + 1, dtype=torch.int64))

    resets = []

    class Wide(toy.Script):
        def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
            return Proposal(torch.arange(9), (-1,) * 9)

        def reset(self) -> None:
            resets.append(1)

    with pytest.raises(ValueError, match="5 tokens deep with a budget of 4"):
        generate(target, Deep(answer, 8, lambda t: 0), prompt, sampling=GREEDY, max_new_tokens=6)
    with pytest.raises(ValueError, match="9 nodes, but states max_nodes = 7"):
        generate(target, Wide(answer, 8, lambda t: 0), prompt, sampling=GREEDY, max_new_tokens=6)
    assert resets == [1]


def test_a_round_costs_one_transfer(
    scene: tuple[toy.ToyTarget, list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, answer = scene
    during: list[str] = []
    original = torch.Tensor.tolist

    def counted(self: torch.Tensor) -> object:
        during.append("tolist")
        return original(self)

    drafts = [Proposal.chain(torch.tensor(answer[1 + 5 * turn :][:4])) for turn in range(3)]

    class Ready(toy.Script):
        def propose(self, prefix_ids: Sequence[int], pending: int, budget: int) -> Proposal:
            if not self.budgets:
                monkeypatch.setattr(torch.Tensor, "tolist", counted)
            self.budgets.append(budget)
            return drafts[len(self.budgets) - 1]

    read = []
    inner = rules.verify

    def spy(*args: object, **kwargs: object) -> Verdict:
        verdict = inner(*args, **kwargs)  # type: ignore[arg-type]
        read.append(len(during))
        return verdict

    monkeypatch.setattr("harness.decode.verify", spy)
    generate(target, Ready(answer, 5, lambda t: 4), prompt, sampling=GREEDY, max_new_tokens=16)
    assert read == [1, 2, 3]


@pytest.mark.parametrize("rules", [{"top_p": 1e-6}, {"top_k": 1}])
def test_generate_samples_by_the_runs_rules(
    scene: tuple[toy.ToyTarget, list[int], list[int]], rules: dict[str, Any]
) -> None:
    """So hot that anything may be drawn, and bounded to the best token."""
    target, prompt, answer = scene
    hot = Sampling(temperature=50.0, seed=1)
    free = hf_generate(target, prompt, sampling=hot, max_new_tokens=12)
    assert list(free.new_tokens) != answer[:12]
    bound = dataclasses.replace(hot, **rules)
    done = hf_generate(target, prompt, sampling=bound, max_new_tokens=12)
    assert list(done.new_tokens) == answer[:12]
    cold = dataclasses.replace(hot, temperature=1e-3)
    done = hf_generate(target, prompt, sampling=cold, max_new_tokens=12)
    assert list(done.new_tokens) == answer[:12]


@pytest.mark.parametrize("attn", ["grouped", "sdpa", "eager"])
def test_generate_runs_the_librarys_attention_and_gives_ours_back(attn: str) -> None:
    target = toy.llama(attn=attn)
    used: set[str] = set()
    target.model.register_forward_pre_hook(lambda module, inputs: used.add(target.attn))
    hf_generate(target, [5, 6, 7], sampling=GREEDY, max_new_tokens=3)
    assert used == {"sdpa" if attn == "grouped" else attn}
    assert target.attn == attn


def test_weights_are_laid_out_before_generates_clock_starts(
    scene: tuple[toy.ToyTarget, list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    target, prompt, _ = scene
    clock = FakeClock()
    prepared: list[int] = []

    def prepare() -> None:
        prepared.append(1)
        clock.advance(1_000)

    monkeypatch.setattr(target, "prepare", prepare)
    done = hf_generate(target, prompt, sampling=GREEDY, max_new_tokens=5, clock=clock)
    assert prepared == [1] and (done.prefill_s, done.decode_s) == (0, 0)
