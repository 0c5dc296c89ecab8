"""Where weights stand that were expanded from a GGUF file; importing this needs no torch."""

from __future__ import annotations

from pathlib import Path

from harness.user_cache import user_cache

CONVERSION = 1
"""Raised whenever `targets.gguf_file` would write other files."""


def converted_directory(digest: str, name: str) -> Path:
    """The directory for a file of this SHA-256, whether or not it was converted already."""
    return user_cache() / "targets" / f"{name}-{digest[:16]}-{CONVERSION}"
