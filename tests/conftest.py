"""Shared set-up: hypothesis without deadlines, the toy plug-in, and a registry that forgets it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tests.upstream  # noqa: F401 - before the variable it reads is taken away
from harness import registry
from harness.user_cache import user_cache

# Machines may be busy.
settings.register_profile("harness", deadline=None, max_examples=50)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "harness"))


@pytest.fixture(scope="session", autouse=True)
def no_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's is read or written: neither cache, drafters, data nor home.

    Only the embedded target's converted weights, which a digest names, are taken from his cache:
    converting them takes twenty seconds.
    """
    cache = tmp_path_factory.mktemp("cache")
    converted = sorted((user_cache() / "targets").glob("smollm2-*"))
    (cache / "targets").mkdir()
    for directory in converted:
        (cache / "targets" / directory.name).symlink_to(directory.resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(cache))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("HARNESS_DATA_DIR", raising=False)
        yield


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache that no other test has written to."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(cache))
    return cache


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
