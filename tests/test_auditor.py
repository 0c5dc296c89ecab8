"""The audit of whole runs, through the command line, on a tiny model from files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from run_directories import generation
from tiny_model import write_model

from drafters.base import Proposal
from harness import auditor, decode, verify
from harness.audit import deviations
from harness.audit_records import read_audits
from harness.cli import main
from harness.errors import UserError
from harness.records import Generation, key_of, read_records, to_json
from harness.run_files import RunFiles, alone
from harness.stopping import Stopping
from harness.verdicts import verdict
from targets.transformers_lm import TransformersTarget

METHODS = ("ar_loop", "hf_generate", "ngram", "synthetic")
NUM_ANSWERS = 5 * len(METHODS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def flags(toy_plugin: Path, model: Path, tmp_path: Path) -> list[str]:
    return [
        *("run", "--target", str(model), "--tasks", "counting", "--plugin", str(toy_plugin)),
        *("--device", "cpu", "--drafter", "ngram,synthetic=0.8", "--max-new-tokens", "24"),
        *("--output-dir", str(tmp_path / "runs")),
    ]


class Measured:
    """A finished command: its status, streams and run directory."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = main(arguments)
        self.out, self.err = capsys.readouterr()
        assert "Traceback" not in self.err
        self.summary: dict[str, Any] = {}
        if self.out:
            self.summary = json.loads(self.out.splitlines()[-1])

    @property
    def directory(self) -> Path:
        return Path(self.summary["run_dir"])

    @property
    def page(self) -> str:
        """The Markdown leaderboard of its run."""
        return (self.directory / "leaderboard.md").read_text(encoding="utf-8")


def answers(directory: Path) -> list[Generation]:
    found = read_records(directory / "records.jsonl")
    return [record for record in found if isinstance(record, Generation)]


def verdicts(directory: Path) -> dict[tuple[str, str, int, str, int], str]:
    found = read_audits(directory / "audit.jsonl", answers(directory))
    return {key: verdict(audit) for key, audit in found.items()}


def again(capsys: pytest.CaptureFixture[str], directory: Path, toy_plugin: Path) -> Measured:
    return Measured(capsys, "verify", str(directory), "--plugin", str(toy_plugin))


def tamper(directory: Path, method: str, shift: int, token: int | None = None) -> tuple[str, int]:
    """Change one token of one answer; its prompt and position."""
    records = list(read_records(directory / "records.jsonl"))
    index, item = next(
        (i, r) for i, r in enumerate(records) if isinstance(r, Generation) and r.method == method
    )
    position = len(item.new_tokens) - 1
    other = (item.new_tokens[-1] + shift) % 40 if token is None else token
    tokens = (*item.new_tokens[:-1], other)
    records[index] = dataclasses.replace(item, new_tokens=tokens)
    text = "".join(to_json(record) + "\n" for record in records)
    (directory / "records.jsonl").write_text(text, encoding="utf-8")
    return item.prompt_id, position


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_answer_of_an_honest_run_is_audited(
    flags: list[str], dtype: str, capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags, "--dtype", dtype)
    assert (done.status, done.summary["num_mismatches"]) == (0, 0)
    wider = {"float32": "float64", "bfloat16": "float32"}[dtype]
    assert f"audit    {NUM_ANSWERS} answers against {wider}" in done.err
    found = verdicts(done.directory)
    assert set(found) == {key_of(item) for item in answers(done.directory)}
    assert len(found) == NUM_ANSWERS and "MISMATCH" not in found.values()
    assert all(word == "exact" for key, word in found.items() if key[3] == "ar_loop")
    if dtype == "float32":
        assert set(found.values()) == {"exact"}
    assert "### Losslessness" in done.page and "| Lossless " in done.page
    before = (done.directory / "audit.jsonl").read_bytes()
    repeated = again(capsys, done.directory, toy_plugin)
    assert (repeated.status, repeated.summary["num_audited"]) == (0, NUM_ANSWERS)
    assert "answers against" not in repeated.err
    assert (done.directory / "audit.jsonl").read_bytes() == before
    (done.directory / "audit.jsonl").unlink()
    anew = again(capsys, done.directory, toy_plugin)
    assert anew.status == 0 and "answers against" in anew.err
    assert verdicts(done.directory) == found
    assert anew.out.splitlines()[-1] == repeated.out.splitlines()[-1]


def test_a_bug_in_acceptance_fails_the_run_and_is_named(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify._descend
    blocks: list[Sequence[int]] = []

    def careless(drawn: torch.Tensor, proposal: Proposal) -> verify.Verdict:
        if len(proposal.parents) > 2:
            blocks.append(proposal.parents)
            if len(blocks) % 5 == 0:  # the third draft token is waved through
                drawn = drawn.clone()
                drawn[:3] = proposal.tokens[:3]
        return honest(drawn, proposal)

    monkeypatch.setattr(verify, "_descend", careless)
    done = Measured(capsys, *flags, "--dtype", "float32")
    assert done.status == 1 and done.summary["num_mismatches"] >= 1
    found = verdicts(done.directory)
    wrong = {key for key, word in found.items() if word == "MISMATCH"}
    assert len(wrong) == done.summary["num_mismatches"]
    assert {key[3] for key in wrong} <= {"ngram", "synthetic"}
    lines = [line for line in done.err.splitlines() if line.startswith("MISMATCH: ")]
    assert len(lines) == len(wrong)
    for task, prompt_id, turn, method, repeat in wrong:
        start = f"MISMATCH: {task} {prompt_id}, turn {turn}, {method}, repeat {repeat}: position "
        assert any(line.startswith(start) and "margin" in line for line in lines)
    assert "### MISMATCH" in done.page and "are not the target's; listed below" in done.page


def test_tampered_records_are_found(
    flags: list[str], capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags)
    prompt_id, position = tamper(done.directory, "ngram", 1)
    second = again(capsys, done.directory, toy_plugin)
    assert second.status == 1 and second.summary["num_mismatches"] == 1
    assert f"MISMATCH: counting {prompt_id}, turn 1, ngram, repeat 0: position {position}, " in (
        second.err
    )
    assert "1 MISMATCH, 0 not audited" in second.out
    assert "audit    1 answers" in second.err  # the others were as they had been


def test_a_loop_that_ends_too_soon_fails_the_run(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All methods alike, so that no answer is another's beginning."""
    honest = decode.stopping_for

    def hasty(target: Any, prompt_ids: Any, max_new_tokens: int, stop_strings: Any) -> Stopping:
        return honest(target, prompt_ids, max_new_tokens - 3, stop_strings)

    monkeypatch.setattr(decode, "stopping_for", hasty)
    done = Measured(capsys, *flags, "--dtype", "float32", "--baseline", "ar_loop")
    cut = [item for item in answers(done.directory) if item.finish_reason == "length"]
    assert cut and done.status == 1 and done.summary["num_mismatches"] == len(cut)
    line = "ends after 21 tokens at no stop token, and the limit was 24"
    assert done.err.count(line) == len(cut)


def test_an_answer_that_goes_on_behind_a_stop_token_is_found(
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    toy_plugin: Path,
) -> None:
    done = Measured(capsys, *flags, "--dtype", "float32", "--baseline", "ar_loop")
    assert done.status == 0
    token = answers(done.directory)[0].new_tokens[5]
    late = [item for item in answers(done.directory) if token in item.new_tokens[:-1]]
    (done.directory / "audit.jsonl").unlink()
    stop_ids = frozenset({2, token})
    monkeypatch.setattr("targets.transformers_lm._stop_ids", lambda model, tokenizer: stop_ids)
    found = again(capsys, done.directory, toy_plugin)
    assert found.status == 1 and found.err.count("goes on behind the stop token") == len(late)
    assert found.summary["num_mismatches"] >= len(late) >= 2


def test_a_partial_run_is_audited_as_far_as_it_goes(
    flags: list[str], capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags)
    records = done.directory / "records.jsonl"
    lines = records.read_text(encoding="utf-8").splitlines(keepends=True)
    records.write_text("".join(lines[:6]) + lines[6][:40], encoding="utf-8")
    audits = done.directory / "audit.jsonl"
    whole = audits.read_bytes()
    audits.write_bytes(whole[: whole.index(b"\n") + 30])
    partial = again(capsys, done.directory, toy_plugin)
    assert partial.status == 0 and "cut off a torn last audit (29 bytes)" in partial.err
    kept = answers(done.directory)
    with_loop = {(i.prompt_id, i.turn) for i in kept if i.method == "ar_loop"}
    expected = {key_of(i) for i in kept if (i.prompt_id, i.turn) in with_loop}
    assert set(verdicts(done.directory)) == expected and expected
    resumed = Measured(capsys, *flags, "--resume", str(done.directory))
    assert resumed.status == 0 and len(verdicts(done.directory)) == NUM_ANSWERS


def test_above_temperature_0_draws_are_audited_instead(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    done = Measured(capsys, *flags, "--temperature", "0.7")
    assert done.status == 0 and not (done.directory / "audit.jsonl").exists()
    assert (done.directory / "draws.jsonl").exists()


def test_a_target_that_cannot_score_is_said_once(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--target", "toy", "--tasks", "counting", "--device", "cpu", "--baseline", "ar_loop"]
    flags += ["--plugin", str(toy_plugin), "--drafter", "oracle", "--max-new-tokens", "8"]
    done = Measured(capsys, "run", *flags, "--output-dir", str(tmp_path))
    assert done.status == 0 and done.summary["num_mismatches"] is None
    assert done.err.count("not audited: target toy has no `score`") == 1
    refused = again(capsys, done.directory, toy_plugin)
    assert refused.status == 2 and "has no `score`" in refused.err


def test_a_reference_without_room_leaves_blanks(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(options: object) -> object:
        raise UserError("toy needs 64.0 GB in torch.float32 and 2.0 GB of memory are free; ….")

    monkeypatch.setattr("harness.auditor.load_target", no_room)
    done = Measured(capsys, *flags)
    assert done.status == 0 and done.summary["num_mismatches"] is None
    assert done.err.count("not audited: the reference") == 1 and "in float32" in done.err
    assert "### Losslessness" not in done.page


def test_memory_that_runs_out_keeps_what_was_audited(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    honest = TransformersTarget.score

    def hungry(self: Any, prompt_ids: Any, new_tokens: Any) -> Any:
        passes.append(len(new_tokens))
        if len(passes) > 5:
            raise torch.OutOfMemoryError
        return honest(self, prompt_ids, new_tokens)

    monkeypatch.setattr(TransformersTarget, "score", hungry)
    done = Measured(capsys, *flags)
    assert done.status == 0 and "memory ran out" in done.err
    assert 0 < len(verdicts(done.directory)) < NUM_ANSWERS
    assert " audited)" in done.page


def test_a_mismatch_found_before_memory_ran_out_fails_the_run(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest_score, honest_rule, scored = TransformersTarget.score, verify._descend, []

    def hungry(self: Any, prompt_ids: Any, new_tokens: Any) -> Any:
        scored.append(1)
        if len(scored) > 30:
            raise torch.OutOfMemoryError
        return honest_score(self, prompt_ids, new_tokens)

    def careless(drawn: torch.Tensor, proposal: Proposal) -> verify.Verdict:
        if len(proposal.parents) > 2:
            drawn = drawn.clone()
            drawn[:3] = proposal.tokens[:3]
        return honest_rule(drawn, proposal)

    monkeypatch.setattr(TransformersTarget, "score", hungry)
    monkeypatch.setattr(verify, "_descend", careless)
    done = Measured(capsys, *flags, "--dtype", "float32")
    assert done.status == 1 and "memory ran out" in done.err
    assert done.summary["num_mismatches"] >= 1 and "MISMATCH: counting" in done.err


@pytest.mark.parametrize("temperature", ["0", "0.9"])
def test_a_target_that_scores_too_few_tokens_is_one_sentence(
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    temperature: str,
) -> None:
    monkeypatch.setattr(TransformersTarget, "score", lambda *arguments: iter(()))
    done = Measured(capsys, *flags, "--temperature", temperature)
    assert done.status == 2 and "the target scored 0 of its" in done.err
    assert "### Leaderboard" in done.page


def test_a_run_that_another_process_works_on_is_left_alone(
    flags: list[str], capsys: pytest.CaptureFixture[str], toy_plugin: Path
) -> None:
    done = Measured(capsys, *flags, "--baseline", "ar_loop")
    with alone(RunFiles(done.directory)):
        for refused in (
            again(capsys, done.directory, toy_plugin),
            Measured(capsys, *flags, "--baseline", "ar_loop", "--resume", str(done.directory)),
        ):
            assert refused.status == 2 and "another process works on run" in refused.err
    assert again(capsys, done.directory, toy_plugin).status == 0


def test_what_cannot_be_verified(
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
    toy_plugin: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        refused = again(capsys, path, toy_plugin)
        assert refused.status == 2 and "give a run directory" in refused.err
    done = Measured(capsys, *flags)
    config = done.directory / "config.json"
    whole = config.read_text(encoding="utf-8")
    for field, value, message in (
        ("weights_sha256", "0" * 64, "whose weights_sha256 was 0000"),
        ("dtype", None, "measured in dtype None"),
        ("device", "cuda", "measured on cuda"),
    ):
        if field == "device" and torch.cuda.is_available():
            continue
        body = json.loads(whole)
        body["target"][field] = value
        config.write_text(json.dumps(body), encoding="utf-8")
        refused = again(capsys, done.directory, toy_plugin)
        assert refused.status == 2 and message in refused.err
    body = json.loads(whole)
    body["tasks"][0]["source"]["digest"] = "1" * 64
    config.write_text(json.dumps(body), encoding="utf-8")
    assert "--data-dir" in again(capsys, done.directory, toy_plugin).err
    config.write_text(whole, encoding="utf-8")
    (done.directory / "audit.jsonl").write_text("{}\n", encoding="utf-8")
    assert "line 1" in again(capsys, done.directory, toy_plugin).err
    (done.directory / "audit.jsonl").unlink()
    records = done.directory / "records.jsonl"
    text = records.read_text(encoding="utf-8")
    digest = answers(done.directory)[0].prompt_sha256
    records.write_text(text.replace(digest, "2" * 64), encoding="utf-8")
    assert "prompt_sha256 differs" in again(capsys, done.directory, toy_plugin).err
    records.write_text(text, encoding="utf-8")
    tamper(done.directory, "ngram", 0, token=99999)
    assert "tokens that the target does not have" in again(capsys, done.directory, toy_plugin).err


class Rows:
    """Scores an answer by rows that were given: in one pass, and in passes of one token."""

    def __init__(self, at_once: torch.Tensor, stepwise: torch.Tensor) -> None:
        self._at_once, self._stepwise = at_once, stepwise
        self.steps: list[int] = []

    def score(self, prompt_ids: Sequence[int], new_tokens: Sequence[int]) -> Any:
        yield self._at_once[: len(new_tokens)]

    def score_stepwise(self, prompt_ids: Sequence[int], new_tokens: Sequence[int]) -> Any:
        self.steps.append(len(new_tokens))
        yield from self._stepwise[: len(new_tokens), None]


def test_noise_is_the_larger_of_two_measurements_wherever_one_was_too_small() -> None:
    """Up to the last doubtful place, in one-token passes; a first noise is never made smaller."""
    reference = torch.zeros(6, 3)
    reference[[0, 1, 3], 1] = torch.tensor([0.5, 1.0, 0.5])  # another token would have been best
    reference[[2, 4, 5], 0] = 5.0
    at_once, stepwise = reference.clone(), reference.clone()
    at_once[[0, 1, 3], 1] -= torch.tensor([0.01, 0.4, 0.02])
    stepwise[[0, 1, 3], 1] -= torch.tensor([0.2, 0.05, 0.3])
    answer = generation(accepted=[2, 1])
    answer = dataclasses.replace(answer, new_tokens=(0,) * 6)
    own = Rows(at_once, stepwise)
    found = auditor._score(own, Rows(reference, reference), [1], answer)
    noise = {item.position: item.noise for item in found}
    once, again = (
        {i.position: i.noise for i in deviations(reference, rows, torch.zeros(6).long(), 0)}
        for rows in (at_once, stepwise)
    )
    assert noise == pytest.approx({0: again[0], 1: once[1], 3: again[3]})
    assert again[0] > once[0] and once[1] > again[1] and again[3] > once[3]
    assert own.steps == [4]
