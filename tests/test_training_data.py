"""Training prompts: where they come from when none are named, and what is recorded of them."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from drafters.block_diffusion import config, prompts, trainer
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.prompt_sources import gather
from drafters.block_diffusion.prompts import (
    PromptFile,
    PromptRow,
    in_stable_order,
    training_prompts,
)
from harness.cli import main
from harness.errors import UserError
from tasks.hub import HUB, HubFiles, Snapshot
from tests.tiny_model import write_model
from tests.upstream import DATA_DIR

SAMPLES = Path(__file__).parents[1] / "tasks/samples"
COMMITS = {files.repo: str(number) * 40 for number, files in enumerate(prompts.HUB_FILES, start=1)}
DOLLY = [
    {"instruction": "Name a tree.", "context": "", "response": "Oak", "category": "open_qa"},
    {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada", "category": "closed_qa"},
]
GSM8K = [{"question": "What is 2 + 2?", "answer": "#### 4"}]

SMALL = {
    "steps": 2,
    "batch_size": 2,
    "num_anchors": 2,
    "block_size": 4,
    "num_layers": 1,
    "num_features": 2,
    "train_vocab_size": 0,
    "max_prompts": 12,
    "max_new_tokens": 8,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def one_thread(own_cache: Path) -> None:
    torch.set_num_threads(1)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does, with nothing in the hub's cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(HUB, "answers", True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A hub with both sets; their files by name of the set."""
    from pyarrow import Table, parquet

    dolly, gsm8k = (files.repo for files in prompts.HUB_FILES)
    found = {
        dolly: tmp_path / "databricks-dolly-15k.jsonl",
        gsm8k: tmp_path / "train-00000-of-00001.parquet",
    }
    found[dolly].write_text("".join(json.dumps(row) + "\n" for row in DOLLY))
    parquet.write_table(Table.from_pylist(GSM8K), found[gsm8k])

    def snapshot(files: HubFiles) -> Snapshot | None:
        if files.repo not in found:
            return None
        return Snapshot(COMMITS[files.repo], (found[files.repo],))

    monkeypatch.setattr(HUB, "snapshot", snapshot)
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def small(**settings: Any) -> TrainConfig:
    return TrainConfig(**{**SMALL, **settings})


def training_record(directory: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    return body


def test_the_hub_comes_first(
    hub: dict[str, Path], tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = training_prompts(None)
    assert {row.prompt for row in found.rows} == {
        "Name a tree.",
        "Who?\n\nInput:\nAda wrote it.",
        "What is 2 + 2?",
    }
    assert all(row.response_ids is None for row in found.rows)
    (directory,) = trainer.train(small(target=str(tiny), output_dir=tmp_path / "out"))
    data = training_record(directory)["data"]
    assert data["kind"] == "hub"
    assert data["name"] == "databricks/databricks-dolly-15k, openai/gsm8k"
    assert data["files"] == [
        {"location": f"{repo}/{path.name}", "revision": COMMITS[repo], "sha256": sha256(path)}
        for repo, path in hub.items()
    ]
    assert not caplog.records


def test_a_named_file_comes_before_the_hub(hub: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Mine."}\n')
    found = training_prompts(path)
    assert [row.prompt for row in found.rows] == ["Mine."]
    assert (found.kind, found.name) == ("directory", "mine.jsonl")
    assert found.files == (PromptFile("mine.jsonl", None, sha256(path)),)


@pytest.mark.parametrize("repo", COMMITS)
def test_half_a_hub_is_not_used(hub: dict[str, Path], repo: str) -> None:
    del hub[repo]
    assert training_prompts(None).kind == "own"


@pytest.mark.parametrize("text", ["not JSON", ""])
def test_a_hub_file_that_cannot_be_read(
    hub: dict[str, Path], caplog: pytest.LogCaptureFixture, text: str
) -> None:
    hub["databricks/databricks-dolly-15k"].write_text(text)
    assert training_prompts(None).kind == "own"
    first, second = (record.getMessage() for record in caplog.records)
    assert "databricks/databricks-dolly-15k from the hub cannot be used" in first
    assert "--data" in second


def test_offline_training_takes_the_own_prompts_and_says_so(
    offline: None, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (directory,) = trainer.train(small(target=str(tiny), output_dir=tmp_path / "out"))
    (message,) = [record.getMessage() for record in caplog.records if "prompts" in record.name]
    assert "the project's own" in message and "--data FILE" in message and "\n" not in message
    data = training_record(directory)["data"]
    assert (data["kind"], data["name"]) == ("own", "prompts.jsonl")
    assert data["files"] == [
        {"location": "prompts.jsonl", "revision": None, "sha256": sha256(prompts.OWN)}
    ]
    assert data["num_sequences"] + data["num_held_back"] == 12


def test_train_if_missing_needs_no_data(
    offline: None,
    tiny: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setattr(config, "TrainConfig", functools.partial(TrainConfig, **SMALL))
    run = ["run", "--target", str(tiny), "--drafter", "combined", "--tasks", "gsm8k"]
    run += ["--limit", "1", "--max-new-tokens", "8", "--dtype", "float32", "--device", "cpu"]
    run += ["--output-dir", str(tmp_path / "runs")]
    assert main(run) == 2
    assert "--train-if-missing" in capsys.readouterr().err
    assert main([*run, "--train-if-missing"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    record = json.loads((Path(summary["run_dir"]) / "config.json").read_text(encoding="utf-8"))
    method = record["methods"][-1]
    assert method["method"] == "combined"
    data = method["checkpoint"]["training"]["data"]
    assert (data["kind"], data["name"]) == ("own", "prompts.jsonl")
    assert data["files"][0]["sha256"] == sha256(prompts.OWN)
    assert summary["num_failures"] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a"}\n{"prompt"', "line 2"),
        ('{"answer": "a"}\n', "line 1: a training prompt needs a string under one of prompt, "),
        ('{"prompt": 3}\n', "line 1: a training prompt needs a string"),
        ('{"prompt": "a", "response_ids": "no"}\n', "line 1: 'response_ids' should be a list"),
        ('{"prompt": "a", "response_ids": 3}\n', "line 1: 'response_ids' should be a list"),
        ('{"prompt": "a", "response_ids": [1e999]}\n', "line 1"),
        ('{"prompt": "a", "response_ids": "12"}\n', "line 1: 'response_ids' .* of type str"),
        ('{"prompt": "a", "response_ids": [4, 2.5]}\n', r"line 1: 'response_ids'\[1\] .* float"),
        ('{"prompt": "a", "response_ids": [true]}\n', r"line 1: 'response_ids'\[0\] .* bool"),
        ('{"prompt": "a", "response_ids": ["7"]}\n', r"line 1: 'response_ids'\[0\] .* str"),
        ('{"prompt": "a", "response_ids": {"7": 1}}\n', "line 1: 'response_ids' .* dict"),
        ('{"prompt": "a", "reference_ids": [2.0]}\n', r"line 1: 'reference_ids'\[0\] .* float"),
        ('{"instruction": "a", "input": ["b"]}\n', "line 1: 'input' should be a string"),
        ('{"messages": []}\n', "line 1: 'messages' holds no message of a user"),
        ('{"messages": ["hi"]}\n', r"line 1: 'messages\[0\]' should be a message"),
        ('{"messages": [{"content": "hi"}]}\n', r"'messages\[0\]' should say under 'role' or"),
        ('{"messages": [{"role": "user", "content": 3}]}\n', "should hold text under 'content'"),
        ('{"conversations": [{"from": "gpt", "value": "hi"}]}\n', "no message of a user"),
        ('{"messages": "hi"}\n', "or a list of messages under messages or conversations"),
        ('{"prompt": "a", "response_ids": [3, -1]}\n', r"token ids \(-1 is none\)"),
        ('{"prompt": "a", "reference_ids": "no"}\n', "line 1: 'reference_ids' should be a list"),
        ("[1]\n", "line 1"),
        ("", "holds no rows"),
    ],
)
def test_unreadable_prompts(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        training_prompts(path)


def test_no_prompts_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no "):
        training_prompts(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl file"):
        training_prompts(tmp_path / "empty")


def test_upstream_formats_are_read(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Add.", "input": "1 2"},
        {"instruction": "Who?", "context": "Ada."},
        {"question": "Q?"},
        {"text": "A line\u2028and another."},
        {"prompt": "Q?", "response_ids": [3, 4]},
        {"prompt": "Q?", "response_ids": [5]},
        {"prompt": "Q?", "response_ids": [3, 4]},
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("".join(lines[3:]), encoding="utf-8")
    found = training_prompts(tmp_path)
    assert [(row.prompt, row.response_ids) for row in found.rows] == [
        ("Add.\n\nInput:\n1 2", None),
        ("Who?\n\nInput:\nAda.", None),
        ("Q?", (3, 4)),
        ("Q?", (5,)),
        ("A line\u2028and another.", None),
    ]
    assert [file.location for file in found.files] == ["a.jsonl", "b.jsonl"]


def said(role: str, text: Any) -> dict[str, Any]:
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("row", "prompt", "reference", "is_cut"),
    [
        ({"messages": [said("user", "Q?"), said("assistant", "A.")]}, "Q?", "A.", False),
        ({"messages": [said("user", "Q?")]}, "Q?", None, False),
        ({"prompt": [said("user", "Q?")], "answer": "B."}, "Q?", "B.", False),
        ({"messages": [said("User", [{"type": "text", "text": "Q?"}])]}, "Q?", None, False),
        (
            {"messages": [said("system", "Be."), said("user", "Q?"), said("assistant", "A.")]},
            "Q?",
            "A.",
            True,
        ),
        ({"messages": [said("user", "Q?"), said("user", "R?")]}, "Q?", None, True),
        ({"messages": [said("user", "Q?"), said("assistant", None)]}, "Q?", None, True),
        (
            {
                "conversations": [
                    {"from": "gpt", "value": "Hello."},
                    {"from": "human", "value": "Q?"},
                    {"from": "gpt", "value": "A."},
                    {"from": "human", "value": "R?"},
                ]
            },
            "Q?",
            "A.",
            True,
        ),
    ],
)
def test_of_a_conversation_the_first_question_is_asked(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    row: dict[str, Any],
    prompt: str,
    reference: str | None,
    is_cut: bool,
) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps(row) + "\n")
    for found in (training_prompts(path).rows, gather([str(path)], []).prompts):
        assert [(one.prompt, one.reference) for one in found] == [(prompt, reference)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (2 if is_cut else 0)
    assert all("1 of 1 rows of " in message and "first question" in message for message in messages)


def test_a_prompt_brings_all_its_responses() -> None:
    """The most prompts asked for are prompts, not rows; and their order is the hash's."""
    rows = [PromptRow(f"p{i // 3}", (i,)) for i in range(12)]
    chosen = in_stable_order(rows, 2)
    assert len(chosen) == 6 and len({row.prompt for row in chosen}) == 2
    assert chosen == in_stable_order(rows)[:6]
    assert {row.prompt for row in in_stable_order(rows[::-1], 2)} == {row.prompt for row in chosen}


def own_prompts() -> list[str]:
    lines = prompts.OWN.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def eight_grams(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[start : start + 8]) for start in range(len(found) - 7)}


def strings(value: Any) -> Iterator[str]:
    """Every string inside a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def benchmark_texts(directory: Path) -> list[str]:
    lines = [
        line
        for path in sorted(directory.rglob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    return [text for line in lines for text in strings(json.loads(line))]


def assert_apart(texts: list[str]) -> None:
    """No stretch of eight words in common, and no short prompt with the same words."""
    assert len(texts) > 100
    theirs = set().union(*map(eight_grams, texts))
    wholes = {tuple(words(text)) for text in texts}
    for prompt in own_prompts():
        assert not eight_grams(prompt) & theirs, prompt
        assert tuple(words(prompt)) not in wholes, prompt


def test_own_prompts_are_many_distinct_and_plain() -> None:
    own = own_prompts()
    assert len(own) == len({tuple(words(prompt)) for prompt in own}) >= 240
    assert all(prompt == prompt.strip() and len(words(prompt)) >= 4 for prompt in own)
    assert len(training_prompts(prompts.OWN).rows) == len(own)


def test_own_prompts_are_none_of_the_samples() -> None:
    assert_apart(benchmark_texts(SAMPLES))


@pytest.mark.skipif(DATA_DIR is None, reason="HARNESS_DATA_DIR is not set")
def test_own_prompts_are_none_of_the_benchmarks() -> None:
    assert DATA_DIR is not None
    assert_apart(benchmark_texts(DATA_DIR))
