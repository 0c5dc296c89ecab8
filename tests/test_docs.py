"""What docs name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_TEST = re.compile(r"`(tests/\w+\.py)(?:::(\w+))?[^`]*`")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_table_of_faults_names_is_there() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = _TEST.findall(text)
    assert len(named) > 100
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file() or (name and name not in _functions(ROOT / file))
    ]
    assert missing == []


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = _LINK.findall(path.read_text(encoding="utf-8"))
    assert [item for item in targets if not (path.parent / item).exists()] == []


def test_every_row_of_the_table_of_faults_has_a_test() -> None:
    bare, in_table = [], False
    for line in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines():
        in_table = line.startswith("| ") and (in_table or line.startswith("| fault |"))
        if in_table and "tests/" not in line and not line.startswith(("| fault |", "| ---")):
            bare.append(line[:80])
    assert bare == []
