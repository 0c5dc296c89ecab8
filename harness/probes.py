"""What this machine has: looked up without loading a model or downloading anything."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from harness import hub, inventory, provenance
from harness.errors import UserError
from harness.inventory import DrafterProbe, Place, TargetProbe
from harness.load import MIN_WALL_S, OtherLoad
from harness.user_cache import user_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One device torch can use."""

    name: str
    free_bytes: int
    total_bytes: int


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
    hub_answers: bool
    """Whether the hub could be reached within seconds."""
    targets: tuple[TargetProbe, ...]
    drafters: tuple[DrafterProbe, ...]
    data_dir: str | None
    data_dir_exists: bool
    task_files: Mapping[str, int]
    """Files below the data directory, by task."""
    task_places: Mapping[str, Place]
    """Where prompts come from where there is no data directory."""
    sandbox: Mapping[str, bool]
    """What holds generated code back, by name; empty where none can be run."""
    sandbox_error: str
    """Why none can be run."""
    load_share: float | None
    """Part of all cores that other processes keep busy; None where the system does not tell."""


def probe() -> Probes:
    """Look at this machine; takes seconds: torch is imported, and the hub may not answer."""
    load_share = _load_share()  # before anything here keeps cores busy
    packages, broken = _imports()
    torch_works = not broken
    gpus, gpu_error = _gpus() if "torch" in packages else ((), "")
    memory = psutil.virtual_memory()
    cache = _existing(user_cache())
    data_dir = os.environ.get("HARNESS_DATA_DIR") or None
    sandbox, sandbox_error = _sandbox()
    hub_answers = torch_works and hub.is_reachable()
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
        hub_answers=hub_answers,
        targets=inventory.targets() if torch_works else (),
        drafters=inventory.drafters() if torch_works else (),
        data_dir=data_dir,
        data_dir_exists=data_dir is not None and Path(data_dir).is_dir(),
        task_files=inventory.task_files(Path(data_dir)) if data_dir else {},
        task_places={} if data_dir else inventory.task_places(hub_answers=hub_answers),
        sandbox=sandbox,
        sandbox_error=sandbox_error,
        load_share=load_share,
    )


def _load_share() -> float | None:
    with OtherLoad() as load:
        time.sleep(MIN_WALL_S)
    return None if load.cores is None else min(1.0, load.cores / (os.cpu_count() or 1))


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


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _sandbox() -> tuple[dict[str, bool], str]:
    from tasks.sandbox import Sandbox

    try:
        return Sandbox().containment.held, ""
    except UserError as error:
        return {}, str(error)


def _existing(path: Path) -> Path:
    """The nearest directory that exists at or above ``path``."""
    return next(place for place in (path, *path.parents) if place.is_dir())
