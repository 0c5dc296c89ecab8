"""The hub as a source: what it gives, and what happens when it gives nothing."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from harness import hub
from harness.registry import resolve
from tasks import TASKS, row_task
from tasks.base import PromptSet
from tasks.hub import Hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
QUESTION = {"question_id": 81, "category": "writing", "prompt": ["First?", "Second?"]}


class FakeHub:
    """Stands in for the hub's client: a folder, or an error for the question or the download."""

    def __init__(self, answer: Path | Exception, download: Exception | None = None) -> None:
        self.answer, self.download = answer, download
        self.asked: list[tuple[str, float]] = []
        self.calls: list[dict[str, Any]] = []

    def dataset_info(self, repo: str, timeout: float) -> None:
        self.asked.append((repo, timeout))
        if isinstance(self.answer, Exception):
            raise self.answer

    def snapshot_download(self, repo: str, **arguments: Any) -> str:
        self.calls.append({"repo": repo, **arguments})
        if self.download is not None:
            raise self.download
        if isinstance(self.answer, Exception):
            raise LocalEntryNotFoundError("not cached")
        return str(self.answer)


@pytest.fixture(autouse=True)
def fresh_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(row_task, "HUB", Hub())
    yield


def answering(
    monkeypatch: pytest.MonkeyPatch, answer: Path | Exception, download: Exception | None = None
) -> FakeHub:
    fake = FakeHub(answer, download)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def load(name: str) -> PromptSet:
    found: PromptSet = resolve("tasks", name).load().load(None, None)
    return found


def refusal() -> HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, status_code=403, request=None)
    return HfHubHTTPError("403 gated", response=response)


def mt_bench_snapshot(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / COMMIT
    (folder / "raw").mkdir(parents=True)
    (folder / "raw/question.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_rows_from_the_hub_carry_the_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = mt_bench_snapshot(tmp_path, json.dumps(QUESTION) + "\n")
    fake = answering(monkeypatch, folder)
    found = load("mt_bench")
    assert [prompt.prompt_id for prompt in found.prompts] == ["81"]
    assert found.source.kind == "hub" and found.source.is_benchmark
    assert found.source.location == "HuggingFaceH4/mt_bench_prompts"
    assert found.source.revision == COMMIT
    ((repo, timeout),) = fake.asked
    assert repo == found.source.location and timeout <= 5
    assert fake.calls == [
        {
            "repo": "HuggingFaceH4/mt_bench_prompts",
            "repo_type": "dataset",
            "allow_patterns": ["raw/question.jsonl"],
            "local_files_only": False,
        }
    ]


def test_the_hub_digest_is_of_the_rows_and_not_of_their_spelling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digests = []
    for number, text in enumerate(
        (
            json.dumps(QUESTION),
            json.dumps(QUESTION, sort_keys=True, separators=(",", ":")),
            json.dumps({**QUESTION, "category": "math"}),
        )
    ):
        answering(monkeypatch, mt_bench_snapshot(tmp_path / str(number), text))
        digests.append(load("mt_bench").source.digest)
    assert digests[0] == digests[1] != digests[2]


def test_parquet_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / COMMIT
    (folder / "main").mkdir(parents=True)
    table = pyarrow.Table.from_pylist([{"question": "How many?", "answer": "#### 4"}])
    parquet.write_table(table, folder / "main/test-00000-of-00001.parquet")
    answering(monkeypatch, folder)
    (prompt,) = load("gsm8k").prompts
    assert prompt.prompt_id == "gsm8k/test/0"
    assert prompt.reference["answer"] == "4"


def test_an_unreachable_hub_is_tried_once_and_quietly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = answering(monkeypatch, ConnectionError("no network"))
    with caplog.at_level(logging.WARNING):
        sources = [load(name).source for name in TASKS]
    assert [source.kind for source in sources] == ["samples"] * len(TASKS)
    assert not any(source.is_benchmark for source in sources)
    assert len(fake.asked) == 1
    assert [call["local_files_only"] for call in fake.calls] == [True] * len(TASKS)
    assert caplog.records == []


def test_an_unreachable_hub_leaves_its_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = mt_bench_snapshot(tmp_path, json.dumps(QUESTION) + "\n")
    answering(monkeypatch, ConnectionError("no network"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(folder))
    source = load("mt_bench").source
    assert (source.kind, source.revision) == ("hub", COMMIT)


def test_a_refusal_is_logged_and_the_next_task_still_asks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = answering(monkeypatch, refusal())
    with caplog.at_level(logging.WARNING):
        assert load("mt_bench").source.kind == "samples"
        assert load("gsm8k").source.kind == "samples"
    assert len(fake.asked) == 2
    assert "refused openai/gsm8k: HfHubHTTPError: 403 gated" in caplog.text


def test_a_download_that_breaks_off_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answering(monkeypatch, tmp_path / COMMIT, RuntimeError("the line went dead"))
    with caplog.at_level(logging.WARNING):
        assert load("alpaca").source.kind == "samples"
    assert "tatsu-lab/alpaca could not be downloaded" in caplog.text
    assert "the line went dead" in caplog.text


def test_part_of_the_files_does_not_pass_for_the_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / COMMIT
    folder.mkdir()
    for name in ("test.jsonl", "test2.jsonl"):
        (folder / name).write_text("{}\n")
    answering(monkeypatch, folder)
    with caplog.at_level(logging.WARNING):
        assert load("livecodebench").source.kind == "samples"
    assert "holds no test3.jsonl" in caplog.text


def test_rows_that_changed_upstream_are_logged_and_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answering(monkeypatch, mt_bench_snapshot(tmp_path, '{"question_id": 81}\n'))
    with caplog.at_level(logging.WARNING):
        assert load("mt_bench").source.kind == "samples"
    assert "'turns' should be a list of strings" in caplog.text


def test_without_a_parquet_reader_the_samples_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / COMMIT
    (folder / "main").mkdir(parents=True)
    (folder / "main/test-00000-of-00001.parquet").write_bytes(b"")
    answering(monkeypatch, folder)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with caplog.at_level(logging.WARNING):
        assert load("gsm8k").source.kind == "samples"
    assert "openai/gsm8k from the hub cannot be used" in caplog.text


def test_offline_for_real(tmp_path: Path) -> None:
    code = (
        "from tasks import TASKS\n"
        "for entry in TASKS.values(): print(entry.load().load(None, 2).source.kind)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["samples"] * len(TASKS)
    assert done.stderr == ""
