"""Data files from the Hugging Face hub: one cheap try, and no waiting where there is no network."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from harness import hub

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one data set on the hub."""

    repo: str
    """Id of the data set."""
    patterns: tuple[str, ...]
    """Glob patterns in reading order; each stands for at least one file."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Files on this disk, all of one commit."""

    commit: str
    paths: tuple[Path, ...]


class Hub:
    """The hub as this process finds it; once it did not answer, only its cache is read."""

    def __init__(self) -> None:
        self.answers = True
        """Whether it is worth asking."""

    def snapshot(self, files: HubFiles) -> Snapshot | None:
        """The newest commit's files, from the hub or its cache; None where neither has them.

        A hub that cannot be reached is passed over quietly; one that answers with an error
        (gated, missing) is logged as a warning.
        """
        return _found(files, cached=not self._offers(files.repo))

    def cached(self, files: HubFiles) -> Snapshot | None:
        """The newest commit's files in the cache, or None; nobody is asked."""
        return _found(files, cached=True)

    def _offers(self, repo: str) -> bool:
        """Whether the hub hands out ``repo``: asked first, because a download waits without end."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        if not self.answers:
            return False
        if not hub.is_reachable():
            self.answers = False
            return False
        try:
            HfApi().dataset_info(repo, timeout=hub.TIMEOUT_S)
        except HfHubHTTPError as error:
            _LOG.warning("the hub refused %s: %s", repo, _first_line(error))
            return False
        except Exception as error:
            self.answers = False
            _LOG.info("the hub does not answer: %s", _first_line(error))
            return False
        return True


def _found(files: HubFiles, *, cached: bool) -> Snapshot | None:
    """The files, from the hub or, ``cached``, from its cache alone."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            files.repo,
            repo_type="dataset",
            allow_patterns=list(files.patterns),
            local_files_only=cached,
        )
    except LocalEntryNotFoundError:
        return None
    except Exception as error:
        # The hub's transports raise from families that share no base class.
        _LOG.warning("%s could not be downloaded: %s", files.repo, _first_line(error))
        return None
    # The folder of a snapshot is named by its commit.
    return _files_in(Path(folder), files)


def _files_in(folder: Path, files: HubFiles) -> Snapshot | None:
    """Every file asked for; a cached snapshot that lacks one would pass off a part as the whole."""
    paths: list[Path] = []
    for pattern in files.patterns:
        matches = sorted(folder.glob(pattern))
        if not matches:
            _LOG.warning("%s at %s holds no %s", files.repo, folder.name, pattern)
            return None
        paths.extend(matches)
    return Snapshot(folder.name, tuple(paths))


def _first_line(error: Exception) -> str:
    message = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {message}"


HUB = Hub()
