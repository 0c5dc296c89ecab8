from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_directories import BASELINES, asked, config, drafter, generation, source, write_run

from harness.errors import UserError
from harness.metrics import NoData
from harness.records import Record
from harness.spread import Spread, spread
from reports.render import leaderboard_text


def test_spread_of_known_numbers() -> None:
    found = spread([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (found.mean, found.num) == (5.0, 8)
    assert found.sd == pytest.approx((32 / 7) ** 0.5)
    assert spread([3.0, None, 3.0]) == Spread(3.0, 0.0, 2)
    for few in ([], [1.0], [1.0, None]):
        with pytest.raises(NoData):
            spread(few)


def rows(text: str, title: str) -> list[list[str]]:
    """Cells of the Markdown table under a title, its head left out."""
    body = text.split(f"### {title}\n")[1].split("\n### ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def task(name: str) -> dict[str, Any]:
    return {"task": name, "source": source(), "prompt_ids": ["0"]}


def test_repeats_have_a_mean_and_a_spread(tmp_path: Path) -> None:
    """gsm8k: τ 2, 3, 4 and speedups 1, 2, 3; mbpp: alike, but the last repeat has no baseline."""
    made: list[Record] = []
    for name in ("gsm8k", "mbpp"):
        for repeat in range(3):
            facts: dict[str, Any] = {"task": name, "repeat": repeat}
            if (name, repeat) != ("mbpp", 2):
                loop = generation(
                    method="ar_loop", accepted=[0] * 12, depth=0, decode_s=12.0, **facts
                )
                made.append(loop)
            num_rounds = 12 // (2 + repeat)
            made.append(
                generation(accepted=[1 + repeat] * num_rounds, decode_s=12 / (1 + repeat), **facts)
            )
    tasks = [task("gsm8k"), task("mbpp")]
    facts = config(methods=[BASELINES[0], drafter("combined")], tasks=tasks, repeats=3)
    text = leaderboard_text([write_run(tmp_path / "run", made, facts)])
    assert rows(text, "Over repeats") == [
        ["combined", "gsm8k", "3.00 ± 1.00 (n = 3)", "2.00 ± 1.00 (n = 3)"],
        ["combined", "mbpp", "3.00 ± 1.00 (n = 3)", "1.50 ± 0.71 (n = 2)"],
        ["combined", "overall", "3.00 ± 1.00 (n = 3)", "1.50 ± 0.71 (n = 2)"],
    ]
    assert "### Over training seeds" not in text


def trained(seed: int, steps: int = 400) -> dict[str, Any]:
    """A checkpoint as a run's config describes it; each training has a day of its own."""
    training = {
        "objective": {
            "gamma": 10.0,
            "alpha_focal": 0.3,
            "alpha_chain": 40.0,
            "ce_reduction": "weighted_mean",
        },
        "steps": steps,
        "seed": seed,
        "train_s": 100.0 + seed,
        "commit": f"commit of seed {seed}",
        "measured": [{"step": steps, "train_time_tau": 2.0 + seed}],
    }
    return {"path": f"seed{seed}", "objective": training["objective"], "training": training}


def seed_run(path: Path, run_id: str, checkpoints: dict[str, Any], **lengths: int) -> Path:
    """Each method's tokens a round; it decodes one round a second, ``ar_loop`` a token."""
    methods = [
        drafter(name, drafter=name.partition("@")[0], checkpoint=item)
        for name, item in checkpoints.items()
    ]
    made: list[Record] = [
        generation(method="ar_loop", accepted=[0] * 12, depth=0, decode_s=12.0),
    ]
    for name in checkpoints:
        tau = lengths[name.replace("@", "_")]
        num_rounds = 12 // tau
        made.append(
            generation(method=name, accepted=[tau - 1] * num_rounds, decode_s=float(num_rounds))
        )
    facts = config(
        run_id=run_id, methods=[BASELINES[0], *methods], tasks=[task("gsm8k")], repeats=1
    )
    return write_run(path, made, facts)


def test_training_seeds_are_grouped(tmp_path: Path) -> None:
    """Only equal recipes make one drafter; foreign checkpoints have no seed."""
    checkpoints = {
        "combined": trained(0),
        "combined@seed1": trained(1),
        "combined@again": trained(1),
        "combined@longer": trained(2, steps=800),
        "uniform": trained(0),
        "dflash@a": {"path": "owner/a", "objective": None, "training": None},
        "dflash@b": {"path": "owner/b", "objective": None, "training": None},
        "ngram": None,
    }
    lengths = {
        "combined": 2,
        "combined_seed1": 3,
        "combined_again": 5,
        "combined_longer": 6,
        "uniform": 2,
        "dflash_a": 2,
        "dflash_b": 3,
        "ngram": 1,
    }
    first = seed_run(tmp_path / "a", "a", checkpoints, **lengths)
    # Seed 1 was measured twice, at 3 and at 5 tokens a round.
    assert rows(leaderboard_text([first]), "Over training seeds") == [
        ["combined", "0, 1", "3.00 ± 1.41 (n = 2)", "3.00 ± 1.41 (n = 2)"]
    ]


def test_seeds_are_grouped_within_a_test_time_method(tmp_path: Path) -> None:
    """What a policy adds is no spread over seeds, and neither are its settings."""
    texts = [
        f"combined{policy}@seed{seed}" for policy in ("", "+ddtree:budget=4") for seed in (0, 1)
    ]
    methods = [
        asked(text, checkpoint=trained(int(text[-1]))) for text in (*texts, "combined+ddtree@9")
    ]
    made: list[Record] = [
        generation(method="ar_loop", accepted=[0] * 12, depth=0, decode_s=12.0),
    ]
    for item, tau in zip(methods, (1, 2, 3, 4, 6), strict=True):
        accepted = [tau - 1] * (12 // tau)
        made.append(
            generation(method=item["method"], accepted=accepted, decode_s=float(len(accepted)))
        )
    facts = config(methods=[BASELINES[0], *methods], tasks=[task("gsm8k")])
    text = leaderboard_text([write_run(tmp_path / "run", made, facts)])
    assert sorted(rows(text, "Over training seeds")) == [
        ["combined", "0, 1", "1.50 ± 0.71 (n = 2)", "1.50 ± 0.71 (n = 2)"],
        ["combined+ddtree:budget=4", "0, 1", "3.50 ± 0.71 (n = 2)", "3.50 ± 0.71 (n = 2)"],
    ]


@pytest.mark.parametrize("seed", ["1", [1], None, 1.5])
def test_a_seed_of_another_form_is_one_sentence(tmp_path: Path, seed: Any) -> None:
    other = trained(1)
    other["training"]["seed"] = seed
    checkpoints = {"combined": trained(0), "combined@b": other}
    path = seed_run(tmp_path / "a", "a", checkpoints, combined=2, combined_b=3)
    with pytest.raises(UserError, match=r"training\.seed should be int"):
        leaderboard_text([path])


def test_a_record_of_training_may_say_little(tmp_path: Path) -> None:
    """A vocabulary without its size, and methods that do not name their drafter."""
    checkpoints = {"combined": trained(0), "combined@b": trained(1)}
    for item in checkpoints.values():
        item["training"]["train_vocab_size"] = 99
    path = seed_run(tmp_path / "a", "a", checkpoints, combined=2, combined_b=3)
    body = json.loads((path / "config.json").read_text())
    for method in body["methods"]:
        method.pop("drafter", None)
    (path / "config.json").write_text(json.dumps(body))
    text = leaderboard_text([path])
    assert [row[6] for row in rows(text, "Checkpoints")] == ["restricted"] * 2
    assert "### Over training seeds" not in text


def test_seeds_measured_in_two_runs_are_one_drafter(tmp_path: Path) -> None:
    first = seed_run(tmp_path / "a", "a", {"combined": trained(0)}, combined=2)
    second = seed_run(tmp_path / "b", "b", {"combined": trained(7)}, combined=4)
    assert "### Over training seeds" not in leaderboard_text([first])
    assert rows(leaderboard_text([first, second]), "Over training seeds") == [
        ["combined", "0, 7", "3.00 ± 1.41 (n = 2)", "3.00 ± 1.41 (n = 2)"]
    ]
