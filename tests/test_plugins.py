"""The plug-ins printed in the README do what it says, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.cli import main
from harness.records import Generation, read_records
from tests.tiny_model import write_model

README = Path(__file__).parent.parent / "README.md"


def readme_file(name: str, directory: Path) -> Path:
    """The README's code block that begins with the comment ``# name``."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if block.startswith(f"# {name}\n")]
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_drafter_of_the_readme(
    toy_plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = readme_file("my_drafter.py", tmp_path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    flags = ["--target", "toy", "--tasks", "counting", "--device", "cpu", "--baseline", "ar_loop"]
    flags += ["--plugin", str(toy_plugin), "--plugin", str(path), "--drafter", "my_drafter"]
    flags += ["--max-new-tokens", "9", "--output-dir", str(tmp_path / "runs")]
    assert main(["run", *flags]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    records = list(read_records(Path(summary["run_dir"]) / "records.jsonl"))
    answers = {(i.method, i.prompt_id, i.turn): i.new_tokens for i in records if hasattr(i, "text")}
    for (method, prompt_id, turn), tokens in answers.items():
        assert tokens == answers["ar_loop", prompt_id, turn], method
    assert any(isinstance(i, Generation) and i.method == "my_drafter" for i in records)


def test_the_objective_of_the_readme(
    clean_registry: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = readme_file("my_objective.py", tmp_path)
    target = tmp_path / "tiny"
    write_model(target)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "count to {n}"}}\n' for n in range(8)))
    common = ["--plugin", str(path), "--target", str(target), "--device", "cpu"]
    run = ["run", *common, "--drafter", "my_objective", "--tasks", "gsm8k", "--limit", "1"]
    run += ["--max-new-tokens", "8", "--dtype", "float32", "--output-dir", str(tmp_path / "runs")]

    assert main(run) == 2
    assert "harness train --drafter my_objective --target" in capsys.readouterr().err

    train = ["train", *common, "--drafter", "my_objective,combined", "--data", str(prompts)]
    train += ["--steps", "2", "--batch-size", "2", "--num-anchors", "2", "--block-size", "4"]
    train += ["--num-layers", "1", "--num-features", "2", "--max-new-tokens", "12"]
    assert main([*train, "--train-vocab-size", "0"]) == 0
    checkpoint = Path(capsys.readouterr().out.splitlines()[0])
    training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    assert training["objective"]["gamma"] == 5 and training["objective"]["alpha_chain"] == 20

    assert main(run) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    config = json.loads((Path(summary["run_dir"]) / "config.json").read_text(encoding="utf-8"))
    assert config["methods"][-1]["checkpoint"]["objective"]["gamma"] == 5
    assert config["methods"][-1]["block_size"] == 4
    assert summary["num_generations"] == 3


@pytest.mark.parametrize(
    ("rows", "flags", "sentence"),
    (
        (
            "TASKS = {'odd': Entry('my_odd:ODD', 'no task')}\nODD = object()",
            ("--tasks", "odd"),
            "task odd cannot be loaded (AttributeError",
        ),
        (
            "TASKS = {'odd': Entry('my_odd:Odd', 'no prompts')}\n"
            "class Odd:\n    load = staticmethod(lambda data_dir, limit: ['a prompt'])",
            ("--tasks", "odd"),
            "task odd returned a list and no tasks.base.PromptSet",
        ),
        (
            "TARGETS = {'odd': Entry('my_odd:Odd', 'no target')}\nclass Odd:\n"
            "    def __init__(self, options): self.vocab_size = 9",
            ("--target", "odd", "--tasks", "gsm8k"),
            "target odd has no max_context, stop_ids",
        ),
        (
            "TARGETS = {'odd': Entry('my_odd:odd', 'takes nothing')}\ndef odd(): return 1",
            ("--target", "odd", "--tasks", "gsm8k"),
            "target odd cannot be loaded: TypeError",
        ),
        (
            "DRAFTERS = {'odd': Entry('my_odd:ODD', 'a number')}\nODD = 5",
            ("--drafter", "odd", "--tasks", "gsm8k"),
            "my_odd:ODD is not a function that builds a drafter",
        ),
    ),
)
def test_a_plug_in_of_the_wrong_shape_is_one_sentence(
    tmp_path: Path,
    clean_registry: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: str,
    flags: tuple[str, ...],
    sentence: str,
) -> None:
    file = tmp_path / "my_odd.py"
    file.write_text(f"from harness.registry import Entry\n{rows}\n", encoding="utf-8")
    asked = ["--drafter", "ngram", "--device", "cpu", "--plugin", str(file), *flags]
    assert main(["run", *asked, "--limit", "1", "--output-dir", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert sentence in error.splitlines()[-1] and "Traceback" not in error
