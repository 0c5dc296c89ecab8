"""What the first sentences and the ranks say, and that they say no more than is shown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from run_directories import BASELINES, config, drafter, generation, source, write_run
from test_policy_tables import Script, scripted_run
from test_reports import Page, cells, drawn_run

from harness import audit_records
from harness.audit_records import Deviation, make_audit
from harness.records import Record
from harness.stages import Stages, StageTimes
from reports.render import leaderboard_text, write_leaderboard
from reports.run import load_run
from reports.terminal import Published, publish_leaderboard


def timed_run(
    path: Path, seconds: Mapping[str, list[float]], accepted: list[int] | None = None, **fields: Any
) -> Path:
    """Drafters and the time of each of their answers; ``ar_loop`` takes ten seconds for ten."""
    num = len(next(iter(seconds.values())))
    made: list[Record] = []
    for place in range(num):
        name = str(place)
        loop = generation(
            method="ar_loop", prompt_id=name, accepted=[0] * 10, depth=0, decode_s=10.0
        )
        made.append(loop)
        made += [
            generation(
                method=method, prompt_id=name, accepted=accepted or [4, 4], decode_s=own[place]
            )
            for method, own in seconds.items()
        ]
    tasks = [{"task": "gsm8k", "source": source(), "prompt_ids": [str(i) for i in range(num)]}]
    methods = fields.pop("methods", [BASELINES[0], *map(drafter, seconds)])
    return write_run(path, made, config(methods=methods, tasks=tasks, **fields))


def lead_of(path: Path) -> str:
    """The paragraph under the title of the only section."""
    return leaderboard_text([path]).split("\n## ")[1].split("\n\n")[1]


def refute(path: Path, method: str) -> Path:
    """Audit a run: one token of each answer of ``method`` is not the target's."""
    answers = load_run(path).generations
    loops = {item.prompt_id: item for item in answers if item.method == "ar_loop"}
    wrong = Deviation(position=4, margin=1.5, noise=0.04)
    records, audits = [], []
    for item in answers:
        if item.method == method:
            tokens = (*item.new_tokens[:4], 9, *item.new_tokens[5:])
            item = dataclasses.replace(item, new_tokens=tokens)
        records.append(item)
        deviations = (wrong,) if item.method == method else ()
        audits.append(make_audit(item, loops[item.prompt_id], deviations))
    lines = (audit_records.to_json(item) + "\n" for item in audits)
    facts = dict(load_run(path).config)
    path = write_run(path.with_name("refuted"), records, facts)
    (path / "audit.jsonl").write_text("".join(lines))
    return path


def test_a_shown_speedup_leads_with_its_interval_n_and_verdict(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"combined": [4.0, 5.0, 6.0, 5.0, 4.0, 6.0]})
    text = lead_of(path)
    assert text.startswith("Fastest drafter: combined, decoding at 2.00× (95 % interval 1.7")
    assert " the speed of ar_loop, with τ = 5.00 (5.00 to 5.00); n = 6 answers to 6 prompts" in text
    assert text.endswith(", not audited.")
    (path / "audit.jsonl").write_text(
        "".join(
            audit_records.to_json(make_audit(own, loop, ())) + "\n"
            for own in load_run(path).of("combined")[:5]
            for loop in load_run(path).of("ar_loop")
            if loop.prompt_id == own.prompt_id
        )
    )
    assert lead_of(path).endswith(", exact (1 not audited).")


def test_an_interval_that_holds_one_shows_nothing(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"ngram": [6.0, 12.0, 14.0, 7.0, 9.0]})
    text = lead_of(path)
    assert text.startswith("No drafter is shown to be faster than ar_loop. Fastest measured: ngram")
    assert "Fastest drafter" not in text


def test_a_wide_interval_hides_no_drafter_that_is_shown_to_be_faster(tmp_path: Path) -> None:
    seconds = {"wide": [1.0, 1.0, 1.0, 15.0, 15.0], "narrow": [8.0, 8.1, 8.2, 8.1, 8.0]}
    text = lead_of(timed_run(tmp_path / "run", seconds))
    assert text.startswith("Fastest measured drafter: wide,")
    assert "It is not shown to be faster than ar_loop; narrow is." in text


@pytest.mark.parametrize("num", [1, 4])
def test_too_few_prompts_give_neither_rank_nor_bold_nor_a_fastest(tmp_path: Path, num: int) -> None:
    text = leaderboard_text([timed_run(tmp_path / "run", {"a": [2.5] * num, "b": [5.0] * num})])
    lead = text.split("\n## ")[1].split("\n\n")[1]
    assert lead == (
        "Too few prompts to rank: an interval needs 5 conversations of every task, and "
        f"gsm8k has {num}."
    )
    assert {row[0] for row in cells(text, "Leaderboard")} == {"–"}
    section = text.split("### Leaderboard")[1].split("###")[0]
    assert "**" not in section and "4.00×" in section
    assert "Ranked" not in section and "95 %" not in section


def test_one_drafter_with_too_few_answers_has_no_rank_beside_others(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"a": [5.0] * 6, "b": [2.0] * 6})
    lines = (path / "records.jsonl").read_text().splitlines(keepends=True)
    own = [line for line in lines if json.loads(line)["method"] == "b"]
    (path / "records.jsonl").write_text("".join(line for line in lines if line not in own[2:]))
    text = leaderboard_text([path])
    assert [row[:2] for row in cells(text, "Leaderboard")] == [
        ["1", "a"],
        ["–", "b"],
        ["–", "ar_loop"],
    ]
    assert "Fastest drafter: a," in text and "Not ranked: b (too few prompts to rank)." in text


def test_load_stands_in_the_sentence(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"a": [5.0] * 6})
    assert "other work" not in lead_of(path)
    answers = load_run(path).generations
    for method in ("a", "ar_loop"):
        made = [
            dataclasses.replace(item, other_load=0.7 if item.method == method else 0.0)
            for item in answers
        ]
        busy = write_run(tmp_path / method, made, dict(load_run(path).config))
        expected = f"Measured beside other work ({method} 0.70 cores): times are less certain."
        assert expected in lead_of(busy)


def test_a_refuted_drafter_has_no_rank_is_struck_and_never_leads(tmp_path: Path) -> None:
    path = timed_run(tmp_path / "run", {"cheat": [2.0] * 6, "honest": [8.0] * 6})
    assert "Fastest drafter: cheat" in lead_of(path)
    path = refute(path, "cheat")
    page, html = write_leaderboard([path], tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    lead = lead_of(path)
    assert lead.startswith("Fastest drafter: honest,") and "Not ranked: cheat (MISMATCH)." in lead
    rows = {row[1]: row for row in cells(text, "Leaderboard")}
    assert (rows["honest"][0], rows["cheat"][0]) == ("1", "–")
    taus = ["~~5.00~~ (MISMATCH)", "~~5.00~~"]
    speeds = ["~~5.00×~~ (MISMATCH)", "~~5.00×~~", "~~4.20×~~", "~~5.0~~"]
    assert rows["cheat"][4:10] == [*taus, *speeds]
    board = text.split("### Leaderboard")[1].split("###")[0]
    assert not any("**" in line for line in board.splitlines() if "cheat" in line)
    assert "<s>5.00×</s>" in html.read_text(encoding="utf-8")
    assert Page(html.read_text(encoding="utf-8")).open == []
    assert "Differences between drafters" not in text


def test_where_all_are_refuted_none_leads(tmp_path: Path) -> None:
    path = refute(timed_run(tmp_path / "run", {"cheat": [2.0] * 6}), "cheat")
    assert lead_of(path) == "Not ranked: cheat (MISMATCH)."


def test_a_drafter_that_is_not_judged_is_not_called_lossless(
    tmp_path: Path,
) -> None:
    path = timed_run(tmp_path / "run", {"noisy": [2.0] * 6, "quiet": [8.0] * 6})
    noise = {"noisy": (Deviation(position=4, margin=3.0, noise=7.6),)}
    loops = {item.prompt_id: item for item in load_run(path).of("ar_loop")}
    lines = [
        audit_records.to_json(
            make_audit(item, loops[item.prompt_id], noise.get(item.method, ()), dtype="float32")
        )
        for item in load_run(path).generations
    ]
    (path / "audit.jsonl").write_text("\n".join(lines) + "\n")
    lead = lead_of(path)
    assert lead.startswith("Fastest drafter: quiet,") and "prompts, exact." in lead
    assert "Not ranked: noisy (losslessness not judged)." in lead
    notes = [line for line in leaderboard_text([path]).splitlines() if line.startswith("- ")]
    assert len([line for line in notes if "noisy" in line]) == 1


def test_declared_oracles_and_foreign_code_are_marked(tmp_path: Path) -> None:
    methods = [
        BASELINES[0],
        drafter("seer", oracle=True, foreign={"file": "seer.py", "sha256": "ab" * 32}),
        drafter("own", oracle=False, foreign=None),
    ]
    path = timed_run(tmp_path / "run", {"seer": [1.0] * 6, "own": [5.0] * 6}, methods=methods)
    text = leaderboard_text([path])
    assert "Fastest drafter: own," in text and "Not ranked: seer (oracle)." in text
    assert [row[:2] for row in cells(text, "Leaderboard")][:2] == [
        ["1", "own"],
        ["–", "seer† (oracle)"],
    ]
    assert "Oracle: seer is told the answers that it drafts" in text
    assert f"seer.py, SHA-256 {'ab' * 32}" in text


def test_a_doubted_clock_takes_every_rank_of_its_run_and_is_said(tmp_path: Path) -> None:
    """Whoever changes a clock can change it for the others too."""
    path = timed_run(tmp_path / "run", {"swift": [2.0] * 6, "honest": [5.0] * 6})
    pages = {share: _with_second_clock(path, "swift", share) for share in (1.0, 4.0)}
    ranks = {
        share: {row[1]: row[0] for row in cells(page.markdown.read_text(), "Leaderboard")}
        for share, page in pages.items()
    }
    assert ranks == {
        1.0: {"swift": "1", "honest": "2", "ar_loop": "–"},
        4.0: {"swift": "–", "honest": "–", "ar_loop": "–"},
    }
    reason = "Not ranked: swift (clock doubted), honest (clock doubted)."
    noted = "- Doubt about swift: the clock of the run counted 15 s in 6 answers, a second one 60 s"
    for share, page in pages.items():
        shown, written = " ".join(page.text.split()), page.markdown.read_text(encoding="utf-8")
        assert (reason in shown, reason in written, noted in written) == (share > 1,) * 3
        assert ("Fastest drafter: swift" in shown) == (share == 1)


def _with_second_clock(path: Path, method: str, share: float) -> Published:
    """Pages of the run, had a second clock counted so much more in the answers of ``method``."""
    run = load_run(path)
    records = [
        dataclasses.replace(
            item,
            elapsed_s=(item.prefill_s + item.decode_s) * (share if item.method == method else 1.0),
        )
        for item in run.generations
    ]
    made = write_run(path.with_name(f"seconds-{share:g}"), records, dict(run.config))
    return publish_leaderboard([made], made, whole=False)


def test_doubts_stand_in_the_notes_of_a_page(tmp_path: Path) -> None:
    """Of speed and memory; they leave the rank, for a machine may stall."""
    path = timed_run(tmp_path / "run", {"swift": [1.0] * 6, "honest": [5.0] * 6})  # τ is 5
    again = [
        generation(
            **{"method": "honest", "prompt_id": item.prompt_id, "repeat": 1},
            **{"accepted": [6, 6], "decode_s": 7.0},
        )
        for item in load_run(path).of("honest")
    ]
    facts = {**load_run(path).config, "repeats": 2}
    both = write_run(tmp_path / "both", [*load_run(path).generations, *again], facts)
    text = leaderboard_text([both])
    doubts = [line for line in text.splitlines() if line.startswith("- Doubt about ")]
    assert [line.partition(":")[0] for line in doubts] == [
        "- Doubt about swift",
        "- Doubt about honest",
    ]
    assert "10× over ar_loop is at odds with its rounds: τ is 5." in doubts[0]
    assert "it seems to remember answers." in doubts[1]
    assert {row[1]: row[0] for row in cells(text, "Leaderboard")}["swift"] == "1"
    warm = {**facts, "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0}}
    sampled = write_run(tmp_path / "sampled", load_run(both).generations, warm)
    assert "Doubt about honest" not in leaderboard_text([sampled])


def test_clearly_different_drafters_still_lead_alone(tmp_path: Path) -> None:
    text = leaderboard_text([drawn_run(tmp_path / "run", {"a": 0.05, "b": 0.07, "c": 0.1})])
    assert "Fastest drafter: a," in text and "Not shown to be faster" not in text
    assert "A range of ranks" not in text and "95 % intervals" in text


def test_every_table_of_times_carries_the_mark_of_load(tmp_path: Path) -> None:
    """A pass of more rows may look cheaper than one of a single row beside other work."""
    scripts: dict[str, Script] = {
        "combined": ([1] * 6, 6.0),
        "combined+ddtree:budget=16": ([2] * 4, 5.0),
        "uniform": ([1] * 6, 7.0),
    }
    path = scripted_run(tmp_path / "run", scripts)
    made = [
        dataclasses.replace(item, other_load=0.9 if item.method == "combined" else 0.0)
        for item in load_run(path).generations
    ]
    facts = {**load_run(path).config, "repeats": 2}
    path = write_run(tmp_path / "busy", made, facts)
    times = StageTimes(draft_s=(0.1,), verify_s=(1.0,), commit_s=(0.1,))
    stages = Stages(num_context_tokens=9, methods=dict.fromkeys(("ar_loop", "combined"), times))
    (path / "stages.json").write_text(json.dumps(stages.to_json()))
    text = leaderboard_text([path])
    for title in (
        *("Differences between drafters", "Over repeats", "Where a round's time goes"),
        *("Every number by task", "Objective × test-time method: decode speedup"),
    ):
        section = text.split(f"### {title}")[1].split("\n### ")[0]
        assert "°" in section.split("\n\n")[1], title
        assert "° measured beside other work" in section, title
    for title in ("Joint acceptance J(k)", "Objective × test-time method: τ"):
        assert "°" not in text.split(f"### {title}\n")[1].split("\n### ")[0]


def test_every_table_strikes_the_speeds_of_a_refuted_method(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        "combined": ([1] * 6, 6.0),
        "combined+ddtree:budget=16": ([2] * 4, 2.0),
    }
    path = scripted_run(tmp_path / "run", scripts)
    cheat = "combined+ddtree:budget=16"
    assert "**+1.00**" in leaderboard_text([path])
    path = refute(path, cheat)
    times = StageTimes(draft_s=(0.1,), verify_s=(1.0,), commit_s=(0.1,))
    stages = Stages(num_context_tokens=9, methods=dict.fromkeys(("ar_loop", cheat), times))
    (path / "stages.json").write_text(json.dumps(stages.to_json()))
    text = leaderboard_text([path])
    for title in (
        *("Objective × test-time method: τ", "Objective × test-time method: decode speedup"),
        *("Where a round's time goes", "Every number by task"),
    ):
        section = text.split(f"### {title}\n")[1].split("\n### ")[0]
        assert "~~" in section, title
        assert "**" not in section.replace("**⚠", ""), title
