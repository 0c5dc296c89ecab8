"""The command line: exit statuses, one-sentence errors, and what goes to which stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import methods
from harness.cli import main
from harness.commands import COMMANDS

TOY = [
    *("--target", "toy", "--tasks", "counting", "--device", "cpu"),
    *("--baseline", "ar_loop", "--max-new-tokens", "8"),
]


@pytest.fixture
def toy(toy_plugin: Path, tmp_path: Path) -> list[str]:
    """Flags of a quick run on the toy target."""
    return [*TOY, "--plugin", str(toy_plugin), "--output-dir", str(tmp_path / "runs")]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence a bad command ends with."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in captured.err
    return last


def test_a_run_ends_with_a_leaderboard_and_one_line_of_json(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *toy, "--drafter", "oracle,fool"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    assert list(summary) == [
        "run_id",
        "run_dir",
        "leaderboard_md",
        "leaderboard_html",
        "num_generations",
        "num_failures",
        "num_mismatches",
        "num_scored",
    ]
    assert (summary["num_generations"], summary["num_failures"]) == (15, 0)
    assert Path(summary["run_dir"]) == tmp_path / "runs" / summary["run_id"]
    markdown = Path(summary["leaderboard_md"]).read_text(encoding="utf-8")
    assert "oracle" in markdown and markdown not in captured.out
    *summary_lines, _ = captured.out.splitlines()
    assert any(line.split()[1:2] == ["oracle†"] for line in summary_lines)
    assert summary_lines[-2:] == [summary["leaderboard_md"], summary["leaderboard_html"]]
    assert all(len(line) <= 80 for line in summary_lines[:-2])
    assert "<html" in Path(summary["leaderboard_html"]).read_text(encoding="utf-8").lower()
    assert "about" in captured.err and "4 of 4 prompts" in captured.err


def test_a_failure_shows_in_the_exit_status(
    toy: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *toy, "--drafter", "broken"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["num_failures"] == 1
    assert "broken failed on counting p2: RuntimeError: no idea at all" in captured.err


def test_the_whole_page_is_printed_where_it_is_asked_for(
    toy: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *toy, "--drafter", "oracle", "--markdown"]) == 0
    out = capsys.readouterr().out
    summary = json.loads(out.splitlines()[-1])
    markdown = Path(summary["leaderboard_md"]).read_text(encoding="utf-8")
    assert markdown in out
    assert main(["report", summary["run_dir"], "--markdown"]) == 0
    assert markdown in capsys.readouterr().out
    assert main(["report", summary["run_dir"]]) == 0
    assert "## Definitions" not in capsys.readouterr().out


def test_report_rebuilds_the_same_leaderboard(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["run", *toy, "--drafter", "oracle"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    again = tmp_path / "again"
    assert main(["report", summary["run_dir"], "--output-dir", str(again)]) == 0
    for name in ("leaderboard_md", "leaderboard_html"):
        first = Path(summary[name])
        assert (again / first.name).read_bytes() == first.read_bytes()


def test_dry_run_shows_the_plan_and_leaves_nothing(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *toy, "--drafter", "oracle", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "target   toy" in out and "ar_loop, oracle" in out
    assert "counting: 4 of 4 prompts" in out and "10 generations of up to 8 tokens" in out
    assert not (tmp_path / "runs").exists()


def test_list_shows_every_kind(toy_plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--plugin", str(toy_plugin)]) == 0
    out = capsys.readouterr().out.splitlines()
    titles = [line for line in out if not line.startswith(" ")]
    assert titles == ["drafters", "policies", "targets", "tasks", "objectives", "presets"]
    assert any(line.split() == ["oracle", "always", "right"] for line in out)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main([]) == 2
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"python -m harness {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean run"),
        (["run", "quik"], "unknown preset 'quik'; did you mean quick?"),
        (["run", "--drafter", "combind"], "unknown drafter 'combind'; did you mean combined"),
        (["run", "--drafter", "combined,combined"], "asked for twice; label one: combined@LABEL"),
        (["run", "--drafter", "combined,,chain"], "--drafter has an empty name"),
        (["run", "--drafter", "combined="], "drafter 'combined=' cannot be read"),
        (["run", "--drafter", "=x"], "drafter '=x' cannot be read"),
        (["run", "--drafter", "combined@"], "drafter 'combined@' cannot be read"),
        (["run", "--target", "smolm2"], "unknown target 'smolm2'; did you mean smollm2?"),
        (["run", "--tasks", "gsm8"], "unknown task 'gsm8'; did you mean gsm8k?"),
        (["run", "--tasks", "all,gsm8k"], "unknown task 'all'"),
        (["run", "--tasks", "gsm8k,gsm8k"], "task 'gsm8k' is asked for twice"),
        (["run", "--baseline", "ar_loop,hf_generat"], "did you mean hf_generate?"),
        (["run", "--baseline", "hf_generate"], "must include ar_loop"),
        (["run", "--limit", "0"], "--limit must be at least 1"),
        (["run", "--top-p", "2"], "--top-p must be in (0, 1]"),
        (["run", "--temperature", "-1"], "--temperature must be at least 0"),
        (["run", "--device", "gpu0"], "device 'gpu0' is unknown"),
        (["run", "--plugin", "absent.py"], "plug-in absent.py is not a Python file"),
        (["run", "--data-dir", "absent"], "data directory absent is not a directory"),
        (["report"], "report needs a run directory"),
        (["report", "absent"], "absent"),
        (["verify", "absent"], "config.json cannot be read"),
        (["train", "--drafter", "combind"], "unknown objective 'combind'; did you mean combined"),
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert message in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--limit", "many"],
        ["run", "--zzz"],
        ["run", "--dtype", "int8"],
        ["run", "--seed"],
        ["train", "--block-size", "0"],
    ],
)
def test_flags_that_cannot_be_parsed(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert arguments[1].lstrip("-").replace("-", "_") in error.replace("-", "_")
    assert "Traceback" not in error


def test_prompt_files_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["run", "--tasks", "gsm8k", "--dry-run"]
    assert "no data for gsm8k" in refused(capsys, *flags, "--data-dir", str(tmp_path))
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path / "absent"))
    assert "is not a directory" in refused(capsys, *flags)
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_bytes(b"{\xff\n")
    assert "test.jsonl" in refused(capsys, *flags, "--data-dir", str(tmp_path))


def test_a_missing_checkpoint_names_the_command(
    toy: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from drafters.block_diffusion.checkpoint import MissingCheckpoint

    command = "python -m harness train --drafter oracle --target toy"
    trained: list[str] = []

    def build(target: object, options: object, offset: int = 0) -> object:
        if not trained:
            raise MissingCheckpoint(f"no drafter; run `{command}`")
        return drafter(target, options)

    main(["list", "--plugin", toy[toy.index("--plugin") + 1]])
    capsys.readouterr()
    drafter = sys.modules["my_counter"].ToyDrafter
    monkeypatch.setattr(sys.modules["my_counter"], "ToyDrafter", build)
    assert command in refused(capsys, "run", *toy, "--drafter", "oracle")
    monkeypatch.setattr(methods, "_train", lambda options, plan: trained.append(options.name))
    assert main(["run", *toy, "--drafter", "oracle", "--train-if-missing"]) == 0
    assert trained == ["oracle"]


def test_a_foreign_baseline_needs_a_transformers_model(
    toy: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag.replace("ar_loop", "ar_loop,hf_generate") for flag in toy]
    assert "write --baseline ar_loop" in refused(capsys, "run", *flags, "--drafter", "oracle")


def test_an_output_directory_that_is_a_file(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").touch()
    assert "runs cannot be a directory" in refused(capsys, "run", *toy, "--drafter", "oracle")


def test_resume_refusals(
    toy: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["run", *toy, "--drafter", "oracle"]
    assert "no run to resume at 'x'" in refused(capsys, *flags, "--resume", "x")
    main(flags)
    run_id = json.loads(capsys.readouterr().out.splitlines()[-1])["run_id"]
    message = refused(capsys, *flags, "--resume", run_id, "--seed", "5")
    assert "field seed was 0 and is now 5" in message


def test_a_full_disk_is_one_sentence(
    toy: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.line_writers import RecordWriter

    original = RecordWriter.__init__
    monkeypatch.setattr(
        RecordWriter, "__init__", lambda self, path: original(self, Path("/dev/full"))
    )
    message = refused(capsys, "run", *toy, "--drafter", "oracle")
    assert "No space left on device" in message and "--resume" in message


def test_ctrl_c_while_loading(
    toy: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.runner.build_methods", interrupt)
    assert main(["run", *toy, "--drafter", "oracle"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m harness list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout == "drafters\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_stdout_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
    assert done.returncode == 2 and "make room" in done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("body", ["import sys; sys.exit(0)", "import sys; sys.exit('install foo')"])
def test_a_plug_in_that_exits_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clean_registry: None, body: str
) -> None:
    plugin = tmp_path / "my_quitter.py"
    plugin.write_text(body)
    error = refused(capsys, "list", "--plugin", str(plugin))
    assert "plug-in my_quitter.py failed to load: SystemExit" in error


def test_a_name_too_long_for_the_system_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = refused(capsys, "run", "--drafter", "ngram", "--target", "x" * 300, "--dry-run")
    assert "File name too long" in error or "unknown" in error


def test_facts_that_no_report_could_read_are_refused_first(
    capsys: pytest.CaptureFixture[str], toy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drafters.ngram.NgramDrafter.checkpoint", "weights.pt", raising=False)
    error = refused(capsys, "run", *toy, "--drafter", "ngram")
    assert "this run could not be reported" in error and "checkpoint" in error


def test_the_version_names_the_commit_of_a_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("harness 0.1")


def test_help_names_policies_and_no_default_that_its_sentence_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("run", "train", "data", "quality", "report", "score"):
        assert main([command, "--help"]) == 0
        words = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "default: None" not in words, command
        if command in ("run", "quality"):
            assert "NAME[+POLICY[:KEY=VALUE]...][@LABEL][=CHECKPOINT]" in words


@pytest.mark.parametrize(
    ("drafter", "sentence"),
    (
        ("uniform+ddtree:bugdet=5", "policy ddtree has no setting 'bugdet'; did you mean budget?"),
        ("uniform+ddtree:budget=none", "policy ddtree: budget must be a whole number"),
        ("dflash", "dflash needs a checkpoint"),
        ("dflash=/nowhere/at/all", "there is no drafter directory /nowhere/at/all"),
        ("combined=tests", "tests holds no config.json"),
        ("dpace", "no dpace drafter has been trained for target smollm2"),
        ("draft_model", "draft_model needs a model"),
        ("synthetic=2", "synthetic needs a rate between 0 and 1"),
        ("ngram=5", "ngram takes no argument"),
        ("d2sd", "d2sd is a policy"),
    ),
)
@pytest.mark.parametrize("dry", (("--dry-run",), ()))
def test_what_cannot_be_built_is_said_before_weights_are_loaded(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    dry: tuple[str, ...],
    drafter: str,
    sentence: str,
) -> None:
    def load(_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("targets.load.load_target", load)
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert sentence in refused(capsys, "run", "--drafter", drafter, "--tasks", "gsm8k", *dry)


def test_a_dry_run_lets_pass_what_will_be_trained_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--drafter", "dpace", "--tasks", "gsm8k", "--dry-run", "--train-if-missing")
    assert main(["run", *flags]) == 0
    assert "dpace" in capsys.readouterr().out
