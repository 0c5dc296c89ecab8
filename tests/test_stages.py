"""Stage times: the loop watched from its two sides, and what the parts predict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy
from run_directories import ENVIRONMENT, config, generation, write_run

from harness import metrics
from harness.clock import FakeClock
from harness.errors import UserError
from harness.sampling import Sampling
from harness.stage_clock import _contexts, stage_times
from harness.stages import Stages, StageTimes, part_costs, predicted_speedup, read_stages
from reports.render import leaderboard_text


def times(draft: float, verify: float, commit: float) -> StageTimes:
    return StageTimes(draft_s=(draft,) * 3, verify_s=(verify,) * 3, commit_s=(commit,) * 3)


class Slow:
    """Adds a fixed time to one verb of a target or drafter."""

    def __init__(self, inner: Any, clock: FakeClock, costs: dict[str, float]) -> None:
        self._inner, self._clock, self._costs = inner, clock, costs

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._costs:
            return value

        def call(*args: Any) -> Any:
            self._clock.advance(self._costs[name])
            return value(*args)

        return call


def test_each_part_gets_its_own_time() -> None:
    """Draft 1, verify 4, commit and observe 2 + 3: nothing is lost and nothing counted twice."""
    target, clock = toy.llama(), FakeClock()
    prompt, _ = toy.varied_prompt(target, 12)
    answer = toy.plain_greedy(target, [prompt], 40)[0]
    drafter = toy.Script(answer, 4, lambda place: place % 4)
    drafters: dict[str, Any] = {"script": Slow(drafter, clock, {"propose": 1.0, "observe": 3.0})}
    found = stage_times(
        Slow(target, clock, {"verify": 4.0, "commit": 2.0}),
        drafters,
        [prompt, prompt],
        Sampling(),
        clock,
    )["script"]
    assert len(found.draft_s) > 4
    assert set(found.draft_s) == {1.0}
    assert set(found.verify_s) == {4.0}
    assert set(found.commit_s) == {5.0}
    assert found.round_s == 10.0


class Between(Slow):
    """Takes time between its draft and the pass that verifies it, where the loop asks a size."""

    @property
    def max_nodes(self) -> int:
        self._clock.advance(7.0)
        return int(self._inner.max_nodes)


def test_what_lies_between_draft_and_verify_is_no_parts_but_counts() -> None:
    target, clock = toy.llama(), FakeClock()
    prompt, _ = toy.varied_prompt(target, 12)
    answer = toy.plain_greedy(target, [prompt], 40)[0]
    drafter: Any = Between(toy.Script(answer, 4, lambda place: 1), clock, {"propose": 1.0})
    slow: Any = Slow(target, clock, {"verify": 4.0, "commit": 2.0})
    found = stage_times(slow, {"script": drafter}, [prompt], Sampling(), clock)["script"]
    assert (set(found.draft_s), set(found.verify_s), set(found.commit_s)) == ({1.0}, {4.0}, {9.0})


def test_contexts_are_first_turns_nearest_to_the_length() -> None:
    """Later turns have a history that is not at hand; repeats say the same."""
    prompts = tuple(SimpleNamespace(prompt_id=str(n), turns=("a", "b")) for n in range(3))
    plan: Any = SimpleNamespace(tasks={"t": SimpleNamespace(prompts=prompts)})
    target: Any = SimpleNamespace(encode_chat=lambda messages: [ord(messages[0]["content"])] * 4)
    made = [
        dataclasses.replace(
            generation(task="t", prompt_id=str(n), turn=turn, accepted=[3] * rounds),
            num_prompt_tokens=4,
            repeat=repeat,
        )
        for n, rounds in ((0, 1), (1, 4), (2, 2))
        for turn, repeat in ((1, 0), (2, 0), (1, 1))
    ]
    found = _contexts(plan, target, made, 8)
    assert [len(ids) for ids in found] == [8, 8, 8]
    assert [ids[:4] for ids in found] == [[ord("a")] * 4] * 3
    assert _contexts(plan, target, made[1:3], 8) == []


def test_an_answer_of_one_round_times_nothing() -> None:
    target = toy.llama()
    prompt, answer = toy.varied_prompt(target, 12)
    target.stop_ids = frozenset(answer[:2])
    script = toy.Script(answer, 4, lambda place: 3)
    assert stage_times(target, {"script": script}, [prompt], Sampling(), FakeClock()) == {}


def test_methods_take_turns_and_one_that_fails_stops_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = toy.llama()
    prompt, _ = toy.varied_prompt(target, 12)
    answer = toy.plain_greedy(target, [prompt], 40)[0]
    asked: list[str] = []

    class Named(toy.Script):
        name = ""

        def start(self, *args: Any) -> None:
            asked.append(self.name)
            if self.name == "broken" and asked.count("broken") == 2:
                raise RuntimeError("it broke")
            super().start(*args)

    clock = FakeClock()
    scripts = {}
    for name in ("first", "second", "broken"):
        scripts[name] = Named(answer, 4, lambda place: place % 4)
        scripts[name].name = name
    found = stage_times(
        Slow(target, clock, {"verify": 4.0}), scripts, [prompt] * 6, Sampling(), clock
    )
    assert set(found) == {"first", "second"}
    assert "broken failed while its parts were timed: RuntimeError: it broke" in (
        capsys.readouterr().err
    )
    turns = [asked[i : i + 3] for i in range(0, 6, 3)]
    assert all(sorted(turn) == ["broken", "first", "second"] for turn in turns)
    assert asked.count("first") == asked.count("second") == 6


def test_prediction() -> None:
    assert predicted_speedup(3.0, times(1, 4, 1), times(0, 4, 0)) == pytest.approx(2.0)


def test_costs_of_a_token_by_hand() -> None:
    """τ doubles; the draft does too, the pass takes three times as long, the commit as long."""
    costs = part_costs(4.0, times(2, 12, 1), 2.0, times(1, 4, 1))
    shown = [(item.part, item.token_s, item.other_token_s, item.ratio) for item in costs]
    assert shown == [("verify", 3, 2, 1.5), ("draft", 0.5, 0.5, 1), ("commit", 0.25, 0.5, 0.5)]
    assert [item.added_s for item in costs] == [1, 0, -0.25]


def test_seconds_decide_which_part_costs_most_and_not_ratios() -> None:
    costs = part_costs(2.0, times(1, 6, 0.5), 2.0, times(0, 4, 0.1))
    assert [item.part for item in costs] == ["verify", "draft", "commit"]
    assert [item.ratio for item in costs] == [1.5, None, pytest.approx(5)]


@pytest.mark.parametrize(
    "fields",
    [
        {"draft_s": (), "verify_s": (), "commit_s": ()},
        {"draft_s": (1.0,), "verify_s": (1.0, 1.0), "commit_s": (1.0,)},
        {"draft_s": (-1.0,), "verify_s": (1.0,), "commit_s": (1.0,)},
        {"draft_s": (0.0,), "verify_s": (0.0,), "commit_s": (0.0,)},
    ],
)
def test_impossible_times_cannot_be_built(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError):
        StageTimes(**fields)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    stages = Stages(num_context_tokens=99, methods={"ar_loop": times(0, 4, 1)})
    path = tmp_path / "stages.json"
    assert read_stages(path) is None
    path.write_text(json.dumps(stages.to_json()))
    assert read_stages(path) == stages


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"methods": {"a": {"draft_s": [1]}}}'])
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "stages.json"
    path.write_text(text)
    with pytest.raises(UserError, match="delete it and report again"):
        read_stages(path)


def test_the_page_shows_predicted_beside_measured(tmp_path: Path) -> None:
    records = [
        generation(
            method=name, prompt_id=str(number), decode_s=seconds, accepted=accepted, depth=depth
        )
        for number in range(2)
        for name, seconds, accepted, depth in (
            ("ar_loop", 8.0, [0] * 8, 0),
            ("combined", 5.0, [1] * 4, 3),
        )
    ]
    path = write_run(tmp_path / "run", records, config(), ENVIRONMENT)
    assert "Where a round's time goes" not in leaderboard_text([path])
    stages = Stages(
        num_context_tokens=77,
        methods={"ar_loop": times(0, 1.0, 0), "combined": times(0.1, 1.0, 0.1)},
    )
    (path / "stages.json").write_text(json.dumps(stages.to_json()))
    section = leaderboard_text([path]).split("Where a round's time goes")[1]
    assert "77 tokens of context" in section
    row = next(line for line in section.splitlines() if line.startswith("| combined |"))
    own = [item for item in records if item.method == "combined"]
    assert metrics.seconds_per_round(own) == pytest.approx(1.25)
    # τ 2, a round costs 1.2 of ar_loop's: 2 / 1.2; measured 8 / 5; 1.25 s a round against 1.2 s.
    assert [cell.strip() for cell in row.split("|")[4:10]] == [
        "100.0",
        "1.20",
        "2.00",
        "1.67×",
        "1.60×",
        "50.0",
    ]
