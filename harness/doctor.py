"""What this machine can run, and why not: probes to lines, without touching the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.inventory import TargetProbe
from harness.probes import Probes

Mark = Literal["ok", "--", "!!"]

BUSY = 0.1
"""Share of the cores in other hands above which timings would be off."""
_GIB = 2**30
_PLACES = {
    "cache": "in the hub's cache",
    "hub": "would be downloaded from the hub",
    "samples": "our samples, which are not the benchmark, for the hub does not answer",
    "unknown": "from outside this project, not looked into",
}
"""What is said of tasks, by where their prompts would come from."""
_LEAST_DISK_BYTES = 300_000_000
"""What converting the embedded target takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One finding: there, not there, or a problem."""

    mark: Mark
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark}  {self.name:<20}{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found."""

    lines: tuple[Line, ...]
    can_run: bool
    """Whether any named target can be run, if need be after a download."""
    facts: dict[str, Any]
    """The same as JSON."""


def diagnose(probes: Probes) -> Diagnosis:
    """Judge what was found."""
    lines = (
        *_software(probes),
        *_processor(probes),
        *_space(probes),
        *(_target(probes, target) for target in probes.targets),
        *_drafters(probes),
        *_data(probes),
        _hub(probes),
        _sandbox(probes),
        _load(probes),
    )
    usable = [item.name for item in probes.targets if _obstacle(probes, item) is None]
    return Diagnosis(
        lines=lines,
        can_run=bool(usable) and not probes.broken,
        facts={
            "can_run": bool(usable) and not probes.broken,
            "targets": usable,
            "problems": [f"{line.name}: {line.text}" for line in lines if line.mark == "!!"],
            "probes": asdict(probes),
        },
    )


def _software(probes: Probes) -> Iterator[Line]:
    yield Line(mark="ok", name="python", text=probes.python)
    for name, version in probes.packages.items():
        yield Line(mark="ok", name=name, text=version)
    for name, why in probes.broken.items():
        text = f"cannot be imported ({why}); run `pip install -c constraints.txt -e .`"
        yield Line(mark="!!", name=name, text=text)


def _processor(probes: Probes) -> Iterator[Line]:
    threads = f", torch uses {probes.num_threads} threads" if probes.num_threads else ""
    yield Line(mark="ok", name="cpu", text=f"{probes.cpu}, {probes.num_cores} cores{threads}")
    if probes.bf16_features:
        yield Line(mark="ok", name="bfloat16", text=", ".join(probes.bf16_features))
    else:
        text = "no matrix instructions found; on this CPU try --dtype float32, it may be faster"
        yield Line(mark="--", name="bfloat16", text=text)
    if probes.packs:
        yield Line(
            mark="ok", name="packed weights", text="same bits as plain ones; used on the CPU"
        )
    elif not probes.broken:
        text = "not on this CPU or torch; they make short passes faster, plain weights serve"
        yield Line(mark="--", name="packed weights", text=text)
    for gpu in probes.gpus:
        text = f"{gpu.name}, {_gib(gpu.free_bytes)} of {_gib(gpu.total_bytes)} free"
        yield Line(mark="ok", name="gpu", text=text)
    if probes.gpu_error:
        text = (
            f"torch cannot use it ({probes.gpu_error}); check the driver, or run with --device cpu"
        )
        yield Line(mark="!!", name="gpu", text=text)
    elif not probes.gpus:
        text = "none that torch sees; runs default to 16 prompts a task and 128 new tokens on a CPU"
        yield Line(mark="--", name="gpu", text=text)


def _space(probes: Probes) -> Iterator[Line]:
    free = f"{_gib(probes.memory_free_bytes)} of {_gib(probes.memory_bytes)} free"
    yield Line(mark="ok", name="memory", text=free)
    text = f"{_gib(probes.cache_free_bytes)} free at {probes.cache_dir}"
    if not probes.cache_writable:
        text = f"{probes.cache_dir} cannot be written; point HARNESS_CACHE_DIR elsewhere"
    elif probes.cache_free_bytes < _LEAST_DISK_BYTES:
        text += (
            "; converting the embedded target takes 0.3 GiB: free some, or set HARNESS_CACHE_DIR"
        )
    good = probes.cache_writable and probes.cache_free_bytes >= _LEAST_DISK_BYTES
    yield Line(mark="ok" if good else "!!", name="user cache", text=text)


def _target(probes: Probes, target: TargetProbe) -> Line:
    name = f"target {target.name}"
    obstacle = _obstacle(probes, target)
    size = f"about {_gib(target.needs_bytes)}" if target.needs_bytes else "size unknown"
    if target.state == "missing":
        return Line(mark="!!", name=name, text=target.complaint)
    if obstacle is not None:
        return Line(mark="--", name=name, text=obstacle)
    if target.state == "here":
        return Line(mark="ok", name=name, text=f"ready, {size} of weights")
    if target.state == "unknown":
        return Line(mark="--", name=name, text="from outside this project, not looked into")
    text = f"would fit; --target {target.name} downloads it ({size}; no licence was asked about)"
    return Line(mark="--", name=name, text=text)


def _obstacle(probes: Probes, target: TargetProbe) -> str | None:
    """Why a target cannot be run here; None if it can, as far as can be told."""
    if target.state == "missing":
        return target.complaint
    needs = target.needs_bytes or 0
    on_gpu = max((gpu.free_bytes for gpu in probes.gpus), default=0)
    place, free = ("the GPU", on_gpu) if probes.gpus else ("memory", probes.memory_free_bytes)
    if needs > free:
        return (
            f"needs about {_gib(needs)} in bfloat16 and {_gib(free)} of {place} are free; choose a "
            "smaller target"
        )
    if target.state == "download" and not probes.hub_answers:
        return target.complaint or (
            "is not here, and the hub does not answer; give --target the directory of a copy, or "
            "come back with a network"
        )
    if target.state == "download" and needs > probes.hub_free_bytes:
        return (
            f"is a download of about {_gib(needs)} and {_gib(probes.hub_free_bytes)} of disk are "
            "free; make room, or point HF_HOME elsewhere"
        )
    return None


def _drafters(probes: Probes) -> Iterator[Line]:
    """One line for all targets that have the same drafters, and one for each refusal."""
    ready: dict[tuple[str, ...], list[str]] = {}
    for target in dict.fromkeys(item.target for item in probes.drafters):
        own = [item for item in probes.drafters if item.target == target]
        ready.setdefault(tuple(item.name for item in own if item.state == "here"), []).append(
            target
        )
    for names, targets in ready.items():
        text = f"for {', '.join(targets)}: {', '.join(names) or 'none'}"
        yield Line(mark="ok" if names else "--", name="drafters", text=text)
    if any(item.state == "untrained" for item in probes.drafters):
        text = "the others first: `python -m harness train --drafter NAME --target NAME`"
        yield Line(mark="--", name="drafters", text=text)
    for complaint in dict.fromkeys(item.complaint for item in probes.drafters if item.complaint):
        yield Line(mark="--", name="drafters", text=complaint)


def _data(probes: Probes) -> Iterator[Line]:
    if probes.data_dir is None:
        yield Line(
            mark="--",
            name="data",
            text="HARNESS_DATA_DIR is not set; it names a directory with upstream's files",
        )
        for place, text in _PLACES.items():
            names = [task for task, where in probes.task_places.items() if where == place]
            if names:
                mark: Mark = "ok" if place == "cache" else "--"
                yield Line(mark=mark, name="data", text=f"{', '.join(names)}: {text}")
        return
    if not probes.data_dir_exists:
        text = f"HARNESS_DATA_DIR is {probes.data_dir}, which is no directory; correct or unset it"
        yield Line(mark="!!", name="data", text=text)
        return
    found = [task for task, number in probes.task_files.items() if number]
    lacking = [task for task, number in probes.task_files.items() if not number]
    if found:
        yield Line(mark="ok", name="data", text=f"{', '.join(found)} in {probes.data_dir}")
    if lacking:
        only = f"run with --tasks {','.join(found)}, or add them" if found else "add them"
        text = (
            f"no files of {', '.join(lacking)} in {probes.data_dir}; {only}, or unset the variable"
        )
        yield Line(mark="!!", name="data", text=text)


def _hub(probes: Probes) -> Line:
    if probes.hub_answers:
        return Line(mark="ok", name="hub", text="answers")
    text = "does not answer; what is said above to be here needs none"
    return Line(mark="--", name="hub", text=text)


def _sandbox(probes: Probes) -> Line:
    """What was tried from inside a child process, and held."""
    name, held = "generated code", probes.sandbox
    if probes.sandbox_error:
        return Line(mark="--", name=name, text=probes.sandbox_error)
    lacking = [what.replace("_", " ") for what, holds in held.items() if not holds]
    if lacking:
        text = f"not held back here: {', '.join(lacking)}; score it in a container or a spare VM"
        return Line(mark="--", name=name, text=text)
    text = f"held back in {', '.join(what.replace('_', ' ') for what in held)}"
    return Line(mark="ok", name=name, text=text)


def _load(probes: Probes) -> Line:
    if probes.load_share is None:
        return Line(mark="--", name="load", text="this system does not tell how busy it is")
    share = f"other processes use {100 * probes.load_share:.0f} % of the cores"
    if probes.load_share > BUSY:
        return Line(
            mark="!!", name="load", text=f"{share}; timings would be off, wait or stop them"
        )
    return Line(mark="ok", name="load", text=share)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:.1f} GiB"
