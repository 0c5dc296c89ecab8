"""One run on several processes: who asks what, and when all have asked.

Only a path and a few numbers travel between processes, and they travel by gloo, on a GPU too: a
barrier of nccl is a kernel that would wait on the very device being timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.plan import Plan
from harness.records import Generation, Record
from harness.same_run import first_difference

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What torchrun and accelerate tell each process."""
_POLL_S = 0.1
_MEETING = timedelta(minutes=5)
"""For all to be there: one that dies before it is met is noticed by its absence alone."""
_SHARE = timedelta(days=30)
"""For all to finish; one that dies after they met is noticed at once."""


@dataclass(frozen=True)
class Place:
    """Which process of a run this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this host."""
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process opens, merges, audits and reports."""
        return self.rank == 0

    def share(self, plan: Plan) -> Plan:
        """This process's conversations: every ``size``-th of each task, so that all see all tasks.

        What was answered before changes no one's share.
        """
        shares = {
            task: dataclasses.replace(chosen, prompts=chosen.prompts[self.rank :: self.size])
            for task, chosen in plan.tasks.items()
        }
        return dataclasses.replace(
            plan, tasks={task: share for task, share in shares.items() if share.prompts}
        )

    def gpus(self, count: int) -> tuple[int, ...]:
        """Of the host's ``count`` GPUs this process's: consecutive ones, as many as all have."""
        share = count // self.local_size
        return tuple(range(self.local_rank * share, (self.local_rank + 1) * share))

    def sign(self, record: Record) -> Record:
        """The record with the process that made it."""
        if not isinstance(record, Generation):
            return record
        return dataclasses.replace(record, process=self.local_rank, num_processes=self.local_size)


def place() -> Place:
    """This process's place, as its launcher says; alone where there is none."""
    told = [os.environ.get(name) for name in _LAUNCHER]
    if any(value is None for value in told) or told[1] == "1":
        return Place()
    rank, size, local_rank, local_size = (int(value or 0) for value in told)
    return Place(rank, size, local_rank, local_size)


def gpus(device: str) -> tuple[int, ...]:
    """GPUs that one target may be spread over; none where ``device`` names another place or one."""
    if device != "cuda":
        return ()
    import torch

    return place().gpus(torch.cuda.device_count())


def within(records: Iterable[Record], plan: Plan) -> list[Record]:
    """Those that answer a prompt of ``plan``."""
    asked = {
        (task, prompt.prompt_id) for task, chosen in plan.tasks.items() for prompt in chosen.prompts
    }
    return [record for record in records if (record.task, record.prompt_id) in asked]


def without_device(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` but for the device, which each process has its own of."""
    target = {name: value for name, value in facts["target"].items() if name != "device"}
    return {**facts, "target": target}


class Ring:
    """What the processes of one run tell each other."""

    def __init__(self, own: Place, device: str) -> None:
        """Meet the others; on GPUs each process takes the first of its own.

        Raises:
            UserError: the others cannot be met, or there are fewer GPUs than processes.
        """
        self.place = own
        self._store: Store | None = None
        self._num_exchanges = 0
        if own.size == 1:
            return
        _take_device(own, device)
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        try:
            self._store, rank, size = next(rendezvous("env://"))
            dist.init_process_group(
                "gloo", store=self._store, rank=rank, world_size=size, timeout=_MEETING
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"process {own.rank} cannot meet the others ({error}); start all of them with "
                "torchrun."
            ) from error

    def exchange(self, value: Any) -> list[Any]:
        """What every process says here, by rank; waits for all, and can be interrupted.

        Args:
            value: anything that JSON holds.

        Raises:
            UserError: another process ended.
        """
        if self._store is None:
            return [value]
        place = f"exchange {self._num_exchanges}, process"
        self._num_exchanges += 1
        with _one_sentence(self.place):
            self._store.set(f"{place} {self.place.rank}", json.dumps(value))
            _barrier()
            return [json.loads(self._store.get(f"{place} {i}")) for i in range(self.place.size)]

    def require_alike(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Raise `UserError`, in every process, where one differs from the first.

        Args:
            told: what `exchange` gave, objects that must be equal but for their directory.
        """
        first, *others = ({**item, "directory": None} for item in told)
        for rank, other in enumerate(others, start=1):
            found = first_difference(first, other)
            if found is not None:
                field, there, here = found
                raise UserError(
                    f"process {rank} is not like process 0: {field} is {here}, there {there}; "
                    "start all with the same command on machines of one kind."
                )

    def leave(self) -> None:
        """Part from the others when all have heard everything; no exchange follows.

        Raises:
            UserError: another process ended.
        """
        if self._store is None:
            return
        import torch.distributed as dist

        with _one_sentence(self.place):
            _barrier()
        self._store = None
        dist.destroy_process_group()


@contextlib.contextmanager
def _one_sentence(own: Place) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError(
            f"process {own.rank} stops: another process of this run ended early; what was "
            "measured stays: go on with --resume."
        ) from error


def _barrier() -> None:
    """Wait for all, awake to signals."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import BarrierOptions

    assert dist.group.WORLD is not None
    options = BarrierOptions()
    options.timeout = _SHARE
    work = dist.group.WORLD.barrier(options)
    while not work.is_completed():
        time.sleep(_POLL_S)
    work.wait()


def _take_device(own: Place, device: str) -> None:
    if not device.startswith("cuda"):
        return
    import torch

    num_gpus = torch.cuda.device_count()
    if device != "cuda" and own.local_size > 1:
        raise UserError(
            f"{own.local_size} processes cannot share {device}; write --device cuda, and each "
            "takes a GPU of its own."
        )
    if own.local_size > num_gpus:
        raise UserError(
            f"{own.local_size} processes were started here, but there are {num_gpus} GPUs; start "
            "one a GPU."
        )
    torch.cuda.set_device(own.gpus(num_gpus)[0] if device == "cuda" else torch.device(device))
