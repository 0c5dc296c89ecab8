"""Objective × test-time method: which gains are shown, and what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from run_directories import (
    BASELINES,
    asked,
    config,
    drafter,
    generation,
    simulated_records,
    source,
    write_run,
)
from test_reports import Page

from harness import paired
from harness.records import Record
from reports import formatting as form
from reports.differences import by_task
from reports.policies import lineups, own_chain, stack
from reports.render import leaderboard_text, write_leaderboard
from reports.run import load_run

TITLES = {name: f"Objective × test-time method: {name}" for name in ("τ", "decode speedup")}
PROMPTS = [str(i) for i in range(6)]

Script = tuple[Sequence[int], float]
"""Accepted lengths of every answer of a method, and its decoding seconds."""


def scripted_run(path: Path, scripts: dict[str, Script], run_id: str = "run") -> Path:
    """Drafters by what ``--drafter`` asks for; ``ar_loop`` decodes a token a second."""
    methods = [asked(text) for text in scripts]
    made: list[Record] = []
    for prompt_id in PROMPTS:
        facts: dict[str, Any] = {"prompt_id": prompt_id}
        made.append(
            generation(method="ar_loop", accepted=[0] * 12, depth=0, decode_s=12.0, **facts)
        )
        made += [
            generation(method=item["method"], accepted=accepted, decode_s=seconds, **facts)
            for item, (accepted, seconds) in zip(methods, scripts.values(), strict=True)
        ]
    tasks = [{"task": "gsm8k", "source": source(), "prompt_ids": PROMPTS}]
    return write_run(
        path, made, config(run_id=run_id, methods=[BASELINES[0], *methods], tasks=tasks)
    )


def table(text: str, title: str) -> list[list[str]]:
    """Cells of the Markdown table under a title, the head among them."""
    body = text.split(f"### {title}\n")[1].split("\n### ")[0]
    lines = [line for line in body.splitlines() if line.startswith("|")]
    return [
        [part.strip() for part in line.strip("|").split("|")] for line in lines if "--" not in line
    ]


def row_names(text: str) -> list[str]:
    return [row[0] for row in table(text, TITLES["τ"])[1:]]


CROSSED: dict[str, Script] = {
    "combined+ddtree:budget=16": ([3, 2], 1.75),
    "uniform": ([1] * 6, 6.0),
    "combined": ([2] * 4, 4.0),
    "uniform+ddtree:budget=16": ([2] * 4, 4.0),
}


def test_gains_by_hand(tmp_path: Path) -> None:
    """τ 2 → 3 and 3 → 3.5, tokens a second 2 → 3 and 3 → 4: each gain is smaller with the other."""
    text = leaderboard_text([scripted_run(tmp_path / "run", CROSSED)])
    assert table(text, TITLES["τ"]) == [
        ["Drafter", "τ own chain", "τ ddtree:budget=16", "gain ddtree:budget=16"],
        ["uniform", "2.00", "3.00", "**+1.00** (1.00 to 1.00)"],
        ["combined", "3.00", "3.50", "**+0.50** (0.50 to 0.50)"],
        [
            "combined over uniform",
            "**+1.00** (1.00 to 1.00)",
            "**+0.50** (0.50 to 0.50)",
            "**−0.50** (−0.50 to −0.50)",
        ],
    ]
    assert table(text, TITLES["decode speedup"])[1:] == [
        ["uniform", "2.00×", "3.00×", "**1.50×** (1.50 to 1.50)"],
        ["combined", "3.00×", "4.00×", "**1.33×** (1.33 to 1.33)"],
        [
            "combined over uniform",
            "**1.50×** (1.50 to 1.50)",
            "**1.33×** (1.33 to 1.33)",
            "**0.89×** (0.89 to 0.89)",
        ],
    ]
    for title, word in (("τ", "difference"), ("decode speedup", "ratio")):
        section = text.split(f"### {TITLES[title]}\n")[1].split("\n### ")[0]
        assert "Does what training gains last under every test-time method" in section
        assert f"holds the {word} of the two in each column" in section


def test_gains_are_the_paired_ones_of_all_tasks(tmp_path: Path) -> None:
    names = ["uniform", "combined", "uniform+ddtree", "combined+ddtree"]
    tasks = [
        {"task": name, "source": source(), "prompt_ids": PROMPTS} for name in ("gsm8k", "mbpp")
    ]
    facts = config(methods=[BASELINES[0], *map(asked, names)], tasks=tasks)
    quality = dict(zip(names, (0.4, 0.6, 0.5, 0.65), strict=True))
    seconds = dict(zip(("ar_loop", *names), (0.05, 0.06, 0.06, 0.065, 0.065), strict=True))
    path = write_run(tmp_path / "run", simulated_records(facts, quality, seconds), facts)
    run = load_run(path)
    first, second, first_tree, second_tree = (by_task(run, name) for name in names)
    gain = paired.tau_difference(list(zip(second, second_tree, strict=True)))
    trained = paired.tau_difference(list(zip(first_tree, second_tree, strict=True)))
    both = paired.tau_change(
        [
            ((a, b), (c, d))
            for a, b, c, d in zip(first, first_tree, second, second_tree, strict=True)
        ]
    )

    def shown(found: paired.Estimate) -> str:
        assert found.has_interval
        value = form.signed(found.value)
        value = f"**{value}**" if found.excludes(0) else value
        return f"{value} ({form.spread(found.low, found.high)})"

    _, _, combined, over = table(leaderboard_text([path]), TITLES["τ"])
    assert combined[3] == shown(gain)
    assert over[2:] == [shown(trained), shown(both)]
    assert not both.excludes(0)


def test_without_policies_nothing_is_asked(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {"uniform": ([1] * 6, 6.0), "combined": ([2] * 4, 4.0)}
    assert "test-time method" not in leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    # One test-time method each, although not the same.
    scripts = {"uniform": ([1] * 6, 6.0), "combined+ddtree": ([2] * 4, 4.0)}
    assert "test-time method" not in leaderboard_text([scripted_run(tmp_path / "one", scripts)])


def test_what_was_not_run_is_blank(tmp_path: Path) -> None:
    scripts = {
        **CROSSED,
        "combined+adl+cps": ([3, 3], 2.0),
        "ngram+adl": ([1], 1.0),
        "ngram+adl:k_min=4": ([1], 1.0),
        "focal": ([1], 1.0),
    }
    text = leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    head, uniform, combined, ngram, over, ngram_over = table(text, TITLES["τ"])
    policies = ["ddtree:budget=16", "adl+cps", "adl", "adl:k_min=4"]
    assert head[1:] == [
        *(f"τ {name}" for name in ("own chain", *policies)),
        *(f"gain {name}" for name in policies),
    ]
    assert uniform[3:6] == ["–"] * 3 and uniform[7:] == ["–"] * 3
    assert combined[3] == "4.00" and combined[7] == "**+1.00** (1.00 to 1.00)"
    # Without its own chain it has no gain over that.
    assert ngram[:3] == ["ngram", "–", "–"] and ngram[6:] == ["–"] * 4
    assert over[3:6] == ["–"] * 3 and over[7:] == ["–"] * 3
    assert ngram_over == ["ngram over uniform", *["–"] * 9]


def test_one_drafter_has_policies_to_compare_and_no_other_drafter(tmp_path: Path) -> None:
    scripts = {name: script for name, script in CROSSED.items() if name.startswith("combined")}
    text = leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    assert row_names(text) == ["combined"]
    section = text.split(f"### {TITLES['τ']}\n")[1].split("\n### ")[0]
    assert "names one drafter over another" not in section and "Where both meet" not in section


def test_without_an_own_chain_anywhere_policies_stand_alone(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        f"{name}+{policy}": ([2] * 4, 4.0)
        for name in ("combined", "uniform")
        for policy in ("ddtree", "d2sd")
    }
    text = leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    head, *rows = table(text, TITLES["τ"])
    assert head == ["Drafter", "τ ddtree", "τ d2sd"]
    assert [row[0] for row in rows] == ["uniform", "combined", "combined over uniform"]


def test_objectives_come_in_their_order_and_others_behind(tmp_path: Path) -> None:
    names = ("mine", "combined", "chain", "dpace", "focal", "ngram", "positional", "uniform")
    scripts: dict[str, Script] = {
        f"{name}{policy}": ([2] * 4, 4.0) for name in names for policy in ("", "+ddtree")
    }
    run = load_run(scripted_run(tmp_path / "run", scripts))
    five = ["uniform", "positional", "focal", "chain", "combined"]
    assert [item.name for item in lineups(run)] == [*five, "dpace", "mine", "ngram"]


def test_labels_name_no_drafter_and_hide_no_setting(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        "combined": ([2] * 4, 4.0),
        "combined+ddtree:budget=16@small": ([3] * 3, 3.0),
        "combined+ddtree:budget=64@large": ([3] * 3, 4.0),
    }
    text = leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    head, combined = table(text, TITLES["decode speedup"])
    assert [name.removeprefix("decode speedup ") for name in head[1:4]] == [
        *("own chain", "ddtree:budget=16", "ddtree:budget=64")
    ]
    assert combined[:4] == ["combined", "3.00×", "4.00×", "3.00×"]
    draft = {row[1]: row[3] for row in table(text, "Leaderboard")[1:]}
    assert draft == {
        "combined": "argmax",
        "combined+ddtree@small": "argmax, ddtree:budget=16",
        "combined+ddtree@large": "argmax, ddtree:budget=64",
        "ar_loop": "–",
    }


def test_checkpoints_of_one_name_are_drafters_of_their_own(tmp_path: Path) -> None:
    """A policy is held against the chain of the same weights, whatever the labels say."""
    scripts: dict[str, Script] = {
        "combined@a=one": ([1] * 6, 6.0),
        "combined@b=two": ([2] * 4, 4.0),
        "combined+ddtree@a=two": ([3] * 3, 3.0),
        "combined+ddtree@b=one": ([4] * 2, 2.0),
    }
    run = load_run(scripted_run(tmp_path / "run", scripts))
    assert [item.methods for item in lineups(run)] == [
        {"": "combined@a", "ddtree": "combined+ddtree@b"},
        {"": "combined@b", "ddtree": "combined+ddtree@a"},
    ]
    chains = {item["method"]: own_chain(run, item) for item in run.methods}
    assert chains == {
        **dict.fromkeys(("ar_loop", "combined@a", "combined@b")),
        "combined+ddtree@a": "combined@b",
        "combined+ddtree@b": "combined@a",
    }


def test_one_method_under_two_labels_is_two_rows(tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        f"combined{policy}@{label}": ([2] * 4, 4.0) for label in "ab" for policy in ("", "+ddtree")
    }
    text = leaderboard_text([scripted_run(tmp_path / "run", scripts)])
    assert row_names(text) == ["combined@a", "combined@b", "combined@b over combined@a"]


def test_gains_are_within_a_run(tmp_path: Path) -> None:
    parts = (
        {name: script for name, script in CROSSED.items() if name.startswith(start)}
        for start in ("uniform", "combined")
    )
    paths = [
        scripted_run(tmp_path / name, part, name) for name, part in zip("ab", parts, strict=True)
    ]
    assert row_names(leaderboard_text(paths)) == ["uniform (a)", "combined (b)"]
    both = scripted_run(tmp_path / "c", CROSSED, "c")
    assert row_names(leaderboard_text([both, paths[0]])) == [
        *("uniform (a)", "uniform (c)", "combined (c)", "combined over uniform (c)")
    ]


@pytest.mark.parametrize(
    "text",
    ["combined", "combined+ddtree", "combined+ddtree:budget=16", "x+a:b=1:c=2+d+e:f=g@label=path"],
)
def test_a_stack_is_written_as_it_is_asked_for(text: str) -> None:
    assert stack(asked(text)) == text.partition("@")[0].partition("+")[2]
    assert stack(drafter("from before there were any")) == ""


def test_html_holds_such_names_as_they_are(tmp_path: Path) -> None:
    """In the heads of columns they may break behind their parts; nothing in them is markup."""
    names = ("combined+self_selection:chains=4:temperature=1.5", "combined+mine:x=<b>")
    path = scripted_run(tmp_path / "run", {**CROSSED, **dict.fromkeys(names, ([2] * 4, 4.0))})
    _, html = write_leaderboard([path], tmp_path)
    text = html.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and set(names) <= set(page.text)
    assert ">self_selection:<wbr>chains=4:<wbr>temperature=1.5<" in text
    assert ">mine:<wbr>x=&lt;b&gt;<" in text and "b" not in {tag for tag, _ in page.tags}
    ids = [str(attrs["id"]) for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and not [item for item in ids if set(item) & set("+:=@")]


def test_among_many_drafters_only_those_with_a_part_in_common_are_compared(tmp_path: Path) -> None:
    drafters, stacks = ("uniform", "combined", "focal"), ("", "+ddtree", "+self_selection")
    scripts: dict[str, Script] = {
        f"{name}{policy}": ([2] * 4, 4.0 + i)
        for i, (name, policy) in enumerate((a, b) for a in drafters for b in stacks)
    }
    title = "Differences between drafters"
    few = leaderboard_text([scripted_run(tmp_path / "few", dict(list(scripts.items())[:6]))])
    assert len(table(few, title)) == 1 + 15 and "in common are left out" not in few
    many = leaderboard_text([scripted_run(tmp_path / "many", scripts)])
    compared = {frozenset(row[:2]) for row in table(many, title)[1:]}
    # Of nine, each has two of its drafter and two of its test-time method beside it.
    assert len(compared) == 9 * 4 / 2
    assert {"uniform", "combined"} in compared and {"focal", "focal+ddtree"} in compared
    assert {"uniform+ddtree", "focal+ddtree"} in compared
    assert {"uniform", "combined+ddtree"} not in compared
    assert " 18 pairs that have neither drafter nor test-time method in common are left out" in many
