"""Plug-ins that cheat: what they are kept from, and what is noticed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_directories import generation

from harness import clock, metrics, registry
from harness.config import RunConfig
from harness.doubts import clock_doubt, doubts, memory_doubt, speed_doubt
from harness.foreign import foreign, modules_of
from harness.plan import make_plan
from harness.records import Generation, read_records
from harness.runner import run
from harness.stages import Stages, StageTimes
from reports.group import Comparison
from reports.leaderboard import notes
from reports.run import load_run


@pytest.fixture
def cheats(toy_plugin: Path) -> Path:
    registry.load_plugin(toy_plugin)
    registry.load_plugin(toy_plugin.parent / "my_cheats.py")
    return toy_plugin


def measure(output_dir: Path, drafter: str, **fields: Any) -> tuple[list[Generation], Any]:
    asked: dict[str, Any] = {
        "target": "toy",
        "tasks": ("counting",),
        "device": "cpu",
        "baseline": ("ar_loop",),
        "max_new_tokens": 12,
        "output_dir": output_dir,
        "drafter": (drafter,),
    }
    config = RunConfig(**{**asked, **fields})
    result = run(make_plan(config), ["run"])
    records = read_records(result.files.records)
    facts = json.loads(result.files.config.read_text(encoding="utf-8"))
    return [item for item in records if isinstance(item, Generation)], facts["methods"][1]


def of(answers: list[Generation], method: str) -> list[Generation]:
    return [item for item in answers if item.method == method]


def test_a_method_called_prepare_makes_no_oracle(cheats: Path, tmp_path: Path) -> None:
    _, facts = measure(tmp_path, "listener")
    assert facts["oracle"] is False and sys.modules["my_cheats"].HEARD == []


def test_a_declared_oracle_that_cannot_be_told_is_named(cheats: Path, tmp_path: Path) -> None:
    from harness.errors import UserError

    sys.modules["my_cheats"].Reader.oracle = True
    with pytest.raises(UserError, match="an oracle needs prepare"):
        measure(tmp_path, "reader")


def test_foreign_code_finds_no_answer_to_its_prompt(cheats: Path, tmp_path: Path) -> None:
    """In memory or on the disk: nobody has given one yet."""
    seen = sys.modules["my_cheats"]
    seen.RUNS.append(tmp_path)
    answers, _ = measure(tmp_path, "reader")
    assert len(of(answers, "reader")) == 5 and len(seen.READ) >= 5
    own = {item.new_tokens for item in of(answers, "ar_loop")}
    assert not own & set(seen.FOUND)


def test_a_clock_that_a_plug_in_slowed_is_noticed(
    cheats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, _ = measure(tmp_path, "slow_clock", limit=2)
    assert "a second one" in clock_doubt(of(answers, "slow_clock"))
    assert clock_doubt(of(answers, "ar_loop")) == ""
    assert "doubt    slow_clock: the clock of the run counted" in capsys.readouterr().err


def test_clocks_are_bound_before_any_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("perf_counter", "monotonic", "monotonic_ns", "perf_counter_ns", "time"):
        monkeypatch.setattr(time, name, lambda: 0)
    first = clock.WallClock().now(), clock.second_clock()
    sum(range(200_000))
    assert clock.WallClock().now() > first[0] and clock.second_clock() > first[1]


def test_what_was_remembered_is_gone_when_it_is_asked_again(cheats: Path, tmp_path: Path) -> None:
    """Of the warm-up, too: that was another text."""
    answers, facts = measure(tmp_path, "rememberer", repeats=3)
    assert facts["remembers"] is False
    assert metrics.tau(of(answers, "rememberer")) == 1.0


def test_memory_that_is_declared_is_kept_recorded_and_noticed(
    cheats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers, facts = measure(tmp_path, "declared", repeats=2)
    assert facts["remembers"] is True
    first, second = (
        metrics.tau([item for item in of(answers, "declared") if item.repeat == repeat])
        for repeat in range(2)
    )
    assert first == 1.0 < second
    assert "it seems to remember answers" in capsys.readouterr().err


def test_this_projects_code_is_not_foreign_and_a_layer_below_it_may_be(cheats: Path) -> None:
    from drafters.none import NoDrafter

    class Layer:
        inner: object = NoDrafter()

    Layer.__module__ = "drafters.policy"
    layer = Layer()
    assert foreign(*modules_of(layer)) is None
    layer.inner = sys.modules["my_cheats"].Listener(None, None)
    found = foreign(*modules_of(layer))
    assert found is not None and found["file"] == "my_cheats.py"
    assert foreign("no_such_module") == {"file": "no_such_module", "sha256": None}


def test_what_a_plug_in_builds_is_foreign_whosever_class_it_is(
    cheats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target of this project's class may have been built with parts of another's."""
    monkeypatch.setattr(sys.modules["my_counter"].ToyTarget, "__module__", "targets.base")
    for name in ("toy", "patched"):
        measure(tmp_path / name, "listener", target=name, limit=1)
        (path,) = (tmp_path / name).glob("*/config.json")
        target = json.loads(path.read_text(encoding="utf-8"))["target"]
        file = {"toy": "my_counter.py", "patched": "my_cheats.py"}[name]
        assert target["foreign"]["file"] == file
        said = [note for note in notes(Comparison.of([load_run(path.parent)])) if file in note]
        assert any(note.startswith(f"Target {name} is code from outside") for note in said)


def answered(**fields: Any) -> Generation:
    return generation(**{"accepted": [1] * 10, "depth": 1, "prefill_s": 0.0, **fields})


@pytest.mark.parametrize(
    ("elapsed_s", "doubted"),
    ((10.0, False), (11.0, False), (11.3, True), (9.2, False), (9.0, True), (None, False)),
)
def test_two_clocks_agree_within_a_tenth(elapsed_s: float | None, doubted: bool) -> None:
    assert bool(clock_doubt([answered(decode_s=10.0, elapsed_s=elapsed_s)])) is doubted


def test_a_speedup_above_what_tau_allows_is_doubted() -> None:
    loop = [generation(method="ar_loop", accepted=[0] * 20, depth=0, decode_s=20.0)]
    for decode_s, doubted in ((10.0, False), (8.1, False), (7.9, True)):  # τ is 2: at most 2.5×
        own = [answered(decode_s=decode_s)]
        assert bool(speed_doubt("combined", own, loop)) is doubted
    slow = StageTimes(draft_s=(1.0,), verify_s=(2.0,), commit_s=(0.0,))
    stages = Stages(
        num_context_tokens=9,
        methods={
            "ar_loop": StageTimes(draft_s=(0.0,), verify_s=(2.0,), commit_s=(0.0,)),
            "combined": slow,
        },
    )
    own = [answered(decode_s=9.0)]  # 2.2×, where a round makes 1.33× likely
    assert speed_doubt("combined", own, loop) == ""
    assert "make 1.33× likely" in speed_doubt("combined", own, loop, stages)


def test_only_greedy_repeats_say_something_of_memory() -> None:
    again = [answered(), answered(repeat=1, accepted=[3] * 5, depth=3, num_new_tokens=21)]
    assert "it seems to remember" in memory_doubt(again)
    assert memory_doubt([answered(), answered(repeat=1)]) == memory_doubt(again[:1]) == ""
    assert [method for method, _ in doubts(again, None, greedy=True)] == ["combined"]
    assert list(doubts(again, None, greedy=False)) == []
