"""Prompts for a corpus: which are the same, where they come from, under which licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from drafters.block_diffusion import prompts
from drafters.block_diffusion.prompt_sources import OWN_LICENCE, gather, same_prompt
from harness.errors import UserError
from tasks import gsm8k
from tasks.hub import HUB, HubFiles, Snapshot


def write(path: Path, *rows: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_same_prompt_in_other_spellings() -> None:
    asked = gsm8k.TEMPLATE.format(question="What is 2 + 2?")
    assert same_prompt(asked) == same_prompt("  what is\n2 + 2? ") != same_prompt("What is 2 - 2?")
    assert same_prompt("Add.\n\nInput:\n1 2") == same_prompt("Add.\n\n1 2")


def test_responses_of_one_file_meet_the_references_of_another(tmp_path: Path) -> None:
    question = "What is 2 + 2?"
    asked = gsm8k.TEMPLATE.format(question=question)
    first = write(
        tmp_path / "math.jsonl",
        {"question": question, "answer": "4"},
        {"instruction": "Add.", "input": "1 2", "response": "3"},
        {"text": "Write a loop.", "code": "while True: pass"},
    )
    second = write(
        tmp_path / "greedy.jsonl",
        {"prompt": asked, "response_ids": [4, 2], "source": "math"},
        {"prompt": "Add.\n\n1 2", "response_ids": [3, 2], "source": "math"},
    )
    found = gather([first, second], [])
    assert [(p.prompt, p.reference, len(p.responses)) for p in found.prompts] == [
        (asked, "4", 1),
        ("Add.\n\n1 2", "3", 1),
        ("Write a loop.", "while True: pass", 0),
    ]
    assert {p.source for p in found.prompts} == {"math"}
    assert found.num_read == {"math": 5}
    assert [file.location for file in found.files] == ["math.jsonl", "greedy.jsonl"]


def test_several_responses_of_a_prompt_are_kept_where_they_differ(tmp_path: Path) -> None:
    name = write(
        tmp_path / "a.jsonl",
        {"prompt": "Q?", "response_ids": [1]},
        {"prompt": "Q?", "response_ids": [1]},
        {"prompt": "Q?", "response_ids": [2], "sampling": {"temperature": 1.0}},
        {"prompt": "q?", "response_ids": [3]},
    )
    (prompt,) = gather([name], []).prompts
    # The last one answers another spelling: its tokens do not follow this prompt's.
    assert [row.response_ids for row in prompt.responses] == [(1,), (2,)]
    assert prompt.responses[1].sampling == {"temperature": 1.0}


def test_licences(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", {"prompt": "a"}, {"prompt": "b", "licence": "CC0"})
    two = write(tmp_path / "two.jsonl", {"prompt": "c"})

    def licences(*given: str) -> list[str | None]:
        return [prompt.licence for prompt in gather([one, two], given).prompts]

    assert licences() == [None, "CC0", None]
    assert licences("MIT") == ["MIT", "CC0", "MIT"]
    assert licences("two=BSD") == [None, "CC0", "BSD"]
    assert licences("MIT", "two=BSD") == ["MIT", "CC0", "BSD"]
    with pytest.raises(UserError, match="names three, and no row comes from it; sources are one"):
        licences("three=MIT")
    with pytest.raises(UserError, match="more than one for all"):
        licences("MIT", "BSD")


CARD = "---\nlicense: {licence}\n---\n# A set\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A hub with one set and its card, by pattern."""
    found = {"data/*.jsonl": tmp_path / "train.jsonl", "README.md": tmp_path / "README.md"}
    write(found["data/*.jsonl"], {"prompt": "a", "answer": "b"})
    found["README.md"].write_text(CARD.format(licence="mit"))

    def snapshot(files: HubFiles) -> Snapshot | None:
        path = found.get(files.patterns[0]) if files.repo == "some/set" else None
        return None if path is None else Snapshot("c" * 40, (path,))

    monkeypatch.setattr(HUB, "snapshot", snapshot)
    return found


def test_a_hub_set_brings_its_licence(hub: dict[str, Path]) -> None:
    found = gather(["some/set:data/*.jsonl"], ["BSD"])
    (prompt,) = found.prompts
    assert (prompt.source, prompt.licence, prompt.reference) == ("some/set", "mit", "b")
    (file,) = found.files
    assert (file.location, file.revision) == ("some/set/train.jsonl", "c" * 40)


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD.format(licence="[mit, cc0-1.0]"), "mit, cc0-1.0"),
        ("no head at all", None),
        ("---\n: [broken\n---\n", None),
        ("---\ntags: [x]\n---\n", None),
        (None, None),
    ],
)
def test_cards(hub: dict[str, Path], card: str | None, licence: str | None) -> None:
    if card is None:
        del hub["README.md"]
    else:
        hub["README.md"].write_text(card)
    (prompt,) = gather(["some/set:data/*.jsonl"], []).prompts
    assert prompt.licence == licence


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("some/set", "write some/set:PATTERN"),
        ("other/set:*.jsonl", "nor to be had from the hub"),
        ("openai/gsm8k", "nor to be had from the hub"),
        ("nowhere.jsonl", "there is no nowhere"),
        ("no/where/at/all.jsonl", "there is no no/where"),
    ],
)
def test_names_that_are_nothing_to_read(hub: dict[str, Path], name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        gather([name], [])


def test_without_names_the_own_prompts_where_there_is_no_hub(hub: dict[str, Path]) -> None:
    found = gather([], [])
    assert {prompt.licence for prompt in found.prompts} == {OWN_LICENCE}
    assert [file.location for file in found.files] == [prompts.OWN.name]
