"""``harness quality``: scores of several methods, their files, and answers compared."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import plain_sandbox
import pytest
from test_lm_eval_model import offline  # noqa: F401
from tiny_model import write_model

from harness import lm_eval_docs, lm_eval_quality
from harness.cli import main
from harness.errors import UserError

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.fixture
def flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A quick evaluation; lm-eval does not ask pip what is installed."""
    import lm_eval.evaluator

    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)
    target = write_model(tmp_path / "model")
    return [
        *("quality", "--target", str(target), "--drafter", "ngram", "--dtype", "float32"),
        *("--limit", "3", "--max-new-tokens", "12", "--device", "cpu"),
        *("--output-dir", str(tmp_path / "out")),
    ]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_methods_are_scored_compared_and_written(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "| gsm8k (samples) | ngram | 0.000 | 0.000 | 3 | 3 of 3 |" in printed
    summary = json.loads(printed[-1])
    assert (summary["num_answers"], summary["num_different"]) == (6, 0)
    scores = json.loads(Path(summary["scores"]).read_text())["scores"]
    assert [score["method"] for score in scores] == ["ar_loop", "ngram"]
    texts = {}
    for method in ("ar_loop", "ngram"):
        [results] = (tmp_path / "out" / method).glob("results_*.json")
        config = json.loads(results.read_text())["config"]
        assert (config["drafter"], config["gen_kwargs"]) == (method, {"max_gen_toks": 12})
        [samples] = (tmp_path / "out" / method).glob("samples_harness_gsm8k_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        texts[method] = [row["resps"][0][0] for row in rows]
        assert all(row["passed"] == 0.0 for row in rows)
    assert texts["ar_loop"] == texts["ngram"] and all(texts["ar_loop"])


def test_a_method_with_a_colon_in_its_name_has_files(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As names with settings have; lm-eval writes no such character."""
    assert main([*flags, "--drafter", "ngram@n:4", "--limit", "1"]) == 0
    assert "| ngram@n:4 |" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "ngram@n__4").glob("*.json*"))) == 2


def test_an_evaluation_goes_on_where_it_was_cut_off(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import lm_eval_model

    asked: list[int] = []
    generate = lm_eval_model.generate

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(lm_eval_model, "generate", counted)
    assert main(flags) == 130
    assert main(flags) == 0
    assert len(asked) == 7
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_different"] == 0
    error = refused(capsys, *flags, "--max-new-tokens", "13")
    assert "other settings" in error and len(asked) == 7


@pytest.mark.parametrize("what", ["versions", "plug-in"])
def test_answers_of_other_code_are_not_reused(
    what: str,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    clean_registry: None,
) -> None:
    plugin = tmp_path / "my_nothing.py"
    plugin.write_text(f"{PLUGIN}\n")
    # Opening the directory is all that is needed.
    monkeypatch.setattr("targets.load.load_target", stop)
    flags = [*flags, "--plugin", str(plugin)]
    assert "as far as" in refused(capsys, *flags)
    assert "as far as" in refused(capsys, *flags)
    if what == "plug-in":
        plugin.write_text(f"{PLUGIN}  # changed\n")
    else:
        found = lm_eval_quality.environment(())
        found["versions"]["torch"] = "0.1"
        monkeypatch.setattr(lm_eval_quality, "environment", lambda argv: found)
    assert "other settings" in refused(capsys, *flags)


PLUGIN = """from harness.registry import Entry
DRAFTERS = {"my_ngram": Entry("drafters.ngram:build", "the same")}"""


def stop(*arguments: Any) -> Any:
    raise UserError("this is as far as a test goes.")


def test_programs_state_their_containment(
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tasks.sandbox", plain_sandbox)
    lm_eval_docs.sandbox.cache_clear()
    flags = [*flags, "--tasks", "humaneval", "--limit", "1", "--confirm-run-unsafe-code"]
    try:
        assert main(flags) == 0
        assert "NOT contained in: open reads" in capsys.readouterr().err
        code = json.loads((tmp_path / "out" / "scores.json").read_text())["code"]
        assert code["containment"]["held"] == {"cpu_time": True, "open_reads": False}
        assert code["limits"]["wall_s"] == 10.0
        lm_eval_docs.sandbox.cache_clear()
        monkeypatch.setattr(plain_sandbox, "Sandbox", lambda: stop())
        monkeypatch.setattr("targets.load.load_target", None)
        assert "as far as" in refused(capsys, *flags)
    finally:
        lm_eval_docs.sandbox.cache_clear()


def test_several_processes_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    assert "one process" in refused(capsys, *flags)


def test_an_answer_that_differs_is_counted(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.lm_eval_model import HarnessModel

    answer = HarnessModel._answer
    calls: list[str] = []

    def altered(self: HarnessModel, *arguments: Any) -> str:
        calls.append("")
        return answer(self, *arguments) + ("!" if len(calls) == 5 else "")

    monkeypatch.setattr(HarnessModel, "_answer", altered)
    assert main(flags) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("| ngram |" in line and "2 of 3" in line for line in printed)
    assert json.loads(printed[-1])["num_different"] == 1


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        (("--tasks", "humaneval"), "--confirm-run-unsafe-code"),
        (("--tasks", "gsm8"), "did you mean gsm8k"),
        (("--tasks", "gsm8k,gsm8k"), "one twice"),
        (("--drafter", "ngrm"), "unknown drafter 'ngrm'"),
        (("--drafter", "ngram,ngram=4"), "'ngram' is asked for twice"),
        (("--limit", "0"), "at least 1"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: list[str], extra: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refused(capsys, *flags, *extra)


def test_a_missing_package_is_one_sentence(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in refused(capsys, *flags)
    assert "pip install" in refused(capsys, "lm-eval", "ls", "tasks")


def test_blank_is_not_zero() -> None:
    score = lm_eval_quality.Score(
        method="m", task="mbpp", source="directory", num_answers=2, num_scored=0,
        passed=None, stderr=None, num_identical=2,
    )  # fmt: skip
    assert list(lm_eval_quality.table([score]))[-1] == "| mbpp | m |  |  | 0 | 2 of 2 |"
