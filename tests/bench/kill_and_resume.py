"""Kills runs at random moments, resumes each, and compares them with an uninterrupted one.

    python -m tests.bench.kill_and_resume --kills 50 --processes 2

Without a target it takes a tiny random model. After a kill, half of the files that were being
written get a torn last line as well.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from harness.cli import main as harness
from tests.sittings import Sitting
from tests.timeless import audits, timeless_records
from tests.tiny_model import write_model

PLUGIN = Path(__file__).parent.parent / "plugins" / "my_counter.py"
_PATIENCE_S = 600.0
_SURVIVORS_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run, and how often to kill it."""

    kills: int = 50
    """Sittings to kill."""
    processes: int = 1
    """Most processes of a sitting; each sitting draws a number."""
    seed: int = 0
    """Of the moments."""
    target: str | None = None
    """A target's name; by default a tiny model made for this."""
    tasks: str = "counting"
    """Tasks."""
    limit: int = 4
    """Prompts a task."""
    drafter: str = "ngram,synthetic=0.8"
    """Drafters."""
    baseline: str = "ar_loop,hf_generate"
    """Baselines."""
    max_new_tokens: int = 24
    """Longest answer."""
    dtype: str = "float32"
    """Of the target."""


class Killer:
    """Runs one configuration again and again, killing it on the way."""

    def __init__(self, arguments: Sequence[str], work: Path, processes: int, seed: int) -> None:
        self._arguments, self._work, self._processes = list(arguments), work, processes
        self._draw = random.Random(seed)
        self._num_runs = 0
        self._num_sittings = 0
        self.phases: Counter[str] = Counter()
        """Kills by what was on the disk."""
        self.facts: Counter[str] = Counter()
        self.expected, self.whole_s = self._uninterrupted()

    @property
    def num_kills(self) -> int:
        """Sittings that were killed."""
        return sum(self.phases.values())

    def one_run(self, kills: int) -> None:
        """Kill and resume until ``kills`` are done in all, or the run is whole; compare it.

        Raises:
            AssertionError: a sitting ended badly, or the run is not the uninterrupted one's equal.
        """
        output_dir = self._new_output_dir()
        while True:
            there = list(output_dir.glob("[!.]*/config.json"))
            resume = ["--resume", there[0].parent.name] if there else []
            number = self._draw.randint(1, self._processes)
            sitting = self._sit(output_dir, resume, number)
            deadly = self.num_kills < kills
            moment_s = self._draw.uniform(0, 1.2 * self.whole_s) if deadly else _PATIENCE_S
            if sitting.wait(moment_s):
                assert sitting.statuses == [0] * number, (sitting.statuses, self._said())
                break
            assert deadly, f"a sitting did not end in {_PATIENCE_S} s: {self._said()}"
            self._kill(sitting, number)
            self._tear(output_dir)
        self.facts["runs"] += 1
        assert (found := _outcome(output_dir)) == self.expected, _difference(self.expected, found)

    def _kill(self, sitting: Sitting, number: int) -> None:
        """All processes, or one of several and the others end by themselves."""
        ranks = list(range(number))
        if number > 1 and self._draw.random() < 0.5:
            ranks = [self._draw.randrange(number)]
            self.facts["one process of several killed"] += 1
        sitting.kill(ranks)
        if not sitting.wait(_SURVIVORS_S):
            # One that died before the others met it is missed only after minutes; a launcher
            # ends the others then.
            self.facts["ended as a launcher would"] += 1
            sitting.kill(range(number))
            assert sitting.wait(_SURVIVORS_S), f"processes cannot be killed: {self._said()}"

    def _tear(self, output_dir: Path) -> None:
        """Note what was there, and append a part of a line where a write may have been cut."""
        present = {path.name for path in output_dir.glob("[!.]*/*")}
        parts = sorted(name for name in present if name.startswith("records"))
        self.phases[_phase(present, output_dir)] += 1
        for name in [*parts, "audit.jsonl"]:
            for path in output_dir.glob(f"[!.]*/{name}"):
                lines = path.read_bytes().splitlines()
                if lines and self._draw.random() < 0.5:
                    line = lines[-1]
                    with path.open("ab") as file:
                        file.write(line[: self._draw.randrange(1, len(line))])
                    self.facts["torn lines"] += 1

    def _uninterrupted(self) -> tuple[object, float]:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            # In this process, so that those forked from it find everything imported.
            harness([*self._arguments, "--output-dir", str(self._new_output_dir())])
        output_dir = self._new_output_dir()
        started = time.monotonic()
        sitting = self._sit(output_dir, [], 1)
        assert sitting.wait(_PATIENCE_S) and sitting.statuses == [0], self._said()
        return _outcome(output_dir), time.monotonic() - started

    def _said(self) -> str:
        """Stderr of the last sitting."""
        logs = sorted(self._log.parent.glob(f"{self._log.name}.err*"))
        return "\n".join(path.read_text(encoding="utf-8")[-1000:] for path in logs)

    def _new_output_dir(self) -> Path:
        self._num_runs += 1
        return self._work / f"runs{self._num_runs}"

    def _sit(self, output_dir: Path, resume: Sequence[str], number: int) -> Sitting:
        self._num_sittings += 1
        self._log = self._work / "logs" / str(self._num_sittings)
        arguments = [*self._arguments, "--output-dir", str(output_dir), *resume]
        return Sitting(arguments, self._log, number)


def _phase(present: set[str], output_dir: Path) -> str:
    """How far a run was."""
    for name, phase in (
        ("leaderboard.html", "after the report"),
        ("leaderboard.md", "in the report"),
        ("audit.jsonl", "in the audit"),
        ("stages.json", "before the audit"),
    ):
        if name in present:
            return phase
    sizes = [path.stat().st_size for path in output_dir.glob("[!.]*/records*")]
    return "among the answers" if any(sizes) else "before the first answer"


def _outcome(output_dir: Path) -> object:
    """Everything of a finished run that must not depend on how it came about."""
    (directory,) = (path.parent for path in output_dir.glob("[!.]*/config.json"))
    names = sorted(path.name for path in directory.iterdir() if path.suffix != ".partial")
    return timeless_records(directory), audits(directory), names


def _difference(expected: object, found: object) -> str:
    assert isinstance(expected, tuple) and isinstance(found, tuple)
    sides = zip(("records", "audits", "files"), expected, found, strict=True)
    return "; ".join(f"{name}: {a} and {b}" for name, a, b in sides if a != b)[:2000]


def arguments_of(options: Options, work: Path) -> list[str]:
    """The run, as the command line has it."""
    target = options.target or str(write_model(work / "model"))
    return [
        *("run", "--target", target, "--tasks", options.tasks, "--plugin", str(PLUGIN)),
        *("--device", "cpu", "--drafter", options.drafter, "--limit", str(options.limit)),
        *("--baseline", options.baseline),
        *("--max-new-tokens", str(options.max_new_tokens), "--dtype", options.dtype),
    ]


def main(options: Options) -> None:
    """Print one line of JSON; any difference is an error."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        killer = Killer(arguments_of(options, work), work, options.processes, options.seed)
        while killer.num_kills < options.kills:
            killer.one_run(options.kills)
    facts = {"kills": killer.num_kills, "phases": killer.phases, **killer.facts}
    print(json.dumps({**facts, "uninterrupted_s": round(killer.whole_s, 1), "equal": True}))


if __name__ == "__main__":
    main(tyro.cli(Options))
