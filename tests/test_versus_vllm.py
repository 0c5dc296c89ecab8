"""The comparison with vLLM, without vLLM: definitions by hand, and every way it can end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.model import DrafterConfig
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from drafters.none import build as build_none
from drafters.options import DrafterOptions
from harness.decode import Decoded, generate
from harness.errors import UserError
from harness.published import tau_uncut
from harness.sampling import Sampling
from targets.base import TargetOptions
from targets.load import load_transformers_target
from tests.bench import versus_vllm, vllm_side
from tests.bench.vllm_agreement import (
    Answer,
    agreement,
    drafted,
    drafts_alike,
    first_difference,
)
from tests.bench.vllm_request import Request, read_answer
from tests.run_directories import generation, rounds
from tests.tiny_model import write_model, write_tasks

DEPTH = 3
LIMIT = 12

accepted_lists = st.lists(st.integers(0, DEPTH), min_size=1, max_size=12)


def decoded(accepted: Sequence[int], depth: int = DEPTH, cut: int = 0) -> Decoded:
    made = rounds(accepted, depth, cut)
    length = 1 + sum(item.committed for item in made)
    return Decoded(
        new_tokens=tuple(range(length)),
        rounds=made,
        prefill_s=0.0,
        decode_s=0.0,
        finish_reason="length",
        peak_memory_bytes=None,
    )


def answer_of(accepted: Sequence[int], first_token: int = 0) -> Answer:
    """An answer that ends with its last draft."""
    committed = tuple(a + 1 for a in accepted)
    return Answer(
        new_tokens=tuple(range(first_token, first_token + 1 + sum(committed))),
        committed=committed,
        by_position=tuple(sum(a >= k for a in accepted) for k in range(1, DEPTH + 1)),
    )


# The definition


def test_drafts_by_hand() -> None:
    """Rounds begin at 1, 5, 6, 10; the third reaches 8 and is cut there, the fourth is not seen."""
    found = drafted(decoded([3, 0, 3, 1]), limit=8, depth=DEPTH)
    assert found.committed == (4, 1, 2)
    assert found.by_position == (2, 2, 2)
    assert found.new_tokens == tuple(range(8))


def test_a_round_that_begins_at_the_limit_is_none() -> None:
    found = drafted(decoded([3, 2, 1]), limit=8, depth=DEPTH)
    assert (found.committed, found.by_position) == ((4, 3), (2, 2, 1))


def test_a_stop_cuts_what_is_committed_and_not_what_is_accepted() -> None:
    found = drafted(decoded([1, 3], cut=2), limit=LIMIT, depth=DEPTH)
    assert (found.committed, found.by_position) == ((2, 2), (2, 1, 1))


def test_an_answer_that_the_prefill_ends_has_no_drafts() -> None:
    found = drafted(dataclasses.replace(decoded([]), new_tokens=(2,)), limit=8, depth=DEPTH)
    assert (found.drafts, found.by_position) == (0, (0, 0, 0))


def test_a_draft_cut_before_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="not 4 tokens deep"):
        drafted(decoded([1]), limit=8, depth=4)


@given(accepted_lists, st.integers(2, 20))
def test_accepted_length_is_tau_uncut_of_the_rounds_that_began(
    accepted: list[int], limit: int
) -> None:
    found = drafted(decoded(accepted), limit, DEPTH)
    begins = itertools.accumulate((a + 1 for a in accepted), initial=1)
    began = [a for a, begin in zip(accepted, begins, strict=False) if begin < limit]
    assert 1 + sum(found.by_position) / found.drafts == pytest.approx(
        tau_uncut([generation(accepted=began, depth=DEPTH)])
    )
    assert len(found.new_tokens) == min(limit, 1 + sum(a + 1 for a in accepted))


def test_counts_that_contradict_each_other_are_no_answer() -> None:
    for num_tokens, committed, by_position in (
        (6, (2, 3), (2, 0, 0)),  # three tokens from one accepted
        (4, (2, 1), (2, 2, 2)),  # the last draft would hold five
        (6, (2, 4), (2, 1, 1)),  # one token too many
    ):
        with pytest.raises(ValueError, match=r"not fit|are not"):
            Answer(
                new_tokens=tuple(range(num_tokens)), committed=committed, by_position=by_position
            )


# Agreement


def test_two_engines_alike_agree_without_doubt() -> None:
    side = [answer_of(item) for item in ([1, 0, 2], [3, 3], [0], [1, 1], [2])]
    found = agreement(side, side)
    assert found.ours[0].value == pytest.approx(1 + 13 / 9)
    assert [item.value for item in found.ours[1:]] == pytest.approx([7 / 9, 4 / 9, 2 / 9])
    assert found.ours == found.theirs and found.holds
    assert (found.ratio.value, found.ratio.low, found.ratio.high) == (1, 1, 1)
    assert all((item.low, item.high) == (0, 0) for item in found.differences)


def test_a_gap_on_every_prompt_is_no_agreement() -> None:
    ours = [answer_of([1, 1, 1, 1])] * 6
    theirs = [answer_of([1, 1, 1, 0])] * 6
    found = agreement(ours, theirs)
    assert found.ratio.value == pytest.approx(1.75 / 2) and found.ratio.high < 1
    assert not found.holds
    assert found.differences[1].value == pytest.approx(-0.25)


def test_five_percent_apart_is_near_enough_and_more_is_not() -> None:
    ours = [answer_of([1] * 20)] * 6  # accepted length 2
    for fewer, holds in ((1, True), (3, False)):  # 1.95 and 1.85
        theirs = [answer_of([1] * (20 - fewer) + [0] * fewer)] * 6
        assert agreement(ours, theirs).holds is holds


def test_a_gap_that_prompts_do_not_bear_out_is_not_held_against_it() -> None:
    ours = [answer_of(item) for item in ([3, 3], [0, 0], [3], [0], [1], [0])]
    theirs = [answer_of(item) for item in ([0, 0], [3, 3], [0], [3], [0], [2])]
    found = agreement(ours, theirs)
    assert abs(found.ratio.value - 1) > 0.05 and found.ratio.low < 1 < found.ratio.high
    assert found.holds


def test_other_prompts_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="2 answers against 1"):
        agreement([answer_of([1])] * 2, [answer_of([1])])


# Texts


def parted(answer: Answer, place: int) -> Answer:
    """The same up to ``place``."""
    tokens = answer.new_tokens
    other = (token + 100 for token in tokens[place:])
    return dataclasses.replace(answer, new_tokens=(*tokens[:place], *other))


def test_drafts_of_one_text_are_compared_where_both_begin_one() -> None:
    """Ours begin at 1, 3, 4, 7; theirs at 1, 2, 4, 7: of 1, 4 and 7 the first went less far."""
    ours, theirs = answer_of([1, 0, 2, 0]), answer_of([0, 1, 2, 0])
    assert first_difference(ours, theirs) is None
    assert drafts_alike(ours, theirs) == (3, 2)


@pytest.mark.parametrize(
    ("place", "expected"), [(1, (0, 0)), (4, (1, 1)), (5, (2, 2)), (6, (2, 1))]
)
def test_behind_the_parting_nothing_is_compared(place: int, expected: tuple[int, int]) -> None:
    """Drafts at 1, which go to 4, and at 4, which go to 7 and 5."""
    ours = answer_of([2, 2, 0])
    theirs = parted(answer_of([2, 0, 2]), place)
    assert first_difference(ours, theirs) == place
    assert drafts_alike(ours, theirs) == expected


# vLLM's side


class Engine:
    """Takes the steps it is told to, and counts as vLLM does: cumulatively."""

    def __init__(self, accepted: list[list[int]], depth: int = DEPTH) -> None:
        self.accepted, self.depth = accepted, depth
        self.totals = {name: 0 for name in vllm_side.COUNTERS.values()}
        self.by_position = [0] * depth
        self.tokens: list[int] | None = None
        self.asked: list[Any] = []

    def get_metrics(self) -> list[Any]:
        counters = [SimpleNamespace(name=name, value=v) for name, v in self.totals.items()]
        vector = SimpleNamespace(name=vllm_side.BY_POSITION, values=list(self.by_position))
        return [SimpleNamespace(name="vllm:other", value=7), *counters, vector]

    def add_request(self, name: str, prompt: Any, rules: Any) -> None:
        self.asked.append((name, prompt, rules))
        self.tokens, self.left = [], list(self.accepted[len(self.asked) - 1])

    def has_unfinished_requests(self) -> bool:
        return self.tokens is not None

    def step(self) -> list[Any]:
        assert self.tokens is not None
        if not self.tokens:
            self.tokens.append(0)
            return [self.output()]
        accepted = self.left.pop(0)
        for name, grown in zip(self.totals, (1, self.depth, accepted), strict=True):
            self.totals[name] += grown
        for place in range(accepted):
            self.by_position[place] += 1
        self.tokens += range(len(self.tokens), len(self.tokens) + accepted + 1)
        output = self.output()
        if not self.left:
            self.tokens = None
        return [output]

    def output(self) -> Any:
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(self.tokens or ()))])


def request_of(prompts: Sequence[Sequence[int]] = ((1, 2), (3,)), limit: int = 6) -> Request:
    return Request(
        target="target",
        drafter="drafter",
        dtype="bfloat16",
        num_speculative_tokens=DEPTH,
        max_new_tokens=limit,
        max_model_len=99,
        stop_ids=(2,),
        prompts=tuple(map(tuple, prompts)),
    )


def test_counters_are_taken_apart_by_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script with a module in vLLM's place: what it asks for, and what comes back of it."""
    engine = Engine([[2, 1], [0, 3]])
    asked: dict[str, Any] = {}

    def load(**arguments: Any) -> Any:
        asked["engine"] = arguments
        return SimpleNamespace(llm_engine=engine)

    def sampling(**arguments: Any) -> Any:
        asked["sampling"] = arguments
        return arguments

    vllm = SimpleNamespace(LLM=load, SamplingParams=sampling, __version__="0")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr(vllm_side, "ENVIRONMENT", {})
    request = request_of()
    (tmp_path / "request").write_text(json.dumps(dataclasses.asdict(request)))
    vllm_side.main(tmp_path / "request", tmp_path / "answers")

    assert asked["engine"]["speculative_config"] == {
        "method": "dflash",
        "model": "drafter",
        "num_speculative_tokens": DEPTH,
    }
    assert asked["engine"]["max_model_len"] == 99 and not asked["engine"]["disable_log_stats"]
    assert asked["sampling"]["temperature"] == 0 and asked["sampling"]["stop_token_ids"] == [2]
    assert [prompt for _, prompt, _ in engine.asked] == [
        {"prompt_token_ids": [1, 2]},
        {"prompt_token_ids": [3]},
    ]
    body = json.loads((tmp_path / "answers").read_text())
    read = [read_answer(item, request) for item in body["answers"]]
    assert read == [answer_of([2, 1]), answer_of([0, 3])]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"drafts": 1}, "did not draft 3 tokens in every round"),
        ({"draft_tokens": 5}, "did not draft 3 tokens in every round"),
        ({"accepted": 4}, "did not draft 3 tokens in every round"),
        ({"by_position": [2, 1]}, "did not draft 3 tokens in every round"),
        ({"new_tokens": [0, 1, 2, 3]}, "is no stop token"),
        ({"steps": [1, 3, 3]}, "contradict its answer"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, Any], sentence: str) -> None:
    engine = Engine([[2, 1]])
    body = vllm_side.answer(engine, "0", [1], None)
    assert read_answer(body, request_of()) == answer_of([2, 1])
    with pytest.raises(UserError, match=sentence):
        read_answer({**body, **change}, request_of())


# From the command line, with a script in the place of vLLM's Python


@dataclasses.dataclass
class Site:
    """A tiny target, an untrained drafter for it, prompts, and the target's answers to them."""

    root: Path
    arguments: tuple[str, ...]
    ours: list[Answer]
    greedy: list[tuple[int, ...]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("versus_vllm")
    write_model(root / "target", max_position_embeddings=512)
    write_tasks(root / "data")
    options = versus_vllm.Options(
        vllm_python=Path(sys.executable),
        target=str(root / "target"),
        drafter=f"uniform={root / 'drafter'}",
        dtype="float32",
        data_dir=root / "data",
        limit=5,
        max_new_tokens=LIMIT,
    )
    target = load_transformers_target(TargetOptions(name=options.target, dtype="float32"), "a test")
    config = DrafterConfig(
        hidden_size=target.hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rms_norm_eps=1e-6,
        vocab_size=target.vocab_size,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        block_size=DEPTH + 1,
        mask_token_id=5,
        target_layer_ids=(0, 2),
        num_target_layers=target.num_layers,
    )
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    checkpoint.save(root / "drafter", initial_model(config, head, seed=1, dtype=torch.float32), {})
    setup = versus_vllm.set_up(options)
    none = build_none(setup.target, DrafterOptions(name="none"))
    greedy = [
        generate(setup.target, none, ids, sampling=Sampling(), max_new_tokens=LIMIT).new_tokens
        for ids in setup.request.prompts
    ]
    flags = ("target", "drafter", "dtype", "data_dir", "limit", "max_new_tokens")
    arguments = [
        text for name in flags for text in (f"--{name.replace('_', '-')}", str(vars(options)[name]))
    ]
    return Site(root, tuple(arguments), versus_vllm.answers(setup), greedy)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """``run(bodies, *arguments)``: status, stdout, stderr, where vLLM answers ``bodies``."""
    monkeypatch.chdir(tmp_path)

    def call(bodies: list[dict[str, Any]] | None, *arguments: str) -> tuple[int, str, str]:
        python, canned = tmp_path / "python", tmp_path / "canned.json"
        canned.write_text(
            json.dumps({"versions": {"vllm": "0.0"}, "num_threads": 1, "answers": bodies})
        )
        # Called as: python -P SCRIPT REQUEST ANSWERS
        end = "exit 3" if bodies is None else f'cp "{canned}" "$4"'
        python.write_text(f'#!/bin/sh\n[ -f "$2" ] && [ -f "$3" ] || exit 9\n{end}\n')
        python.chmod(0o755)
        flags = ("--vllm-python", str(python), *site.arguments, *arguments)
        monkeypatch.setattr(sys, "argv", ["versus_vllm", *flags])
        status = versus_vllm.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def body_of(new_tokens: Sequence[int], accepted: Sequence[int]) -> dict[str, Any]:
    """What ``vllm_side`` writes about drafts of which so many tokens were accepted."""
    steps = [1]
    for count in accepted:
        steps.append(min(count + 1, len(new_tokens) - sum(steps)))
    return {
        "new_tokens": list(new_tokens),
        "steps": steps,
        "by_position": [sum(a >= k for a in accepted) for k in range(1, DEPTH + 1)],
        "drafts": len(accepted),
        "draft_tokens": len(accepted) * DEPTH,
        "accepted": sum(accepted),
    }


def like_ours(site: Site) -> list[dict[str, Any]]:
    bodies = []
    for answer, new_tokens in zip(site.ours, site.greedy, strict=True):
        accepted = [committed - 1 for committed in answer.committed[:-1]]
        bodies.append(body_of(new_tokens, [*accepted, sum(answer.by_position) - sum(accepted)]))
    return bodies


def test_an_engine_that_does_the_same_agrees(site: Site, run: Run) -> None:
    status, out, err = run(like_ours(site))
    summary = json.loads(out.splitlines()[-1])
    assert (status, summary["holds"], summary["ratio"]["value"]) == (0, True, 1)
    assert (summary["num_identical"], summary["gaps"], summary["source"]) == (5, [], "directory")
    assert summary["drafts_alike"] == summary["drafts_shared"] == summary["num_drafts"] > 0
    assert "texts identical: 5 of 5" in out and "5 of 5 prompts" in err
    kept = json.loads(Path("build/vllm_check/request.json").read_text())
    assert kept["num_speculative_tokens"] == DEPTH and len(kept["prompts"]) == 5
    assert kept["target"] == str(site.root / "target")
    assert kept["drafter"] == str(site.root / "drafter")


def test_an_engine_that_accepts_everything_does_not(site: Site, run: Run) -> None:
    """The drafter is untrained: it cannot be as good as that."""
    bodies = [
        body_of(new_tokens, [DEPTH] * -(-(len(new_tokens) - 1) // (DEPTH + 1)))
        for new_tokens in site.greedy
    ]
    status, out, _ = run(bodies)
    summary = json.loads(out.splitlines()[-1])
    assert (status, summary["holds"]) == (1, False)
    assert summary["theirs"][0]["value"] == DEPTH + 1 and summary["num_identical"] == 5


def test_other_texts_are_measured_where_they_part(site: Site, run: Run) -> None:
    bodies = like_ours(site)
    longest = max(bodies, key=lambda body: len(body["new_tokens"]))
    assert len(longest["new_tokens"]) == LIMIT
    longest["new_tokens"][4] = 3  # <user>, which the target would not say
    status, out, _ = run(bodies)
    summary = json.loads(out.splitlines()[-1])
    assert (status, summary["num_identical"]) == (0, 4)
    assert [at for at in summary["first_differences"] if at is not None] == [4]
    assert summary["gaps"][0] > 0 and "where they part" in out


def test_bad_input_is_a_sentence(run: Run, site: Site) -> None:
    for bodies, arguments, sentence in (
        (None, (), "vLLM gave up (exit status 3); read why in build/vllm_check/vllm.log."),
        ([], ("--vllm-python", "nowhere/python"), "run `make vllm-check`, which installs vLLM"),
        ([], ("--limit", "4"), "4 prompts are too few for an interval"),
        ([], ("--max-new-tokens", "500"), "give a smaller --max-new-tokens"),
        ([], ("--drafter", "ngram"), "ngram is no drafter in the DFlash layout"),
        (like_ours(site)[:4], (), "vLLM answered 4 of 5 prompts"),
    ):
        status, out, err = run(bodies, *arguments)
        assert (status, out) == (2, "")
        assert sentence in err and err.splitlines()[-1].startswith("error: ")
