"""Weights that one GPU is too small for: what each GPU of a process takes of them.

The library places whole layers, in order; here is decided when, and how much room is left to work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from harness.errors import UserError

_GIB = 2**30
_WORK = 2
"""One part in so many of the first GPU stays free: drafters, their optimisers, their batches."""
_PASSES = 10
"""One part in so many of every other GPU: activations, keys and values of its layers."""
_ADVICE = (
    "choose a smaller target or a smaller --dtype, show this command more GPUs, or start fewer "
    "processes on a host: each then has more of its GPUs"
)


def share_out(weights: str, needed: int, free: Mapping[int, int]) -> dict[int, int] | None:
    """Bytes of weights that each GPU may take; None where the first one takes them all.

    Args:
        weights: whose and in which dtype, for the message.
        needed: their bytes.
        free: bytes by GPU; drafters are trained on the first.

    Raises:
        UserError: all GPUs together cannot hold them.
    """
    first, *others = free
    room = {first: free[first] // _WORK}
    if needed <= room[first]:
        return None
    room |= {gpu: free[gpu] - free[gpu] // _PASSES for gpu in others}
    if others and needed <= sum(room.values()):
        return room
    if needed <= free[first]:  # Tight, and nowhere else is better.
        return None
    kept = f", {_gib(room)} of that for weights" if others else ""
    raise UserError(
        f"{weights} needs {_gib({first: needed})}, and {_names(free)} {_gib(free)} free{kept}; "
        f"{_ADVICE}."
    )


def free_bytes(gpus: Sequence[int]) -> dict[int, int]:
    """By GPU, in this order."""
    return {gpu: int(torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus}


def require_placed(model: Any, weights: str, room: Mapping[int, int]) -> None:
    """Raise `UserError` where the library, whole layers in hand, found no GPU for one.

    Args:
        model: as the library spread it.
        weights: as in `share_out`.
        room: what `share_out` returned.
    """
    if "disk" in getattr(model, "hf_device_map", {}).values():
        raise UserError(
            f"{weights} is spread by whole layers, and the {_gib(room)} that {_names(room)} for "
            f"weights do not hold them all; {_ADVICE}."
        )


def bring_back(model: Any) -> None:
    """Make the decoder of a spread ``model`` return its output to where its input was.

    Between decoder and LM head the library picks rows by indices that lie with the input.
    """
    device = model.device

    def move(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.to(device)
        return output

    model.get_decoder().register_forward_hook(move)


def _gib(sizes: Mapping[int, int]) -> str:
    return f"{sum(sizes.values()) / _GIB:.1f} GiB"


def _names(gpus: Iterable[int]) -> str:
    first, *others = gpus
    return f"GPUs {first} to {others[-1]} have" if others else f"GPU {first} has"
