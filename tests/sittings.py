"""Runs as child processes that can be killed: forked, so that none imports anything again."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.cli import main


class Sitting:
    """One start of ``harness``, in one process or several."""

    def __init__(self, arguments: Sequence[str], log: Path, num_processes: int = 1) -> None:
        port = _free_port()
        fork = multiprocessing.get_context("fork")
        self.processes: list[BaseProcess] = [
            fork.Process(target=_sit, args=(list(arguments), log, rank, num_processes, port))
            for rank in range(num_processes)
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds: float) -> bool:
        """Whether all processes ended within ``seconds``."""
        end = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes):
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def kill(self, ranks: Sequence[int]) -> None:
        """SIGKILL."""
        for rank in ranks:
            self.processes[rank].kill()

    @property
    def statuses(self) -> list[int | None]:
        """Exit statuses by rank, those of signals below 0."""
        return [process.exitcode for process in self.processes]


def _sit(arguments: list[str], log: Path, rank: int, size: int, port: int) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout = (log.with_suffix(f".out{rank}")).open("w", encoding="utf-8")
    sys.stderr = (log.with_suffix(f".err{rank}")).open("w", encoding="utf-8", buffering=1)
    if size > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(port),
        }
    status = main(arguments)
    sys.stdout.flush()
    os._exit(status)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
