"""Which recorded answers a study replays, as what, and with which features."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus import Corpus
from drafters.block_diffusion.data import TrainingSequence, make_blocks
from drafters.block_diffusion.draft_head import DraftHead
from drafters.block_diffusion.features import LiveFeatures
from drafters.block_diffusion.model import build_target_layer_ids
from drafters.block_diffusion.objectives import Objective
from drafters.block_diffusion.prompts import TrainingPrompts
from drafters.block_diffusion.replay import draft_behind, walk
from drafters.block_diffusion.replicas import Replicas
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import block_loss, initial_model
from drafters.block_diffusion.workbench import Workbench
from harness import registry
from harness.conversations import prompt_sha256
from harness.errors import UserError
from harness.records import Generation
from harness.shards import Place, Ring
from harness.study import Measure
from harness.study_answers import Answers, held_back_answers, replayed, run_answers
from harness.study_records import HELD_BACK
from harness.waste import slots_of
from reports.run import Run, load_run
from tests import toy
from tests.run_directories import DIGEST, config, generation, source, write_run
from tests.test_block_diffusion import small_config

TRAINED = 5
TRAINING = TrainConfig(num_features=1, features="none", block_size=TRAINED)
WEIGHTS = "0" * 64


class Talking(toy.ToyTarget):
    """A prompt is its letters."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        text = "|".join(message["content"] for message in messages)
        return [ord(letter) % toy.VOCAB for letter in text]


def talking(dtype: torch.dtype) -> Talking:
    target = Talking(toy.qwen3(dtype=dtype).model, None, name="talking")
    target.facts = {"model": "a model", "weights_sha256": WEIGHTS}
    return target


def sequence(prompt: Sequence[int], length: int, seed: int) -> TrainingSequence:
    """Any answer will do: what a drafter is held against is what is written."""
    draw = torch.Generator().manual_seed(seed)
    answer = torch.randint(0, 12, (length,), generator=draw).tolist()
    return TrainingSequence((*prompt, *answer), len(prompt))


A, B, C, D = ([k, 7, k, 9] for k in range(1, 5))
SEQUENCES = [
    sequence(A, 9, 0),
    sequence(A, 20, 1),  # held back from here on
    sequence(B, 20, 2),  # drawn
    sequence(C, 20, 3),  # drawn
    sequence(C, 14, 4),
    sequence(A, 20, 5),  # another answer to the first prompt
    sequence(D, 17, 6),
]


def bench_of(target: Talking, drawn: Sequence[int] = (2, 3)) -> Workbench:
    layers = build_target_layer_ids(target.num_layers, TRAINING.num_features)
    vocabulary = torch.arange(0, toy.VOCAB, 2)
    corpus = Corpus(
        sequences=SEQUENCES,
        train=[0],
        held_back=[1, 2, 3, 4, 5, 6],
        drawn=frozenset(drawn),
        features=LiveFeatures(
            [item.ids for item in SEQUENCES],
            lambda ids, mask: target.features_of(ids, mask, layers),
        ),
        expected=None,
        scale=torch.ones(len(layers) * target.hidden_size),
        vocabulary=vocabulary,
        coverage=0.5,
        digest="d",
        prompts=TrainingPrompts(rows=(), kind="own", name="prompts.jsonl", files=()),
    )
    head = SharedHead.of(target, torch.arange(toy.VOCAB))
    return Workbench(target, corpus, head, Replicas(Ring(Place(), "cpu"), target.device))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return bench_of(talking(torch.float32))


def features_of(bench: Workbench, item: TrainingSequence) -> torch.Tensor:
    layers = build_target_layer_ids(bench.target.num_layers, TRAINING.num_features)
    ids = torch.tensor([item.ids])
    return bench.target.features_of(ids, torch.ones_like(ids), layers)[0]


# Held-back prompts


def test_the_first_greedy_answer_to_each_held_back_prompt(bench: Workbench) -> None:
    found = held_back_answers(bench, TRAINING, Measure(held_back=10, max_new_tokens=40))
    assert found.sequences == (SEQUENCES[1], SEQUENCES[4], SEQUENCES[6])
    assert (found.task, found.max_new_tokens) == (HELD_BACK, 40)
    names, turns = zip(*found.names, strict=True)
    assert set(turns) == {1} and len(set(names)) == 3
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in names)
    fewer = held_back_answers(bench, TRAINING, Measure(held_back=2))
    assert fewer.sequences == found.first(2).sequences == (SEQUENCES[1], SEQUENCES[4])
    assert found.first(2).names == fewer.names == found.names[:2]


def test_drawn_answers_are_not_replayed() -> None:
    bench = bench_of(talking(torch.float32), drawn=range(1, 7))
    with pytest.raises(UserError, match=r"prompts\.jsonl holds no greedy response"):
        held_back_answers(bench, TRAINING, Measure())


def test_a_wide_targets_features_are_not_rounded(bench: Workbench) -> None:
    found = held_back_answers(bench, TRAINING, Measure())
    features = found.features([2, 0])
    expected = torch.cat([features_of(bench, SEQUENCES[row]) for row in (6, 1)])
    assert torch.equal(features, expected)
    assert not torch.equal(expected, expected.bfloat16().float())


def test_features_kept_for_training_serve_the_replay() -> None:
    bench = bench_of(talking(torch.bfloat16))
    found = held_back_answers(bench, TRAINING, Measure())
    assert torch.equal(found.features([2, 0]), bench.corpus.features.packed([6, 1]))


# Runs

RUN_TARGET = {
    "name": "talking",
    "model": "a model",
    "revision": None,
    "weights_sha256": WEIGHTS,
    "dtype": "float32",
    "attn": "sdpa",
    "device": "cpu",
}
TEXTS = {"p0": ("ABC", "DEF"), "p1": ("GHI",), "p2": ("JXK",), "p3": ("LMN",)}
"""Of both tasks of the toy plug-in."""


def answer(task: str, prompt_id: str, turn: int, ids: Sequence[int], **fields: Any) -> Generation:
    """What ``ar_loop`` said; no two answers have the same tokens."""
    given = (task, prompt_id, turn, fields.get("method", ""), fields.get("repeat", 0))
    tokens = hashlib.sha256(f"{given}".encode()).digest()[:4]
    facts = {"method": "ar_loop", "text": f"said {turn}", **fields}
    made = generation(
        accepted=[0] * 3,
        depth=0,
        task=task,
        prompt_id=prompt_id,
        turn=turn,
        source="samples",
        source_digest=WEIGHTS,
        prompt_sha256=facts.pop("prompt_sha256", prompt_sha256(ids)),
        **facts,
    )
    return dataclasses.replace(made, new_tokens=tuple(token % toy.VOCAB for token in tokens))


def prompts(target: Talking, prompt_id: str) -> list[list[int]]:
    """Ids of each turn; the second one follows what was said."""
    texts = TEXTS[prompt_id]
    first = {"role": "user", "content": texts[0]}
    said = [{"role": "assistant", "content": "said 1"}]
    rest = [[first, *said, {"role": "user", "content": text}] for text in texts[1:]]
    return [target.encode_chat(messages) for messages in ([first], *rest)]


def a_run(place: Path, records: Sequence[Generation], **changes: Any) -> Run:
    tasks = [
        {
            "task": task,
            "source": {**source("samples"), "location": "toy", "digest": WEIGHTS, "num_rows": 4},
            "prompt_ids": list(TEXTS),
        }
        for task in ("spelling", "counting")
    ]
    settings = {"limit": None, "max_new_tokens": 24, **changes}
    facts = config(target={**RUN_TARGET, **settings.pop("target", {})}, tasks=tasks, **settings)
    return load_run(write_run(place, records, facts))


@pytest.fixture
def measured(bench: Workbench, toy_plugin: Path) -> list[Generation]:
    """Everything ``ar_loop`` said, and what must not be taken for it."""
    registry.load_plugin(toy_plugin)
    target = bench.target
    assert isinstance(target, Talking)
    return [
        answer(task, prompt_id, turn, ids, **other)
        for task in ("spelling", "counting")
        for prompt_id in TEXTS
        for turn, ids in enumerate(prompts(target, prompt_id), start=1)
        for other in ({}, {"repeat": 1}, {"method": "combined"})
    ]


def test_a_runs_answers_by_task(
    bench: Workbench, measured: list[Generation], tmp_path: Path
) -> None:
    kept = [item for item in measured if (item.task, item.prompt_id) != ("spelling", "p1")]
    parts = run_answers(bench, TRAINING, Measure(max_new_tokens=40), a_run(tmp_path / "r", kept))
    assert [part.task for part in parts] == ["spelling", "counting"]
    assert [part.max_new_tokens for part in parts] == [24, 24]
    assert parts[0].names == (("p0", 1), ("p0", 2), ("p2", 1), ("p3", 1))
    assert parts[1].names == (("p0", 1), ("p0", 2), ("p1", 1), ("p2", 1), ("p3", 1))
    said = {
        (item.task, item.prompt_id, item.turn): item.new_tokens
        for item in kept
        if item.method == "ar_loop" and item.repeat == 0
    }
    for part in parts:
        for (prompt_id, turn), item in zip(part.names, part.sequences, strict=True):
            ids = prompts(bench.target, prompt_id)[turn - 1]
            assert item == TrainingSequence((*ids, *said[part.task, prompt_id, turn]), len(ids))
    rows = [features_of(bench, parts[0].sequences[place]) for place in (1, 0)]
    assert torch.equal(parts[0].features([1, 0]), torch.cat(rows))
    (less, _) = run_answers(bench, TRAINING, Measure(max_new_tokens=9), a_run(tmp_path / "s", kept))
    assert less.max_new_tokens == 9


def test_features_of_a_run_in_bfloat16_are_its_own(
    measured: list[Generation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    bench = bench_of(talking(torch.bfloat16))
    run = a_run(tmp_path / "r", measured, target={"dtype": "bfloat16"})
    (part, _) = run_answers(bench, TRAINING, Measure(), run)
    torch.testing.assert_close(part.features([2]), features_of(bench, part.sequences[2]))


@pytest.mark.parametrize("name", ["model", "revision", "weights_sha256", "dtype"])
def test_a_run_of_another_target_is_refused(
    bench: Workbench, measured: list[Generation], tmp_path: Path, name: str
) -> None:
    run = a_run(tmp_path / "r", measured, target={name: "another"})
    with pytest.raises(UserError, match=f"whose {name} was another, and the study's"):
        run_answers(bench, TRAINING, Measure(), run)


def test_answers_that_cannot_be_replayed_are_refused(
    bench: Workbench, measured: list[Generation], tmp_path: Path
) -> None:
    others = [item for item in measured if item.method != "ar_loop" or item.repeat]
    with pytest.raises(UserError, match="holds no answers of ar_loop"):
        run_answers(bench, TRAINING, Measure(), a_run(tmp_path / "r", others))
    changed = [dataclasses.replace(item, prompt_sha256=DIGEST) for item in measured]
    with pytest.raises(UserError, match="read prompt p0 of spelling as other tokens"):
        run_answers(bench, TRAINING, Measure(), a_run(tmp_path / "s", changed))


# Replay


@pytest.fixture(scope="module")
def model(bench: Workbench) -> Any:
    """Trained on what it is replayed on, so that many drafts are right and many wrong."""
    shape = small_config(bench.target, TRAINED)
    layers = build_target_layer_ids(bench.target.num_layers, TRAINING.num_features)
    shape = dataclasses.replace(shape, target_layer_ids=layers)
    model = initial_model(shape, bench.head, seed=1, dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    anchors = [np.arange(item.start, len(item.ids) - 1) for item in SEQUENCES]
    blocks = make_blocks(SEQUENCES, anchors, TRAINED)
    features = torch.cat([features_of(bench, item) for item in SEQUENCES])
    for _ in range(40):
        optimizer.zero_grad()
        block_loss(model, blocks, features, bench.head, Objective()).total.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def held_back(bench: Workbench) -> Answers:
    return held_back_answers(bench, TRAINING, Measure(max_new_tokens=18))


@pytest.mark.parametrize("horizon", [3, TRAINED])
@pytest.mark.parametrize("draft_vocab", ["full", "trained"])
def test_an_answer_is_what_its_walk_says(
    bench: Workbench, model: Any, held_back: Answers, horizon: int, draft_vocab: Any
) -> None:
    vocabulary = bench.corpus.vocabulary if draft_vocab == "trained" else None
    drafts = draft_behind(
        model,
        bench.target,
        DraftHead(bench.target, vocabulary),
        held_back.sequences,
        held_back.features,
        block_size=horizon,
        max_new_tokens=18,
    )
    measure = Measure(max_new_tokens=30, draft_vocab=draft_vocab)  # the answers' own limit holds
    found = replayed(model, bench, held_back, measure, horizon, rewards=True)
    assert [item.num_tokens for item in found] == [18, 14, 17]
    assert len({accepted for item in found for accepted in item.accepted}) > 1
    assert any(None in (item.rewards or ()) for item in found)
    for item, behind, (prompt_id, turn) in zip(found, drafts, held_back.names, strict=True):
        rounds = walk(behind)
        assert (item.task, item.prompt_id, item.turn) == (HELD_BACK, prompt_id, turn)
        assert item.accepted == tuple(round_.accepted for round_ in rounds)
        assert item.depths == tuple(round_.depth for round_ in rounds)
        assert item.slots == slots_of(rounds, behind.answer.tolist())
        rewards, at = [], 0
        for round_ in rounds:
            rewards.append(chain_reward(behind.log_q[at].tolist()))
            at += round_.committed
        assert item.rewards == pytest.approx(tuple(rewards), abs=1e-5)
        assert rewards[0] is not None
    plain = replayed(model, bench, held_back, measure, horizon, rewards=False)
    assert plain == [dataclasses.replace(item, rewards=None) for item in found]


def chain_reward(log_q: Sequence[float]) -> float | None:
    """Eq. 12 of arXiv 2606.11552, spelt out."""
    if any(math.isnan(value) for value in log_q):
        return None
    return sum(math.exp(sum(log_q[: k + 1])) for k in range(len(log_q))) / len(log_q)
