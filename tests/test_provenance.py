"""What is recorded of code, versions and machine."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness import provenance


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_environment_has_the_agreed_keys_and_is_json() -> None:
    found = provenance.environment(["run", "--limit", "1"])
    assert set(found) == {
        *("schema_version", "commit", "dirty", "argv", "versions", "plugins", "hardware"),
        "started_at",
    }
    assert set(found["hardware"]) == {"cpu", "num_cores", "num_threads", "memory_bytes", "gpu"}
    assert found["argv"] == ["run", "--limit", "1"]
    assert found["versions"]["python"] and found["versions"]["torch"]
    started = datetime.fromisoformat(found["started_at"])
    assert abs((datetime.now(UTC) - started).total_seconds()) < 60
    assert json.loads(json.dumps(found)) == found


def test_no_path_of_this_machine_is_recorded() -> None:
    text = json.dumps(provenance.environment([]))
    assert f"{Path.home()}/" not in text
    assert str(Path(__file__).parent.parent) not in text


def test_source_state_tells_clean_from_dirty(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "file").write_text("1", encoding="utf-8")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    commit, dirty = provenance.source_state(tmp_path)
    assert commit is not None and len(commit) == 40 and dirty is False
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert provenance.source_state(tmp_path) == (commit, True)


def test_no_checkout_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.source_state(tmp_path) == (None, None)
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert provenance.source_state(tmp_path) == (None, None)


def test_versions_of_absent_packages_are_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] is None
