"""``python -m harness`` wherever it is called: other people's files are no modules of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAP = "raise RuntimeError('a file of the current directory was imported')"
PLUGIN = """
import my_words
from harness.registry import Entry
DRAFTERS = {"neighbour": Entry("my_words:build", my_words.PHRASE)}
"""


def listed(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m harness list`` given in ``directory``."""
    return subprocess.run(
        [sys.executable, "-m", "harness", "list", *arguments],
        cwd=directory,
        # However the project was installed, it is found.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("packages", (False, True), ids=("files", "directories"))
def test_files_called_as_our_packages_are_left_alone(tmp_path: Path, packages: bool) -> None:
    for name in ("drafters", "reports", "targets", "tasks", "tests", "torch", "difflib"):
        path = tmp_path / name / "__init__.py" if packages else tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(TRAP)
    done = listed(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("drafters\n")


def test_a_plug_in_still_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TRAP)
    (tmp_path / "my_words.py").write_text("PHRASE = 'from next door'\ndef build(): pass\n")
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    done = listed(tmp_path, "--plugin", "my_plugin.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert "from next door" in done.stdout


def test_a_plug_in_called_as_a_package_of_ours_is_told_to_change_its_name(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("TASKS = {}")
    done = listed(tmp_path, "--plugin", "tasks.py")
    assert done.returncode == 2
    assert "plug-in tasks.py cannot be imported as 'tasks'" in done.stderr
    assert "rename the file" in done.stderr and "Traceback" not in done.stderr


def test_a_directory_that_is_gone_is_no_traceback(tmp_path: Path) -> None:
    script = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} -m harness --version"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith("harness ")
    assert "Traceback" not in done.stderr
