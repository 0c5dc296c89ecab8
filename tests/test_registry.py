"""The registry: rows of the project, of entry points and of plug-in files."""

from __future__ import annotations

import hashlib
import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from harness import registry
from harness.errors import UserError
from harness.registry import Entry, load_plugin, near_misses, resolve, table

PLUGIN = """
from drafters.block_diffusion.objectives import Objective
from harness.registry import Entry

def build(target, options):
    return "built"

DRAFTERS = {"my_drafter": Entry("my_plugin:build", "does nothing")}
OBJECTIVES = {"my_objective": Objective(gamma=5, description="steeper")}
"""


pytestmark = pytest.mark.usefixtures("clean_registry")


def write(tmp_path: Path, text: str, name: str = "my_plugin.py") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_own_row_has_a_phrase(kind: str) -> None:
    rows = table(kind)
    assert rows
    assert all(registry.phrase(row) for row in rows.values())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in registry.KINDS for name in table(kind)],
)
def test_every_own_row_can_be_imported(kind: str, name: str) -> None:
    assert registry.load(kind, name) is not None


def test_every_objective_is_a_drafter() -> None:
    assert set(table("objectives")) <= set(table("drafters"))


def test_near_misses_are_named() -> None:
    with pytest.raises(UserError, match="unknown drafter 'combind'; did you mean combined"):
        resolve("drafters", "combind")
    with pytest.raises(UserError, match=r"unknown task 'zzz'; known: .*gsm8k"):
        resolve("tasks", "zzz")
    assert near_misses("b", ["a", "c"]) == "known: a, c."


def test_plugin_rows_join_the_tables(tmp_path: Path) -> None:
    load_plugin(write(tmp_path, PLUGIN))
    assert resolve("drafters", "my_drafter").load()(None, None) == "built"
    assert resolve("objectives", "my_objective").gamma == 5
    assert "steeper" in resolve("drafters", "my_objective").description
    assert resolve("drafters", "my_objective").path == registry.BLOCK_DIFFUSION


def test_plugin_is_importable_under_its_stem_and_loads_once(tmp_path: Path) -> None:
    path = write(tmp_path, PLUGIN)
    load_plugin(path)
    module = importlib.import_module("my_plugin")
    load_plugin(path)
    assert sys.modules["my_plugin"] is module
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert registry.loaded_plugins() == {"my_plugin.py": digest}


def test_plugin_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load_plugin(Path("my_plugin.py"))
    assert "my_drafter" in table("drafters")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("1 / 0", "my_plugin.py", "failed to load: ZeroDivisionError"),
        ("def (", "my_plugin.py", "failed to load: SyntaxError"),
        ("x = 1", "my_plugin.py", "defines none of the tables"),
        ("DRAFTERS = {'a': 'b:c'}", "my_plugin.py", r"DRAFTERS\['a'\] is no row"),
        (PLUGIN, "json.py", "is taken"),
        (PLUGIN, "harness.py", "is taken"),
        (PLUGIN, "my-plugin.py", "rename the file"),
        (PLUGIN, "my_plugin.txt", "not a Python file"),
        (PLUGIN.replace("my_objective", "focal"), "my_plugin.py", "registered twice"),
        (PLUGIN.replace('"my_drafter"', '"ngram"'), "my_plugin.py", "registered twice"),
    ],
)
def test_bad_plugins_are_refused(tmp_path: Path, text: str, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_plugin(write(tmp_path, text, name))
    assert "my_plugin" not in sys.modules
    assert "my_drafter" not in table("drafters")
    assert registry.loaded_plugins() == {}


def test_missing_plugin_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a Python file that can be read"):
        load_plugin(tmp_path / "absent.py")


def test_rows_that_lead_nowhere(tmp_path: Path) -> None:
    for path in ("no_such_module:build", "json:no_such_attribute", "json"):
        with pytest.raises(UserError, match="cannot be imported"):
            Entry(path, "").load()


def test_entry_points_join_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*, group: str) -> list[EntryPoint]:
        points = {
            "harness.tasks": [EntryPoint("theirs", "json:loads", group)],
            "harness.objectives": [EntryPoint("their_objective", "json:loads", group)],
            "harness.targets": [EntryPoint("qwen", "json:loads", group)],
        }
        return points.get(group, [])

    monkeypatch.setattr(registry, "entry_points", found)
    assert resolve("tasks", "theirs") == Entry("json:loads", "from json:loads")
    assert "their_objective" in table("drafters")
    with pytest.raises(UserError, match="target 'qwen' is registered twice"):
        table("targets")


def test_a_policy_named_as_a_drafter_is_told_apart() -> None:
    with pytest.raises(UserError, match=r"d2sd is a policy.*combined\+d2sd"):
        registry.resolve("drafters", "d2sd")
    with pytest.raises(UserError, match=r"ngram is a drafter.*ngram\+POLICY"):
        registry.resolve("policies", "ngram")


def test_a_command_that_is_proposed_loads_the_same_plug_ins(toy_plugin: Path) -> None:
    assert registry.plugin_flags() == ""
    registry.load_plugin(toy_plugin)
    assert registry.plugin_flags() == f" --plugin {toy_plugin}"
