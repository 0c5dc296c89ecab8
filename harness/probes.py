"""What this machine has: looked up without the network, and without loading a model."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from harness import provenance, registry
from harness.errors import UserError
from harness.user_cache import user_cache

_LOAD_WINDOW_S = 0.5
_BILLIONS = re.compile(r"(\d+(?:\.\d+)?)B\b", re.IGNORECASE)
_EMBEDDED_BYTES = 270_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device torch can use."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetProbe:
    """A named target: what it needs, and whether it is here."""

    name: str
    state: Literal["here", "download", "missing", "unknown"]
    needs_bytes: int | None
    """Of its bfloat16 weights: measured if here, else from the billions in its name."""
    complaint: str = ""
    """Why it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """Everything `harness.doctor` judges."""

    python: str
    packages: Mapping[str, str]
    """Versions of those that can be imported."""
    broken: Mapping[str, str]
    """Why the others cannot."""
    cpu: str
    num_cores: int
    num_threads: int | None
    """Threads torch will use."""
    bf16_features: tuple[str, ...]
    packs: bool
    memory_bytes: int
    memory_free_bytes: int
    cache_dir: str
    cache_writable: bool
    cache_free_bytes: int
    hub_free_bytes: int
    """Disk where downloads go."""
    gpus: tuple[Gpu, ...]
    gpu_error: str
    """Why a GPU that torch sees cannot be used; empty where all is well."""
    targets: tuple[TargetProbe, ...]
    drafters: Mapping[str, tuple[str, ...]]
    """Trained drafters, by target."""
    data_dir: str | None
    data_dir_exists: bool
    task_files: Mapping[str, int]
    """Files below the data directory, by task."""
    sandbox: Mapping[str, bool]
    """What holds generated code back, by name; empty where none can be run."""
    sandbox_error: str
    """Why none can be run."""
    load_share: float
    """Part of all cores that other processes keep busy."""


def probe() -> Probes:
    """Look at this machine; takes about two seconds, and the time to import torch."""
    load_share = _load_share()  # before anything here keeps cores busy
    packages, broken = _imports()
    torch_works = not broken
    gpus, gpu_error = _gpus() if "torch" in packages else ((), "")
    memory = psutil.virtual_memory()
    cache = _existing(user_cache())
    data_dir = os.environ.get("HARNESS_DATA_DIR") or None
    sandbox, sandbox_error = _sandbox()
    return Probes(
        python=platform.python_version(),
        packages=packages,
        broken=broken,
        cpu=provenance.cpu_model(),
        num_cores=os.cpu_count() or 1,
        num_threads=_num_threads() if "torch" in packages else None,
        bf16_features=_bf16_features(),
        packs=torch_works and _packs(),
        memory_bytes=memory.total,
        memory_free_bytes=memory.available,
        cache_dir=str(user_cache()),
        cache_writable=os.access(cache, os.W_OK),
        cache_free_bytes=shutil.disk_usage(cache).free,
        hub_free_bytes=shutil.disk_usage(_existing(_hub_cache())).free,
        gpus=gpus,
        gpu_error=gpu_error,
        targets=_targets() if torch_works else (),
        drafters=_drafters() if torch_works else {},
        data_dir=data_dir,
        data_dir_exists=data_dir is not None and Path(data_dir).is_dir(),
        task_files=_task_files(Path(data_dir)) if data_dir else {},
        sandbox=sandbox,
        sandbox_error=sandbox_error,
        load_share=load_share,
    )


def _load_share() -> float:
    own, begin_s = psutil.Process(), time.perf_counter()
    before = own.cpu_times()
    busy = psutil.cpu_percent(interval=_LOAD_WINDOW_S) / 100
    after, passed_s = own.cpu_times(), time.perf_counter() - begin_s
    used_s = after.user + after.system - before.user - before.system
    return max(0.0, busy - used_s / passed_s / (os.cpu_count() or 1))


def _imports() -> tuple[dict[str, str], dict[str, str]]:
    packages, broken = {}, {}
    for name in ("torch", "transformers"):
        try:
            packages[name] = str(importlib.import_module(name).__version__)
        except Exception as error:  # a broken installation raises anything
            broken[name] = " ".join(str(error).split()) or type(error).__name__
    return packages, broken


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


def _bf16_features() -> tuple[str, ...]:
    """Matrix instructions for bfloat16 that Linux lists; none elsewhere."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return ()
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "Arm BF16"}
    return tuple(name for flag, name in names.items() if flag in words)


def _packs() -> bool:
    import torch

    from targets.packed import can_pack

    return can_pack(torch.nn.Sequential(torch.nn.Linear(64, 64, dtype=torch.bfloat16)))


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    """Devices that work, and what the first of the others says."""
    import torch

    found = []
    try:
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            found.append(Gpu(name=name, free_bytes=free, total_bytes=total))
    except RuntimeError as error:
        return tuple(found), str(error).strip().split("\n")[0]
    return tuple(found), ""


def _targets() -> tuple[TargetProbe, ...]:
    return tuple(_target(name, entry) for name, entry in registry.table("targets").items())


def _target(name: str, entry: registry.Entry) -> TargetProbe:
    if entry.path.startswith("targets.smollm2:"):
        from targets.smollm2 import gguf_file

        try:
            gguf_file()
        except UserError as error:
            return TargetProbe(
                name=name, state="missing", needs_bytes=_EMBEDDED_BYTES, complaint=str(error)
            )
        return TargetProbe(name=name, state="here", needs_bytes=_EMBEDDED_BYTES)
    model = entry.options.get("model")
    if not isinstance(model, str):
        return TargetProbe(name=name, state="unknown", needs_bytes=None)
    cached = _cached_bytes(model)
    if cached is not None:
        return TargetProbe(name=name, state="here", needs_bytes=cached)
    billions = _BILLIONS.search(model)
    needs = int(float(billions[1]) * 2e9) if billions else None
    return TargetProbe(name=name, state="download", needs_bytes=needs)


def _cached_bytes(model: str) -> int | None:
    """Size of the weight files in the hub's cache; None unless all are there."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        found = try_to_load_from_cache(model, name)
        return Path(found) if isinstance(found, str) else None

    names = {"model.safetensors"}
    try:
        if (index := cached("model.safetensors.index.json")) is not None:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [cached(name) for name in names]
        if cached("config.json") is None or None in files:
            return None
        return sum(file.stat().st_size for file in files if file is not None)
    except (OSError, ValueError, KeyError):  # a damaged cache is downloaded again
        return None


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _drafters() -> dict[str, tuple[str, ...]]:
    from drafters.block_diffusion.checkpoint import OWN, slug

    found = {}
    for target in registry.table("targets"):
        roots = (user_cache() / "drafters", OWN)
        configs = [path for root in roots for path in (root / slug(target)).glob("*/config.json")]
        found[target] = tuple(sorted({path.parent.name for path in configs}))
    return found


def _task_files(data_dir: Path) -> dict[str, int]:
    """Of tasks that read files by name; others are not listed."""
    from tasks.row_task import RowTask

    tasks = {name: row.load() for name, row in registry.table("tasks").items()}
    return {
        name: len(task.files_in(data_dir))
        for name, task in tasks.items()
        if isinstance(task, RowTask)
    }


def _sandbox() -> tuple[dict[str, bool], str]:
    from tasks.sandbox import Sandbox

    try:
        return Sandbox().containment.held, ""
    except UserError as error:
        return {}, str(error)


def _existing(path: Path) -> Path:
    """The nearest directory that exists at or above ``path``."""
    return next(place for place in (path, *path.parents) if place.is_dir())
