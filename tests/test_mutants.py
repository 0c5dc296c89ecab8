"""The table of mutants fits the tree: a stale line would test nothing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from bench.mutant_tables import MUTANTS, TABLES, TESTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("file", MUTANTS)
def test_every_mutant_changes_one_place_and_is_a_program(file: str) -> None:
    whole = (ROOT / file).read_text(encoding="utf-8")
    for old, new in MUTANTS[file]:
        assert whole.count(old) == 1, f"{old!r} occurs {whole.count(old)} times"
        assert ast.dump(ast.parse(whole.replace(old, new))) != ast.dump(ast.parse(whole)), new
    assert len(set(MUTANTS[file])) == len(MUTANTS[file])


def test_every_file_of_the_table_has_tests() -> None:
    assert TESTS.keys() == MUTANTS.keys()
    named = {name for calls in TESTS.values() for call in calls for name in call if "/" in name}
    assert all((ROOT / name).is_file() for name in named)


def test_no_file_stands_in_two_tables() -> None:
    assert len(MUTANTS) == sum(len(table.MUTANTS) for table in TABLES)
