"""What every command can know is said before any weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from drafters.block_diffusion.checkpoint import OWN
from harness.cli import main
from targets.shape import Shape, shape_on_disk
from tests.test_cli import refused
from tests.tiny_model import write_model, write_prompts

COMBINED = OWN / "smollm2" / "combined"
STUDY = """
[train]
target = "{target}"
data = "{data}"
[arms]
objectives = ["uniform"]
seeds = [0]
steps = [2]
[measure]
runs = []
"""


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*arguments: object) -> None:
        raise AssertionError("weights were loaded")

    for place in (
        *("targets.load.load_target", "drafters.block_diffusion.workbench.open_target"),
        *("drafters.block_diffusion.corpus_builder.load_transformers_target",),
        *("harness.lm_eval_model.load_target", "harness.reload.load_target"),
    ):
        monkeypatch.setattr(place, load)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target of 32 dimensions, five layers and 46 words."""
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., str]:
    """Path of a study file."""

    def write(target: str = "smollm2", data: str = "absent.jsonl") -> str:
        path = tmp_path / "study.toml"
        path.write_text(STUDY.format(target=target, data=data))
        return str(path)

    return write


def test_a_shape_is_read_from_configs_that_are_here(tiny: Path, tmp_path: Path) -> None:
    assert shape_on_disk(str(tiny)) == Shape(hidden_size=32, num_layers=5, vocab_size=46)
    for body, shape in (
        ({"n_embd": 8, "n_layer": 2, "vocab_size": 9}, (8, 2, 9)),
        (
            {"text_config": {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9}},
            (8, 2, 9),
        ),
        ({"hidden_size": 8, "vocab_size": 9}, None),
        ({"hidden_size": "8", "num_hidden_layers": 2, "vocab_size": 9}, None),
        ([], None),
    ):
        (tmp_path / "config.json").write_text(json.dumps(body))
        found = shape_on_disk(str(tmp_path))
        assert (found and (found.hidden_size, found.num_layers, found.vocab_size)) == shape
    (tmp_path / "config.json").write_text("{oops")
    assert shape_on_disk(str(tmp_path)) is None
    assert shape_on_disk("nobody/no-such-model") is None and shape_on_disk("toy") is None


@pytest.mark.parametrize("name", ("dflash", "combined", "student", "dlm"))
def test_a_drafter_of_another_target_is_refused_by_configs_alone(
    tiny: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place = OWN / "smollm2" / ("combined" if name == "dflash" else name)
    flags = ("--target", str(tiny), "--drafter", f"{name}={place}", "--tasks", "gsm8k")
    for dry in ((), ("--dry-run",)):
        message = refused(capsys, "run", *flags, *dry)
        assert "made for another target: its hidden size is 576" in message


def test_a_drafters_broken_config_is_found_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{oops")
    for name in ("dflash", "student", "dlm"):
        message = refused(capsys, "run", "--drafter", f"{name}={tmp_path}", "--tasks", "gsm8k")
        assert "config.json cannot be read" in message


def test_places_for_results_are_looked_at_first(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    data = str(write_prompts(tmp_path / "prompts.jsonl"))
    for command in (
        ("run", "--drafter", "ngram", "--tasks", "gsm8k"),
        ("run", "--drafter", "ngram", "--tasks", "gsm8k", "--dry-run"),
        ("train", "--data", data),
        ("data", "--prompts", data),
    ):
        for place in (file, file / "below"):
            message = refused(capsys, *command, "--output-dir", str(place))
            assert f"{place} cannot be a directory: {file} is none" in message
    flags = ("--drafter", "ngram", "--tasks", "gsm8k", "--output-dir", str(tmp_path))
    assert "no run to resume at 'x'" in refused(capsys, "run", *flags, "--resume", "x")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (("train", "--target", "smolm2"), "unknown target 'smolm2'; did you mean smollm2?"),
        (("train", "--target", "./absent"), "there is no directory ./absent"),
        (("train", "--data", "absent.jsonl"), "there is no absent.jsonl"),
        (("train", "--start-from", "absent"), "absent holds no checkpoint to start combined"),
        (("train", "--drafter", "combined,unifrm"), "unknown objective 'unifrm'; did you mean"),
        (("train", "--drafter", "student", "--data", "absent.jsonl"), "there is no absent.jsonl"),
        (("data", "--output-dir", "corpus", "--target", "smolm2"), "unknown target 'smolm2'"),
        (("data", "--output-dir", "corpus", "--prompts", "absent.jsonl"), "absent.jsonl"),
        (("quality", "--target", "smolm2"), "unknown target 'smolm2'"),
        (("quality", "--drafter", "dflash=/nowhere"), "there is no drafter directory /nowhere"),
        (("quality", "--drafter", "ngram+ddtree:bugdet=5"), "no setting 'bugdet'"),
    ),
)
def test_sibling_commands_look_before_they_load(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "sentence"),
    (
        ("report file", "file/config.json cannot be read (Not a directory)"),
        ("report empty", "empty/config.json cannot be read"),
        ("report strange", "strange/config.json cannot be read (Is a directory)"),
        ("verify file", "file/config.json cannot be read"),
        ("verify strange", "strange/config.json cannot be read"),
        ("score empty", "empty/config.json cannot be read"),
        ("compare empty file", "empty/config.json cannot be read"),
        ("study absent.toml", "absent.toml cannot be read: No such file"),
        ("study empty", "empty cannot be read: Is a directory"),
        ("study bad.toml", "bad.toml is not TOML"),
        ("train --data empty", "empty holds no .jsonl file"),
        ("train --data bad.jsonl", "bad.jsonl, line 1: a training prompt needs a string"),
        ("train --start-from file", "file holds no checkpoint to start combined from"),
        ("train --target empty", "empty holds no config.json; name the directory of a model"),
        ("train --target file", "unknown target 'file'"),
        ("train --drafter ngram", "unknown objective 'ngram'"),
        ("data --output-dir out --prompts empty", "empty holds no .jsonl file"),
        ("data --output-dir out --prompts bad.jsonl", "bad.jsonl, line 1: a training prompt"),
        ("data --output-dir out --target empty", "empty holds no config.json"),
        ("quality --tasks nope", "no quality task 'nope'"),
        ("quality --output-dir file --drafter ngram", "file cannot be a directory"),
        ("quality --target empty --drafter ngram", "empty holds no config.json"),
        ("run --target empty --drafter ngram", "empty holds no config.json"),
        ("run --target absent.gguf --drafter ngram", "there is no file absent.gguf"),
        ("run --target a/b/c --drafter ngram", "there is no directory a/b/c"),
        ("run --plugin empty --drafter ngram", "plug-in empty is not a Python file"),
        ("run --plugin my_odd.py --drafter ngram", "my_odd.py defines none of the tables"),
        ("run --plugin my_bad.py --drafter ngram", "my_bad.py failed to load: SyntaxError"),
        ("run --data-dir file --drafter ngram", "data directory file is not a directory"),
        ("run --resume empty --drafter ngram", "no run to resume at 'empty'"),
        ("run --drafter dflash=file", "there is no drafter directory file"),
        ("run --drafter dflash=strange", "strange holds no config.json"),
        ("run --drafter draft_model=empty --dry-run", "draft model: empty holds no config.json"),
        ("run --drafter draft_model=/absent --dry-run", "draft model: there is no directory /abs"),
        ("run --drafter ngram+ --dry-run", "drafter 'ngram+' cannot be read"),
        ("run --drafter ngram --temperature nan", "--temperature must be a number, not nan"),
        ("compare empty empty --fail-below -1", "--fail-below must be a ratio above 0"),
        ("fetch nope", "unknown target 'nope'"),
        ("list --plugin absent.py", "plug-in absent.py is not a Python file"),
    ),
)
def test_a_wrong_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    clean_registry: None,
    command: str,
    sentence: str,
) -> None:
    for directory in ("empty", "strange/config.json"):
        (tmp_path / directory).mkdir(parents=True)
    for name, text in (
        ("file", ""),
        ("bad.toml", "{oops"),
        ("bad.jsonl", '{"prompt": 5}\n'),
        ("my_odd.py", "x = 1\n"),
        ("my_bad.py", "def (\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.hub.is_reachable", lambda: False)
    assert sentence in refused(capsys, *command.split())


def test_training_does_not_start_from_another_targets_drafter(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_prompts(tmp_path / "prompts.jsonl"))
    message = refused(
        capsys, "train", "--target", str(tiny), "--data", data, "--start-from", str(COMBINED)
    )
    assert "made for another target" in message


def test_a_study_looks_at_target_and_data_first(
    study: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no absent.jsonl" in refused(capsys, "study", study())
    assert "unknown target 'smolm2'" in refused(capsys, "study", study(target="smolm2"))
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    (
        ("target=smolm2", "unknown target 'smolm2'"),
        ("target=smollm2,drafter=dflash=/nowhere", "no drafter directory /nowhere"),
        ("target=smollm2,drafter=nrgam", "unknown drafter 'nrgam'; did you mean ngram"),
    ),
)
def test_lm_evals_model_looks_before_it_loads(given: str, sentence: str) -> None:
    from harness.errors import UserError
    from harness.lm_eval_model import HarnessModel

    arguments = dict(part.split("=", 1) for part in given.split(","))
    with pytest.raises(UserError, match=sentence.replace("'", ".")):
        HarnessModel.create_from_arg_obj(arguments)


def test_a_run_whose_target_is_gone_is_told_before_its_prompts_are_read(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.run_directories import answers, write_run

    directory = write_run(tmp_path / "run", answers([[2, 2], [1, 3]]))
    config = directory / "config.json"
    body = json.loads(config.read_text())
    body["target"].update(name="./gone", dtype="float32", device="cpu")
    config.write_text(json.dumps(body))
    assert "there is no directory ./gone" in refused(capsys, "verify", str(directory))
    assert main(["report", str(directory)]) == 0
