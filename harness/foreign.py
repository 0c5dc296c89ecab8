"""Code from outside of this project that takes part in a run: whose file it is, and its digest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from harness import registry
from harness.provenance import ROOT
from harness.run_facts import ForeignFacts

PACKAGES = ("drafters", "harness", "reports", "targets", "tasks")
"""This project's; what a file in one of them defines is its own."""


def foreign(*modules: str) -> ForeignFacts | None:
    """The first of ``modules``, imported before, that is not this project's; None where all are."""
    return next((found for name in modules if (found := _described(name))), None)


def found_foreign(*modules: str) -> dict[str, ForeignFacts]:
    """``foreign`` as an entry of facts; none where all is this project's."""
    found = foreign(*modules)
    return {} if found is None else {"foreign": found}


def builder_of(kind: str, name: str) -> tuple[str, ...]:
    """The module that a row of the registry leads to; none for a name that is no row, as a path."""
    row = registry.table(kind).get(name)
    return () if row is None else (row.path.partition(":")[0],)


def modules_of(item: object) -> Iterator[str]:
    """The module of an object's class, and of those that it stands over as ``inner``."""
    seen: set[int] = set()
    while item is not None and id(item) not in seen:
        seen.add(id(item))
        yield type(item).__module__
        item = getattr(item, "inner", None)


def _described(name: str) -> ForeignFacts | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not Path(file).is_file():
        return {"file": name, "sha256": None}
    path = Path(file).resolve()
    if any(ROOT / package in path.parents for package in PACKAGES):
        return None
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
