"""``harness data`` end to end on a tiny model: what is removed, written, resumed and trained on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from drafters.block_diffusion.batch_generator import BatchGenerator
from drafters.block_diffusion.corpus_files import CorpusFiles
from drafters.block_diffusion.prompts import is_held_back, training_prompts
from drafters.block_diffusion.responses import Query
from harness.cli import main
from harness.errors import UserError
from harness.run_files import locked
from targets.base import TargetOptions
from targets.load import load_target
from targets.transformers_lm import TransformersTarget
from tasks import gsm8k
from tasks.hub import HUB
from tests.tiny_model import write_model, write_prompts

SAMPLES = Path(gsm8k.__file__).parent / "samples"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, no hub and no data: the tasks are there as samples."""
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setattr(HUB, "snapshot", lambda files: None)
    torch.set_num_threads(1)


@pytest.fixture
def flags(tiny: Path, tmp_path: Path) -> list[str]:
    """Twelve prompts with answers, and one that a task asks."""
    path = write_prompts(tmp_path / "prompts.jsonl", 12)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    question = json.loads((SAMPLES / "gsm8k.jsonl").read_text().splitlines()[0])["question"]
    rows = [{**row, "answer": "w1 w2"} for row in rows] + [{"prompt": question.upper()}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("data", "--prompts", str(path), "--target", str(tiny), "--dtype", "float32"),
        *("--device", "cpu", "--max-new-tokens", "9", "--output-dir", str(tmp_path / "corpus")),
    ]


def corpus(tmp_path: Path) -> CorpusFiles:
    return CorpusFiles(tmp_path / "corpus")


def rows_of(files: CorpusFiles) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files.rows.read_text(encoding="utf-8").splitlines()]


def manifest_of(files: CorpusFiles) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(files.manifest.read_text(encoding="utf-8"))
    return body


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def test_a_corpus_is_built_and_trained_on(
    flags: list[str], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, "--licence", "CC0"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    files = corpus(tmp_path)
    assert summary["corpus"] == str(files.rows)
    assert (summary["num_rows"], summary["num_removed"], summary["num_left_out"]) == (12, 1, 0)
    assert summary["tokens_per_s"] > 0
    assert "WARNING  gsm8k is here only as" in captured.err
    assert "gsm8k: 1 equal" in captured.err

    target = load_target(TargetOptions(name=str(tiny), dtype="float32"))
    assert isinstance(target, TransformersTarget)
    rows = rows_of(files)
    generator = BatchGenerator(target, 9, batch_size=1)
    for row in rows:
        prompt = target.encode_chat([{"role": "user", "content": row["prompt"]}])
        ((_, expected),) = generator.generate([Query(tuple(prompt))])
        assert row["response_ids"] == expected
        assert row["finished"] == (expected[-1] == 2)
        assert row["reference_ids"] == [*target.tokenizer("w1 w2")["input_ids"][-2:], 2]
        assert (row["source"], row["licence"], row["sample"]) == ("prompts", "CC0", 0)
        assert row["generator"] == "target"
        assert row["sampling"] == {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0}

    body = manifest_of(files)
    assert body["sha256"] == hashlib.sha256(files.rows.read_bytes()).hexdigest()
    assert body["num_response_tokens"] == sum(len(row["response_ids"]) for row in rows)
    assert body["contamination"]["tasks"]["gsm8k"]["num_removed"]["equal"] == 1
    assert body["contamination"]["tasks"]["gsm8k"]["source"]["kind"] == "samples"
    assert body["rows_by_source"] == [{"source": "prompts", "licence": "CC0", "num_rows": 12}]
    assert len(body["target"]["weights_sha256"]) == 64
    (removed,) = [json.loads(line) for line in files.removed.read_text().splitlines()]
    assert [(hit["task"], hit["kind"]) for hit in removed["hits"]] == [("gsm8k", "equal")]
    assert set(removed) == {"prompt_sha256", "source", "hits"}

    train = [
        *("train", "--data", str(files.directory), "--target", str(tiny), "--dtype", "float32"),
        *("--drafter", "uniform", "--steps", "2", "--batch-size", "2", "--num-anchors", "2"),
        *("--block-size", "4", "--num-layers", "1", "--num-features", "2", "--device", "cpu"),
        *("--train-vocab-size", "0", "--held-back", "0.2"),
    ]
    for responses in ("target", "reference"):
        out = tmp_path / responses
        assert main([*train, "--output-dir", str(out), "--responses", responses]) == 0
        training = json.loads((out / "uniform" / "training.json").read_text())
        assert training["responses"] == responses
        assert training["data"]["files"][0]["sha256"] == body["sha256"]


def test_the_same_call_again_changes_nothing(flags: list[str], tmp_path: Path) -> None:
    assert main(flags) == 0
    files = corpus(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in files.directory.iterdir()}
    assert main(flags) == 0
    assert before == {path: path.stat().st_mtime_ns for path in files.directory.iterdir()}


def test_without_generation_only_what_came_with_the_prompts_is_kept(
    flags: list[str], tmp_path: Path
) -> None:
    path = Path(flags[2])
    lines = path.read_text().splitlines()
    first = {**json.loads(lines[0]), "response_ids": [7, 8, 2]}
    path.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    assert main([*flags, "--no-generate"]) == 0
    files = corpus(tmp_path)
    (row,) = rows_of(files)
    assert (row["response_ids"], row["finished"], row["sampling"]) == ([7, 8, 2], True, None)
    body = manifest_of(files)
    assert (body["num_left_out"], body["contamination"]["num_removed"]) == (11, 1)
    # Later the rest is generated into the same corpus.
    assert main(flags) == 0
    assert (len(rows_of(files)), manifest_of(files)["num_left_out"]) == (12, 0)
    assert [7, 8, 2] in [row["response_ids"] for row in rows_of(files)]


def test_samples_are_drawn_apart_and_again_the_same(flags: list[str], tmp_path: Path) -> None:
    sampled = [*flags, "--samples", "3", "--temperature", "1.5", "--top-k", "9"]
    assert main(sampled) == 0
    files = corpus(tmp_path)
    rows = rows_of(files)
    assert len(rows) == 36
    assert [row["sample"] for row in rows[:3]] == [0, 1, 2]
    assert len({tuple(row["response_ids"]) for row in rows[:3]}) > 1
    assert rows[0]["sampling"] == {"temperature": 1.5, "top_p": 1.0, "top_k": 9, "seed": 0}
    differing = {(row["prompt"], tuple(row["response_ids"])) for row in rows}
    found = training_prompts(files.directory).rows
    assert {(row.prompt, row.response_ids) for row in found} == differing
    assert len(found) == len(differing)
    again = [*sampled, "--batch-size", "2", "--output-dir", str(tmp_path / "again")]
    assert main(again) == 0
    assert CorpusFiles(tmp_path / "again").rows.read_bytes() == files.rows.read_bytes()


class Interrupted:
    """A generator whose user loses patience after some responses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, leave: Callable[[], None]) -> None:
        self.left = 5
        self.whole = BatchGenerator.generate
        self.monkeypatch = monkeypatch
        interrupted = self

        def generate(
            own: BatchGenerator, queries: Sequence[Query]
        ) -> Iterator[tuple[int, list[int]]]:
            for found in interrupted.whole(own, queries):
                if not interrupted.left:
                    leave()
                interrupted.left -= 1
                yield found

        monkeypatch.setattr(BatchGenerator, "generate", generate)

    def patient_again(self) -> None:
        self.monkeypatch.setattr(BatchGenerator, "generate", self.whole)


def ctrl_c() -> None:
    raise KeyboardInterrupt


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)


def failure() -> None:
    raise UserError("the server is gone.")


@pytest.mark.parametrize(("leave", "status"), [(ctrl_c, 130), (sigterm, 130), (failure, 2)])
def test_what_was_written_is_kept_and_the_same_call_goes_on(
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    leave: Callable[[], None],
    status: int,
) -> None:
    assert main([*flags, "--output-dir", str(tmp_path / "whole")]) == 0
    interrupted = Interrupted(monkeypatch, leave)
    assert main(flags) == status
    assert "5 of 12 responses of this call are in" in capsys.readouterr().err
    files = corpus(tmp_path)
    assert len(rows_of(files)) == 5 and not files.manifest.exists()
    with pytest.raises(UserError, match="is not finished, or was changed since"):
        training_prompts(files.directory)
    assert len(training_prompts(files.rows).rows) == 5
    kept = files.rows.read_text().splitlines()[:4]
    files.rows.write_text("\n".join(kept) + '\n{"prompt": "w1')  # as a kill may leave it
    interrupted.patient_again()
    assert main(flags) == 0
    assert "cut off a torn last row (14 bytes)" in capsys.readouterr().err
    assert manifest_of(files)["last_sitting"]["num_responses"] == 8
    assert files.rows.read_bytes() == CorpusFiles(tmp_path / "whole").rows.read_bytes()


def test_other_flags_are_another_corpus(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 0
    before = corpus(tmp_path).rows.read_bytes()
    message = refused(capsys, [*flags, "--max-new-tokens", "8"])
    assert "was begun with max_new_tokens 9, and now it is 8" in message
    assert "prompts.num_prompts" in refused(capsys, [*flags, "--max-prompts", "4"])
    assert corpus(tmp_path).rows.read_bytes() == before


def test_a_directory_of_something_else_is_left_alone(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = corpus(tmp_path)
    files.directory.mkdir()
    files.config.write_text('{"run_id": "mine"}')
    assert "holds something else than a corpus" in refused(capsys, flags)
    assert files.config.read_text() == '{"run_id": "mine"}'
    files.config.unlink()
    files.rows.write_text('{"prompt": "mine"}\n')
    assert "holds something else than a corpus" in refused(capsys, flags)


def test_one_process_at_a_time(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = corpus(tmp_path)
    files.begin()
    with locked(files.config, "it"):
        assert "another process works on the corpus in" in refused(capsys, flags)
    assert main(flags) == 0


def test_a_changed_corpus_is_not_trained_on_unseen(flags: list[str], tmp_path: Path) -> None:
    assert main(flags) == 0
    files = corpus(tmp_path)
    files.rows.write_text(files.rows.read_text() + files.rows.read_text())
    with pytest.raises(UserError, match="was changed since"):
        training_prompts(files.directory)


def test_a_damaged_row_is_named(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 0
    files = corpus(tmp_path)
    lines = files.rows.read_text().splitlines(keepends=True)
    files.rows.write_text("".join([*lines[:2], '{"prompt": 3}\n', *lines[3:]]))
    message = refused(capsys, flags)
    assert "corpus.jsonl, line 3" in message and "another --output-dir" in message


def test_reference_training_needs_references(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no reference_ids; build a corpus"):
        training_prompts(Path(flags[2]), "reference")


def test_the_split_follows_the_prompt(flags: list[str], tmp_path: Path) -> None:
    assert main(flags) == 0
    files = corpus(tmp_path)
    split = manifest_of(files)["split"]
    rows = training_prompts(files.directory).rows
    assert split["num_held_back_prompts"] == sum(is_held_back(row, 0.02) for row in rows)
    assert split["num_train_prompts"] + split["num_held_back_prompts"] == 12


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--samples", "2"], "--samples 2 at temperature 0 would be the same response"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--ngram", "2"], "--ngram must be at least 5"),
        (["--top-p", "0"], "--top-p must be in"),
        (["--temperature", "nan"], "--temperature must be at least 0"),
        (["--prompts", "a,,b"], "--prompts has an empty name"),
        (["--prompts", "nowhere.jsonl"], "there is no nowhere.jsonl"),
        (["--target", "smollm3"], "unknown target 'smollm3'"),
        (["--data-dir", "nowhere"], "data directory nowhere is not a directory"),
        (["--endpoint", "nowhere"], "--endpoint nowhere is no address"),
        (["--licence", "x=MIT"], "--licence names x"),
    ],
)
def test_bad_input_is_a_sentence(
    flags: list[str], capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    assert words in refused(capsys, [*flags, *more])


def test_responses_of_another_tokenizer_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(flags[2]).write_text('{"prompt": "a", "response_ids": [9000]}\n')
    assert "another tokenizer (token 9000" in refused(capsys, flags)


def test_killed_at_some_moment_and_called_again(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*flags, "--output-dir", str(tmp_path / "whole")]) == 0
    files = corpus(tmp_path)
    whole = BatchGenerator.generate

    def slow(own: BatchGenerator, queries: Sequence[Query]) -> Iterator[tuple[int, list[int]]]:
        for found in whole(own, queries):
            time.sleep(0.2)
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(BatchGenerator, "generate", slow)
        process = multiprocessing.get_context("fork").Process(target=main, args=(flags,))
        process.start()
    deadline = time.monotonic() + 120
    while not (files.rows.exists() and files.rows.stat().st_size):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert 0 < files.rows.read_text().count("\n") < 12
    assert main(flags) == 0
    assert files.rows.read_bytes() == CorpusFiles(tmp_path / "whole").rows.read_bytes()
