"""Where the harness keeps what it can make again: converted weights and digests."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def user_cache() -> Path:
    """``HARNESS_CACHE_DIR``, else the platform's cache directory; it may not exist yet."""
    chosen = os.environ.get("HARNESS_CACHE_DIR")
    return Path(chosen or platformdirs.user_cache_dir("block-diffusion-harness"))
