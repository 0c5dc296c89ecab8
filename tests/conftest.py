"""Shared set-up: hypothesis without deadlines, the toy plug-in, and a registry that forgets it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness import registry

# Machines may be busy.
settings.register_profile("harness", deadline=None, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "harness"))


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No plug-ins now, and none left over; a test's own are called ``my_…``."""
    monkeypatch.setattr(registry, "_PLUGINS", {kind: {} for kind in registry.KINDS})
    monkeypatch.setattr(registry, "_LOADED", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def toy_plugin(clean_registry: None) -> Path:
    """Path of the plug-in with the target ``toy`` and the task ``counting``."""
    return Path(__file__).parent / "plugins" / "my_counter.py"
