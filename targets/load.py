"""From the name of a target to a loaded one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness import shards
from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.progress import say
from harness.registry import Entry, resolve, table
from targets.base import Target, TargetOptions
from targets.find import check_target

if TYPE_CHECKING:
    from targets.transformers_lm import TransformersTarget


_NEEDED = (
    *("vocab_size", "max_context", "stop_ids", "device", "dtype", "describe", "encode_chat"),
    *("decode", "start", "prefill", "verify", "commit"),
)
"""What `targets.base.Target` has and every run uses."""


def load_target(options: TargetOptions) -> Target:
    """Load a table entry, else a local directory or GGUF file, else a hub id (``owner/name``).

    Raises:
        UserError: none of them, or the target cannot be loaded.
    """
    name = options.name
    if name in table("targets"):
        return _from_entry(options, resolve("targets", name))
    check_target(options)
    if name.endswith(".gguf"):
        from targets import gguf_file

        return gguf_file.load(options, path=name)
    from targets import hugging_face

    return hugging_face.load(options, model=name)


def renamed(options: TargetOptions, *, name: str) -> Target:
    """The target that was once called ``options.name``."""
    say(f"target {options.name} is called {name} now; --target {name} says the same")
    return load_target(dataclasses.replace(options, name=name))


def _from_entry(options: TargetOptions, entry: Entry) -> Target:
    """A row's target, which may be code from elsewhere."""
    try:
        target = entry.load()(options, **entry.options)
    except (UserError, OSError, MemoryError):
        raise
    except FAILURES as error:
        raise_ctrl_c(error)
        raise UserError(f"target {options.name} cannot be loaded: {one_line(error)}.") from error
    lacking = [name for name in _NEEDED if not hasattr(target, name)]
    if lacking:
        raise UserError(
            f"target {options.name} has no {', '.join(lacking)}; a target is what "
            "targets.base.Target describes."
        )
    made: Target = target
    return made


def load_transformers_target(options: TargetOptions, what: str) -> TransformersTarget:
    """As `load_target`, for ``what`` works on transformers models alone.

    One that is too large for a GPU is spread over those of this process.

    Raises:
        UserError: as `load_target`, or the target is another kind of model.
    """
    from targets.transformers_lm import TransformersTarget

    target = load_target(dataclasses.replace(options, gpus=shards.gpus(options.device)))
    if not isinstance(target, TransformersTarget):
        raise UserError(f"target {options.name} is not a transformers model; {what} needs one.")
    devices = dict.fromkeys(str(item.device) for item in target.model.parameters())
    if len(devices) > 1:
        say(f"spread   the weights of {options.name} over {', '.join(devices)}")
    return target
