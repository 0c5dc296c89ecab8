"""The mistakes of `mutants`, and the tests that mirror each module."""

from __future__ import annotations

from . import (
    answers,
    decoding,
    gpus,
    measures,
    networks,
    pages,
    policies,
    records,
    runs,
    sampling,
    statistics,
    studies,
    targets,
    training,
)

TABLES = (
    answers,
    decoding,
    gpus,
    measures,
    networks,
    pages,
    policies,
    records,
    runs,
    sampling,
    statistics,
    studies,
    targets,
    training,
)

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    file: calls for table in TABLES for file, calls in table.TESTS.items()
}
"""Tests that mirror each module, in calls of pytest, the quickest first."""

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    file: pairs for table in TABLES for file, pairs in table.MUTANTS.items()
}
"""By file: a fragment that occurs once, and what a careless hand would write instead."""
