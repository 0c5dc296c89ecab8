"""Damaged input of every kind: one sentence, or good work; never another exception.

50 examples a test here; HYPOTHESIS_PROFILE=fuzz runs 2,000.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
import toy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from mangle import mangled_bytes, mangled_json, mangled_lines, mangled_object, texts
from pyarrow import parquet
from run_bodies import make_run_bodies, write_bodies
from test_block_diffusion import small_config

from drafters.block_diffusion import checkpoint
from drafters.block_diffusion.config import TrainConfig
from drafters.block_diffusion.corpus_files import CorpusFiles, CorpusRow
from drafters.block_diffusion.drafter import build
from drafters.block_diffusion.prompts import training_prompts
from drafters.block_diffusion.shared_head import SharedHead
from drafters.block_diffusion.variant import initial_model
from drafters.options import DrafterOptions
from harness import cli, registry
from harness.audit_records import Deviation, make_audit
from harness.audit_records import from_json as audit_from_json
from harness.audit_records import to_json as audit_to_json
from harness.config import (
    CompareConfig,
    DoctorConfig,
    ListConfig,
    ReportConfig,
    RunConfig,
    VerifyConfig,
)
from harness.data_config import DataConfig
from harness.errors import UserError
from harness.records import (
    FinishReason,
    Generation,
    from_json,
    key_of,
    read_lines,
    read_records,
    to_json,
)
from harness.run_files import RunFiles, reopen
from harness.sampling import Sampling
from tasks.row_task import SAMPLES

same_place = settings(
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ]
)
TASK_NAMES = sorted(path.stem for path in SAMPLES.glob("*.jsonl"))


def is_sentence(text: str) -> bool:
    return len(text.splitlines()) == 1 and len(text) > 10 and text.rstrip().endswith((".", "?"))


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """Let a `UserError` pass if it is one sentence, and nothing else."""
    try:
        yield
    except UserError as error:
        assert is_sentence(str(error)), repr(str(error))


# Task files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


class Quiet(dict[str, Any]):
    """Files that are not repeated in full in a message about a failure."""

    def __repr__(self) -> str:
        return f"<{', '.join(self)}>"


def is_possible_argument(text: str) -> bool:
    """Whether a system can pass it to a program."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def sample_rows(name: str) -> list[dict[str, Any]]:
    lines = (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    return [json.loads(line) for line in lines]


def load_task(name: str, directory: Path, file: str) -> None:
    task = dataclasses.replace(registry.load("tasks", name), files=(file,))
    with one_sentence():
        found = task.load(directory, None)
        ids = [prompt.prompt_id for prompt in found.prompts]
        assert ids and len(set(ids)) == len(ids) and found.source.num_rows == len(ids)
        assert all(prompt.turns for prompt in found.prompts)


@same_place
@given(st.data(), st.sampled_from(TASK_NAMES), st.sampled_from(["jsonl", "jsonl.gz", "json"]))
def test_task_files_of_text(place: Path, data: st.DataObject, name: str, ending: str) -> None:
    rows = sample_rows(name)
    whole = data.draw(mangled_object(rows) if ending == "json" else mangled_lines(rows))
    if ending == "jsonl.gz":
        whole = gzip.compress(whole)
        whole = data.draw(st.just(whole) | mangled_bytes(whole))
    (place / f"rows.{ending}").write_bytes(whole)
    load_task(name, place, f"rows.{ending}")


@same_place
@given(st.data(), st.sampled_from(TASK_NAMES))
def test_task_files_of_parquet(place: Path, data: st.DataObject, name: str) -> None:
    rows = data.draw(st.just(sample_rows(name)) | mangled_json(sample_rows(name)))
    buffer = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    except Exception:  # what cannot be written as Parquet is not under test
        rows = sample_rows(name)
        parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    whole = buffer.getvalue()
    (place / "rows.parquet").write_bytes(data.draw(st.just(whole) | mangled_bytes(whole)))
    load_task(name, place, "rows.parquet")


# Records and audits

names = st.text(max_size=5)
seconds = st.floats(0, 1e6)


@st.composite
def generations(draw: st.DrawFn) -> Generation:
    accepted = draw(st.none() | st.lists(st.integers(0, 4), max_size=4))
    rounds = None
    length = draw(st.integers(1, 5))
    if accepted is not None:
        from run_directories import rounds as make_rounds

        rounds = make_rounds(accepted, 4, draw(st.integers(0, (accepted or [0])[-1])))
        length = 1 + sum(item.committed for item in rounds)
    return Generation(
        task=draw(names),
        prompt_id=draw(names),
        turn=draw(st.integers(1, 3)),
        method=draw(names),
        repeat=draw(st.integers(0, 3)),
        seed=draw(st.integers(0, 2**63)),
        source="samples",
        source_digest=draw(names),
        prompt_sha256=draw(names),
        num_prompt_tokens=draw(st.integers(1, 99)),
        new_tokens=tuple(draw(st.integers(0, 99)) for _ in range(length)),
        text=draw(st.text()),
        rounds=rounds,
        prefill_s=draw(seconds),
        decode_s=draw(seconds),
        finish_reason=draw(st.sampled_from(FinishReason.__args__)),
        peak_memory_bytes=draw(st.none() | st.integers(0, 2**40)),
    )


@given(generations())
def test_a_record_comes_back_as_it_was(record: Generation) -> None:
    assert from_json(to_json(record)) == record
    audit = make_audit(record, record, [Deviation(position=0, margin=0.5, noise=0.0)])
    assert audit_from_json(audit_to_json(audit)) == audit


def hashable_or_refused(parse: Callable[[str], Any], line: str) -> None:
    """What a parser lets through can be written again, keyed and compared."""
    try:
        record = parse(line)
    except ValueError:
        return
    again = to_json(record) if parse is from_json else audit_to_json(record)
    assert parse(again) == record and hash(key_of(record)) == hash(key_of(parse(again)))


@given(st.data(), generations())
def test_damaged_lines_are_refused_or_are_records(data: st.DataObject, record: Generation) -> None:
    audit = make_audit(record, record, [Deviation(position=0, margin=0.5, noise=0.0)])
    for parse, line in ((from_json, to_json(record)), (audit_from_json, audit_to_json(audit))):
        damaged = data.draw(mangled_object(json.loads(line)))
        hashable_or_refused(parse, damaged.decode(errors="surrogateescape"))


@same_place
@given(st.data(), st.lists(generations(), min_size=1, max_size=3))
def test_damaged_files_of_records(
    place: Path, data: st.DataObject, records: list[Generation]
) -> None:
    path = place / "records.jsonl"
    path.write_bytes(data.draw(mangled_lines([json.loads(to_json(item)) for item in records])))
    for read in (read_records, lambda path: read_lines(path, from_json)):
        with contextlib.suppress(ValueError):
            assert all(hash(key_of(item)) is not None for item in read(path))


# Checkpoints


@pytest.fixture(scope="module")
def target() -> toy.ToyTarget:
    return toy.qwen3()


@pytest.fixture(scope="module")
def saved(target: toy.ToyTarget, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a checkpoint that loads."""
    directory = tmp_path_factory.mktemp("saved") / "drafter"
    head = SharedHead.of(target, torch.arange(target.vocab_size))
    model = initial_model(small_config(target), head, seed=1, dtype=torch.float32)
    training = {"objective": {"gamma": 10}, "target": {"weights_sha256": "0" * 64}, "steps": 3}
    checkpoint.save(directory, model, training, torch.tensor([0, 4, 9]))
    return Quiet({path.name: path.read_bytes() for path in directory.iterdir()})


def with_header(whole: bytes, draw: Callable[[Any], Any]) -> bytes:
    """A safetensors file with a damaged header; its length is right."""
    length = int.from_bytes(whole[:8], "little")
    header = draw(mangled_object(json.loads(whole[8 : 8 + length])))
    return len(header).to_bytes(8, "little") + header + whole[8 + length :]


@same_place
@given(st.data())
def test_damaged_checkpoints(
    place: Path, saved: dict[str, bytes], target: toy.ToyTarget, data: st.DataObject
) -> None:
    directory = place / "drafter"
    directory.mkdir(exist_ok=True)
    for name, whole in saved.items():
        (directory / name).write_bytes(whole)
    name = data.draw(st.sampled_from([*sorted(saved), "config.json"]))
    whole = saved[name]
    if name.endswith(".safetensors"):
        damaged = data.draw(mangled_bytes(whole) | st.none()) or with_header(whole, data.draw)
    else:
        damaged = data.draw(mangled_object(json.loads(whole)))
    (directory / name).write_bytes(damaged)
    with one_sentence():
        found = checkpoint.load(str(directory), target)
        json.dumps(found.describe())
        vocab = data.draw(st.sampled_from(["full", "trained"]))
        options = DrafterOptions(name="uniform", argument=str(directory), draft_vocab=vocab)
        drafts = build(target, options)
        width = len(found.model.config.target_layer_ids) * target.hidden_size
        drafts.start(torch.arange(5), torch.zeros(5, width), Sampling())
        tokens = drafts.propose(range(5), 9, 3).tokens.tolist()
        assert all(0 <= token < target.vocab_size for token in tokens)


@same_place
@given(texts)
def test_names_of_checkpoints(target: toy.ToyTarget, location: str) -> None:
    assume(is_possible_argument(location))
    with pytest.MonkeyPatch.context() as patch, one_sentence():
        patch.setattr("huggingface_hub.snapshot_download", _no_hub)
        directory = checkpoint.user_directory(location, "uniform")
        root = checkpoint.user_cache() / "drafters"
        assert directory.parent.resolve() != root.resolve().parent
        assert directory.resolve().is_relative_to(root.resolve())
        checkpoint.load(location, target)


def _no_hub(*arguments: object, **options: object) -> str:
    raise OSError("no network")


# Corpora


@pytest.fixture(scope="module")
def corpus_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The files of a finished corpus, as JSON values."""
    files = CorpusFiles(tmp_path_factory.mktemp("corpus") / "whole")
    row = CorpusRow(
        prompt="Who?",
        source="a",
        licence=None,
        response_ids=(1, 2),
        finished=True,
        generator="target",
        sampling={"temperature": 0.0},
        sample=0,
        reference_ids=(3, 2),
    )
    files.begin()
    files.settle({"samples": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(files.directory.parent))
        files.finish([row, dataclasses.replace(row, sample=1)], {"num_rows": 2})
    lines = [json.loads(line) for line in files.rows.read_text().splitlines()]
    whole = {path.name: json.loads(path.read_text()) for path in (files.config, files.manifest)}
    return {**whole, files.rows.name: lines}


@same_place
@given(st.data())
def test_damaged_corpora(
    place: Path,
    corpus_files: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    data: st.DataObject,
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(place / "cache"))
    files = CorpusFiles(place / "corpus")
    write_bodies(files.directory, corpus_files)
    assert len(training_prompts(files.rows).rows) == 1
    name = data.draw(st.sampled_from(sorted(corpus_files)))
    mangled = mangled_lines if name.endswith("l") else mangled_object
    (files.directory / name).write_bytes(data.draw(mangled(corpus_files[name])))
    for path in (files.directory, files.rows):
        with one_sentence():
            training_prompts(path)
    with one_sentence():
        files.begin()
        files.settle({"samples": 1})
        files.read_rows()
        files.read_manifest()


# Run directories


@pytest.fixture(scope="module")
def run_bodies() -> dict[str, Any]:
    return Quiet(make_run_bodies())


def said(*arguments: str) -> tuple[int, str, str]:
    """Status and streams of a command, written as to a terminal: UTF-8, strictly."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", "strict") for _ in range(2)]
    streams[1].reconfigure(errors="backslashreplace")
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status = cli.main(arguments)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return status, texts[0], texts[1]


def check(*arguments: str) -> int:
    """Run a command; bad input ends in one sentence or the parser's box."""
    status, _, err = said(*arguments)
    assert status in (0, 1, 2) and "Traceback" not in err
    if status == 2:
        last = err.rstrip("\n").rsplit("\nerror: ", 1)[-1].removeprefix("error: ")
        boxed = "╰" in err or err.startswith("usage")
        assert boxed or is_sentence(last), repr(err)
    return status


@pytest.fixture
def nothing_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise UserError("this is as far as a test goes.")

    monkeypatch.setattr("harness.auditor.load_target", stop)
    monkeypatch.setattr("harness.reload.load_target", stop)
    monkeypatch.setattr("harness.runner.run", stop)
    monkeypatch.setattr("drafters.block_diffusion.trainer.train", stop)
    monkeypatch.setattr("drafters.block_diffusion.corpus_builder.load_transformers_target", stop)
    monkeypatch.setattr("harness.probes.probe", stop)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_hub)
    monkeypatch.setattr("tasks.hub.Hub.snapshot", lambda self, files: None)


def test_the_undamaged_run_is_good(place: Path, run_bodies: dict[str, Any]) -> None:
    write_bodies(place / "good", run_bodies)
    assert check("report", str(place / "good"), "--output-dir", str(place / "out")) == 0
    assert check("compare", str(place / "good"), str(place / "good")) == 0


@same_place
@given(st.data())
def test_damaged_run_directories(
    place: Path, run_bodies: dict[str, Any], nothing_heavy: None, data: st.DataObject
) -> None:
    good, bad = place / "good", place / "bad"
    write_bodies(good, run_bodies)
    write_bodies(bad, run_bodies)
    name = data.draw(st.sampled_from(sorted(run_bodies)))
    mangled = mangled_lines if name.endswith("l") else mangled_object
    (bad / name).write_bytes(data.draw(mangled(run_bodies[name])))
    command = data.draw(st.sampled_from(["report", "compare", "verify", "resume"]))
    if command == "report":
        check("report", str(bad), "--output-dir", str(place / "out"))
    elif command == "compare":
        check("compare", *data.draw(st.permutations([str(good), str(bad)])), "--allow-different")
    elif command == "verify":
        check("verify", str(bad))
    else:
        with one_sentence():
            settings = {k: v for k, v in run_bodies["config.json"].items() if k != "run_id"}
            reopen(RunFiles(bad), settings, run_bodies["environment.json"])


@pytest.mark.parametrize("name", ["config.json", "environment.json", "records.jsonl"])
def test_directories_in_place_of_files(
    tmp_path: Path, run_bodies: dict[str, Any], name: str, nothing_heavy: None
) -> None:
    write_bodies(tmp_path / "run", run_bodies)
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).mkdir()
    assert check("report", str(tmp_path / "run")) == 2
    assert check("verify", str(tmp_path / "run")) == 2


# The command line

FORMS: dict[str, type[Any]] = {
    "run": RunConfig,
    "train": TrainConfig,
    "data": DataConfig,
    "verify": VerifyConfig,
    "report": ReportConfig,
    "compare": CompareConfig,
    "list": ListConfig,
    "doctor": DoctorConfig,
}
WORDS = """
0 1 2 16 -1 1.5 1e9 nan inf -inf 1e999 99999999999999999999999 0x10 1_000 all none None true
combined combined@b=c =x @ , a,b ,, ngram synthetic=0.5 synthetic=nan smollm2 gsm8k ar_loop
hf_generate cpu cuda cuda:99 cpu:-1 cpu:x meta auto full trained bfloat16 int8 . .. / ../.. a/b
a/b/c ~ -- - --dry-run --help /dev/null /proc quick paper
"""
values = st.one_of(
    st.sampled_from(WORDS.split()), texts, st.integers().map(str), st.floats().map(str)
)


@st.composite
def command_lines(draw: st.DrawFn, directories: list[str]) -> list[str]:
    command = draw(st.sampled_from([*FORMS, "rnu", "", "--help"]))
    fields = dataclasses.fields(FORMS.get(command, ListConfig))
    known = ["--help", *(f"--{field.name.replace('_', '-')}" for field in fields)]
    arguments = [command]
    if command == "run" and draw(st.booleans()):
        arguments.append(draw(st.sampled_from(["standard", "quick", "paper", "quik", ""])))
    if command in ("verify", "report", "compare"):
        arguments += draw(st.lists(st.sampled_from(directories) | values, max_size=3))
    for _ in range(draw(st.integers(0, 4))):
        arguments.append(draw(st.sampled_from([*known, *known, "--zzz"]) | values))
        arguments += draw(st.lists(values, max_size=2 if arguments[-1] == "--plugin" else 1))
    return [*arguments, "--dry-run"] if command == "run" else arguments


@same_place
@given(st.data())
def test_command_lines(
    place: Path,
    run_bodies: dict[str, Any],
    nothing_heavy: None,
    clean_registry: None,
    data: st.DataObject,
) -> None:
    write_bodies(place / "run", run_bodies)
    arguments = data.draw(command_lines([str(place / "run"), str(place / "absent")]))
    arguments = [item for item in arguments if is_possible_argument(item)]
    with contextlib.chdir(place):
        check(*arguments)
    for name in [item for item in sys.modules if item.startswith("my_")]:
        del sys.modules[name]
