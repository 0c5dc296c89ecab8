from __future__ import annotations

import copy
import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from run_directories import (
    BASELINES,
    ENVIRONMENT,
    asked,
    config,
    drafter,
    failure,
    generation,
    simulated_records,
    source,
    write_run,
)
from test_lead import refute, timed_run

from harness.cli import main
from harness.errors import UserError
from harness.records import Failure, Generation, Record
from harness.score_records import Scored
from reports.compare import Change, RunComparison, compare, slower_methods
from reports.compare_page import page, summary
from reports.run import Run
from reports.tables import OVERALL

SECONDS = {"ar_loop": 0.05, "hf_generate": 0.052, "combined": 0.06, "ngram": 0.051}
PROMPTS = [str(i) for i in range(12)]


def settings(**fields: Any) -> dict[str, Any]:
    tasks = [
        {"task": name, "source": source(), "prompt_ids": PROMPTS} for name in ("gsm8k", "mbpp")
    ]
    methods = [*BASELINES, drafter("combined"), drafter("ngram")]
    return config(methods=methods, tasks=tasks, **fields)


def records() -> list[Generation]:
    made = simulated_records(settings(), {"combined": 0.7, "ngram": 0.2}, SECONDS)
    return [item for item in made if isinstance(item, Generation)]


RECORDS = records()


def scaled(factors: dict[str, float], noise: float = 0.02, seed: int = 1) -> list[Generation]:
    """The same answers with other times: a factor a method, and noise."""
    draw = random.Random(seed)
    return [
        dataclasses.replace(
            item,
            decode_s=item.decode_s * factors.get(item.method, 1.0) * draw.gauss(1, noise),
        )
        for item in RECORDS
    ]


def run_of(
    made: Sequence[Record], facts: dict[str, Any], environment: dict[str, Any] | None = None
) -> Run:
    return Run(
        config=facts,
        environment=environment or ENVIRONMENT,
        generations=tuple(item for item in made if isinstance(item, Generation)),
        failures=tuple(item for item in made if isinstance(item, Failure)),
        torn=False,
        stages=None,
        audits={},
        draws={},
        scored=Scored(None, {}),
    )


def compared(
    first: Sequence[Record],
    second: Sequence[Record],
    *,
    second_settings: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    allow_different: bool = False,
) -> RunComparison:
    run_b = run_of(second, second_settings or settings(run_id="b"), environment)
    return compare(run_of(first, settings()), run_b, allow_different=allow_different)


def change(found: RunComparison, method: str, task: str = OVERALL) -> Change:
    return next(item for item in found.changes if (item.method, item.task) == (method, task))


def test_identical_runs_have_ratio_one() -> None:
    found = compared(RECORDS, RECORDS)
    assert found.baseline == "ar_loop"
    assert not found.dropped and not found.differences and not found.notes
    for item in found.changes:
        ratio = item.speedup_ratio
        assert ratio.value == pytest.approx(1)
        assert ratio.low is not None and ratio.high is not None
        assert ratio.low <= 1 <= ratio.high
        assert not item.speedup_ratio.excludes(1) and not item.tau_difference.excludes(0)
    assert change(found, "combined").num_answers == 2 * len(PROMPTS)
    assert slower_methods(found, 0.98) == []
    assert slower_methods(found, 1.0) == []


def test_ten_percent_more_time_is_flagged() -> None:
    found = compared(RECORDS, scaled({"combined": 1.1}))
    item = change(found, "combined")
    assert item.speedup_ratio.value == pytest.approx(1 / 1.1, rel=0.02)
    assert item.speedup_ratio.excludes(1) and item.speedup_ratio.excludes(0.98)
    assert item.tau_difference.value == 0
    assert slower_methods(found, 0.98) == ["combined"]
    assert slower_methods(found, 0.85) == []


def test_noise_within_the_interval_passes() -> None:
    noisy = compared(RECORDS, scaled({"combined": 1.15}, noise=0.3))
    item = change(noisy, "combined").speedup_ratio
    assert item.value is not None and item.value < 0.98 < (item.high or 0)
    assert slower_methods(noisy, 0.98) == []


def test_a_slow_day_of_the_machine_cancels_and_shows() -> None:
    everything = dict.fromkeys(SECONDS, 1.2)
    found = compared(RECORDS, scaled(everything, noise=0))
    for method in ("ar_loop", "combined"):
        assert change(found, method).speedup_ratio.value == pytest.approx(1)
        assert change(found, method).speed_ratio.value == pytest.approx(1 / 1.2)
    assert slower_methods(found, 0.98) == []


def test_numbers_by_hand() -> None:
    """One task, one prompt: too little for an interval, enough for the values."""
    facts = config(methods=[BASELINES[0], drafter("combined")])
    loop = generation(method="ar_loop", accepted=[0] * 10, depth=0, decode_s=10.0)
    run_a = run_of([loop, generation(accepted=[4, 4], decode_s=5.0)], facts)
    after = [
        dataclasses.replace(loop, decode_s=20.0),
        generation(accepted=[3, 3, 1], decode_s=4.0),
    ]
    run_b = run_of(after, {**facts, "run_id": "b"})
    found = compare(run_a, run_b, allow_different=False)
    item = change(found, "combined")
    assert (item.tau_a.value, item.tau_b.value) == (5.0, 10 / 3)
    assert item.tau_difference.value == pytest.approx(10 / 3 - 5)
    assert item.speedup_a.value == pytest.approx(2.0)
    assert item.speedup_b.value == pytest.approx(5.0)
    assert item.speedup_ratio.value == pytest.approx(2.5)
    assert item.speed_ratio.value == pytest.approx(1.25)
    assert not item.speedup_ratio.has_interval
    with pytest.raises(UserError, match=r"no interval for combined; .* at least 5 conversations"):
        slower_methods(found, 0.98)


def test_what_only_one_run_has_is_dropped_and_counted() -> None:
    tasks = settings()["tasks"]
    without = {
        **settings(run_id="b"),
        "tasks": tasks[:1],
        "methods": [*BASELINES, drafter("combined"), drafter("uniform")],
    }
    second: list[Record] = []
    for item in RECORDS:
        if item.task != "gsm8k" or item.method == "ngram":
            continue
        if item.method == "combined" and item.prompt_id == "3":
            second.append(failure(prompt_id="3"))
        elif item.method == "combined" and item.prompt_id == "4":
            second.append(dataclasses.replace(item, prompt_sha256="f" * 64))
        elif not (item.method == "ar_loop" and item.prompt_id == "5"):
            second.append(item)
    second += [
        dataclasses.replace(item, method="uniform")
        for item in RECORDS
        if item.method == "combined" and item.task == "gsm8k"
    ]
    found = compared(RECORDS, second, second_settings=without)
    no_baseline = "no answer of the baseline to the same prompt in both runs"
    assert found.dropped == {
        ("A", "mbpp", "task not in B"): 4 * 12,
        ("A", "gsm8k", "ngram not in B"): 12,
        ("A", "gsm8k", "failed in B"): 1,
        ("A", "gsm8k", "other prompt tokens in B"): 1,
        ("A", "gsm8k", "not asked in B"): 1,
        ("A", "gsm8k", no_baseline): 2,
        ("B", "gsm8k", "uniform not in A"): 12,
        ("B", "gsm8k", "other prompt tokens in A"): 1,
        ("B", "gsm8k", no_baseline): 2,
    }
    assert {item.task for item in found.changes} == {"gsm8k", OVERALL}
    assert change(found, "combined").num_answers == 9
    text = page(found)
    assert all(str(reason) in text for _, _, reason in found.dropped)
    assert sum(row["num_answers"] for row in summary(found)["dropped"]) == found.dropped.total()


def test_a_baseline_that_read_other_tokens_is_no_baseline() -> None:
    made = [
        dataclasses.replace(item, prompt_sha256="c" * 64)
        if (item.method, item.task, item.prompt_id) == ("ar_loop", "gsm8k", "2")
        else item
        for item in RECORDS
    ]
    found = compared(made, made)
    no_baseline = "no answer of the baseline to the same prompt in both runs"
    assert found.dropped == {(label, "gsm8k", no_baseline): 3 for label in "AB"}
    assert change(found, "combined").num_answers == 2 * len(PROMPTS) - 1


def test_repeats_of_one_run_are_dropped() -> None:
    repeated = [*RECORDS, *(dataclasses.replace(item, repeat=1) for item in RECORDS)]
    facts = settings(run_id="b", repeats=2)
    found = compared(RECORDS, repeated, second_settings=facts)
    assert found.dropped.total() == len(RECORDS)
    assert {label for label, _, _ in found.dropped} == {"B"}


def changed(field: str, value: object) -> tuple[dict[str, Any], dict[str, Any]]:
    both = copy.deepcopy({"config": settings(run_id="b"), "environment": ENVIRONMENT})
    *path, last = field.split(".")
    place: Any = both
    for name in path:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    return both["config"], both["environment"]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("config.target.name", "qwen", "target smollm2 in A and qwen in B"),
        ("config.target.weights_sha256", "ab" * 32, "weights 0123456789ab in A and abababababab"),
        ("config.target.dtype", "float32", "dtype bfloat16 in A and float32 in B"),
        ("config.target.attn", None, "attention sdpa in A and unknown in B"),
        ("config.target.template_sha256", "abc", "chat template 0123456789ab in A and abc in B"),
        ("config.sampling.temperature", 1.0, "temperature 0.0 in A and 1.0 in B"),
        ("config.sampling.top_k", 50, "top-k 0 in A and 50 in B"),
        ("config.max_new_tokens", 256, "max_new_tokens 128 in A and 256 in B"),
        ("config.tasks.1.source.kind", "samples", "prompts of mbpp directory 0123456789ab in A"),
        ("config.tasks.1.source.digest", "abc", "and directory abc in B"),
        ("environment.hardware.cpu", "Another", "CPU Example CPU in A and Another in B"),
        ("environment.hardware.gpu", "H100", "GPU unknown in A and H100 in B"),
        ("environment.hardware.num_threads", 8, "threads 4 in A and 8 in B"),
    ],
)
def test_runs_that_differ_are_refused_in_one_sentence(
    field: str, value: object, sentence: str
) -> None:
    facts, environment = changed(field, value)
    with pytest.raises(UserError) as refusal:
        compared(RECORDS, RECORDS, second_settings=facts, environment=environment)
    message = str(refusal.value)
    assert sentence in message and message.endswith("with --allow-different.")
    assert "\n" not in message
    found = compared(
        RECORDS,
        RECORDS,
        second_settings=facts,
        environment=environment,
        allow_different=True,
    )
    assert len(found.differences) == 1 and sentence in found.differences[0]
    assert "⚠" in page(found) and change(found, "combined").speedup_ratio.value == pytest.approx(1)


def test_every_difference_is_listed() -> None:
    facts, environment = changed("environment.hardware.num_threads", 8)
    facts["target"]["dtype"] = "float32"
    with pytest.raises(UserError, match=r"dtype .* in B; threads 4 in A and 8 in B; measure"):
        compared(RECORDS, RECORDS, second_settings=facts, environment=environment)


def test_another_template_pairs_prompts_by_name() -> None:
    facts, _ = changed("config.target.template_sha256", "abc")
    other = [dataclasses.replace(item, prompt_sha256="e" * 64) for item in RECORDS]
    found = compared(RECORDS, other, second_settings=facts, allow_different=True)
    assert not found.dropped and change(found, "combined").speed_ratio.value == pytest.approx(1)


def test_versions_and_drafters_are_noted_not_refused() -> None:
    facts, environment = changed("environment.versions.torch", "2.14.0")
    facts["methods"][2] = drafter(
        "combined",
        block_size=6,
        checkpoint={"weights_sha256": "ab" * 32, "second": {"weights_sha256": "cd" * 32}},
    )
    found = compared(RECORDS, RECORDS, second_settings=facts, environment=environment)
    assert found.notes == (
        "torch 2.13.0 in A and 2.14.0 in B",
        "combined: block_size 8 in A and 6 in B",
        "combined: weights – in A and abababababab in B",
        "combined: second drafter's weights – in A and cdcdcdcdcdcd in B",
    )
    assert all(note in page(found) for note in found.notes)


def test_settings_that_a_label_hides_are_noted() -> None:
    """Without a label another setting is another name, and so another method."""
    sides = []
    for run_id, budget in (("a", 16), ("b", 32)):
        tree = asked(f"ngram+ddtree:budget={budget}@tree")
        facts = settings(run_id=run_id)
        facts["methods"][3] = tree
        made = [
            dataclasses.replace(item, method=tree["method"]) if item.method == "ngram" else item
            for item in RECORDS
        ]
        sides.append(run_of(made, facts))
    found = compare(*sides, allow_different=False)
    note = "ngram+ddtree@tree: policies ddtree:budget=16 in A and ddtree:budget=32 in B"
    assert found.notes == (note,)
    assert change(found, "ngram+ddtree@tree").speed_ratio.value == 1


def test_names_with_settings_are_names_like_any_other() -> None:
    tree = asked("combined+ddtree:budget=16+adl:k_min=4:rho=0.5")
    name = "combined+ddtree:budget=16+adl:k_min=4:rho=0.5"
    facts = settings(run_id="b")
    facts["methods"][3] = tree
    made = [
        dataclasses.replace(item, method=name) if item.method == "ngram" else item
        for item in RECORDS
    ]
    found = compare(
        run_of(made, {**facts, "run_id": "a"}), run_of(made, facts), allow_different=False
    )
    assert slower_methods(found, 0.98) == []
    assert f"| {name} " in page(found)
    assert {item["method"] for item in json.loads(json.dumps(summary(found)))["changes"]} == {
        *("ar_loop", "hf_generate", "combined", name)
    }


def with_plugins(**digests: str) -> dict[str, Any]:
    plugins = [{"name": f"{name}.py", "sha256": digest} for name, digest in digests.items()]
    return {**ENVIRONMENT, "plugins": plugins}


def test_another_plug_in_of_one_name_is_refused() -> None:
    first = run_of(RECORDS, settings(), with_plugins(mine="1" * 64, early="3" * 64))
    second = run_of(RECORDS, settings(), with_plugins(mine="2" * 64, late="4" * 64))
    said = "plug-in mine.py 111111111111 in A and 222222222222 in B"
    with pytest.raises(UserError, match=f"not comparable: {said};"):
        compare(first, second, allow_different=False)
    assert compare(first, second, allow_different=True).differences == (said,)
    older = run_of(RECORDS, settings())
    assert compare(older, second, allow_different=False).differences == ()


def test_nothing_in_common_is_said() -> None:
    other = [dataclasses.replace(item, prompt_sha256="e" * 64) for item in RECORDS]
    with pytest.raises(UserError, match="no answer in common"):
        compared(RECORDS, other)
    with pytest.raises(UserError, match="no baseline decoded anything"):
        compared([], [])


def test_a_gate_without_a_shared_drafter_cannot_pass() -> None:
    facts = {**settings(run_id="b"), "methods": BASELINES}
    baselines = [item for item in RECORDS if item.method in ("ar_loop", "hf_generate")]
    found = compared(RECORDS, baselines, second_settings=facts)
    with pytest.raises(UserError, match="no drafter is in both runs"):
        slower_methods(found, 0.9)


def test_a_drafter_that_failed_a_whole_task_cannot_pass() -> None:
    second = [i for i in RECORDS if (i.method, i.task) != ("ngram", "mbpp")]
    found = compared(RECORDS, second)
    assert change(found, "ngram").speedup_ratio.value is None
    assert change(found, "ngram", "gsm8k").speedup_ratio.value == pytest.approx(1)
    with pytest.raises(UserError, match="no interval for ngram"):
        slower_methods(found, 0.9)


@given(st.randoms(use_true_random=False))
@settings_of(max_examples=10)
def test_order_of_records_moves_nothing(draw: random.Random) -> None:
    after = scaled({"combined": 1.05})
    shuffled = [draw.sample(part, len(part)) for part in (RECORDS, after)]
    assert page(compared(*shuffled)) == page(compared(RECORDS, after))


def test_swapping_runs_inverts_the_ratio() -> None:
    after = scaled({"combined": 1.1, "ngram": 0.9})
    there = change(compared(RECORDS, after), "combined")
    back = change(compared(after, RECORDS), "combined")
    for forth, reverse in (
        (there.speedup_ratio.value, back.speedup_ratio.value),
        (there.speedup_ratio.low, back.speedup_ratio.high),
    ):
        assert forth is not None and reverse is not None
        assert forth * reverse == pytest.approx(1)
    assert there.tau_difference.value == back.tau_difference.value == 0


@pytest.fixture
def write_pair(tmp_path: Path) -> Callable[[float], list[str]]:
    def write(factor: float) -> list[str]:
        before = write_run(tmp_path / "a", RECORDS, settings())
        after = write_run(tmp_path / "b", scaled({"combined": factor}), settings(run_id="b"))
        return [str(before), str(after)]

    return write


def test_the_gate_sets_the_exit_status(
    write_pair: Callable[[float], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_pair(1.1)
    assert main(["compare", *paths]) == 0
    capsys.readouterr()
    assert main(["compare", *paths, "--fail-below", "0.98"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "slower than 0.98 of before: combined\n"
    body = json.loads(captured.out.splitlines()[-1])
    assert (body["slower"], body["fail_below"], body["baseline"]) == (["combined"], 0.98, "ar_loop")
    assert (body["run_a"], body["run_b"]) == ("20260102-combined", "b")
    overall = [item for item in body["changes"] if item["task"] == OVERALL]
    assert [item["method"] for item in overall] == ["ar_loop", "hf_generate", "combined", "ngram"]
    assert "| combined " in captured.out and "Nothing: both runs answered alike." in captured.out
    assert main(["compare", *paths, "--fail-below", "0.85"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fail-below", "0"], "--fail-below must be a ratio above 0, not 0."),
        (["--fail-below", "nan"], "--fail-below must be a ratio above 0, not nan."),
    ],
)
def test_bad_limits(
    write_pair: Callable[[float], list[str]],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["compare", *write_pair(1.0), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_run_directories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare"]) == 2
    assert "RUN_A" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "x"), str(tmp_path / "y")]) == 2
    assert "config.json cannot be read" in capsys.readouterr().err


def test_comparing_needs_no_torch(write_pair: Callable[[float], list[str]]) -> None:
    script = f"""
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Forbid())
from harness.cli import main
sys.exit(main(["compare", *{write_pair(1.0)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_refuted_drafter_is_struck_and_no_gate_passes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = timed_run(tmp_path / "a", {"cheat": [5.0] * 6, "honest": [8.0] * 6})
    second = refute(first, "cheat")
    assert main(["compare", str(first), str(first)]) == 0
    assert "~~" not in capsys.readouterr().out
    assert main(["compare", str(first), str(second)]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["refuted"] == {"A": [], "B": ["cheat"]}
    assert "- MISMATCH in B: cheat; struck out below." in text
    rows = [line for line in text if line.startswith("|")]
    assert all(("~~" in row) == ("cheat" in row) for row in rows)
    assert main(["compare", str(first), str(second), "--fail-below", "0.9"]) == 2
    assert "cheat of run B has a MISMATCH" in capsys.readouterr().err
