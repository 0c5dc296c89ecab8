"""Where numbers come from: code, versions and hardware, as ``environment.json`` holds them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.registry import loaded_plugins

SCHEMA_VERSION = 1
ROOT = Path(__file__).resolve().parent.parent
"""Of a checkout; of an installation, the directory of its packages."""

_PACKAGES = (
    "block-diffusion-harness",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
)


def environment(argv: Sequence[str]) -> dict[str, Any]:
    """Everything that is not in ``config.json`` and may still move a number.

    Args:
        argv: arguments of the command, without the program.
    """
    commit, dirty = source_state(ROOT)
    return {
        "schema_version": SCHEMA_VERSION,
        "commit": commit,
        "dirty": dirty,
        "argv": list(argv),
        "versions": versions(),
        "plugins": [{"name": n, "sha256": digest} for n, digest in loaded_plugins().items()],
        "hardware": hardware(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def source_state(root: Path) -> tuple[str | None, bool | None]:
    """Commit of the checkout at ``root`` and whether it has changes; None twice elsewhere."""
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(changes)


def project_version() -> str:
    """The project's version, and in a checkout its commit, marked where there are changes."""
    number = versions()["block-diffusion-harness"] or "not installed"
    commit, dirty = source_state(ROOT)
    if commit is None:
        return number
    return f"{number} (commit {commit[:12]}{', with changes' if dirty else ''})"


def versions() -> dict[str, str | None]:
    """Python and the packages that compute; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def hardware() -> dict[str, Any]:
    """Processor, threads torch uses, memory and the first GPU."""
    import psutil
    import torch

    return {
        "cpu": cpu_model(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_model() -> str:
    """Name of the processor, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
