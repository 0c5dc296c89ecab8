"""Model and tokenizer from a directory or the hub; whatever goes wrong becomes one sentence."""

from __future__ import annotations

import contextlib
import errno
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import logging as library_logging

from harness import hub
from harness.errors import FAILURES, UserError, one_line, raise_ctrl_c
from harness.reading import require_regular_files
from targets import across_gpus
from targets.architecture import attention_for, empty_model
from targets.attention import prefer_grouped
from targets.base import TargetOptions
from targets.chat_template import require_default

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_LONGEST = 200
"""Characters of a library's own words in a sentence."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What `load_pretrained` found."""

    model: Any
    tokenizer: Any
    directory: Path
    """Where the weight files are."""
    revision: str | None
    """The hub commit; None for a local directory."""


def load_pretrained(model: str, options: TargetOptions) -> Pretrained:
    """Load a causal language model and its tokenizer, in ``options``' dtype, on its device.

    Where ``options`` name GPUs, weights too large for the first are spread over all.

    Raises:
        UserError: not found, not reachable, gated, damaged, too large, not a causal language model.
    """
    device, dtype = _device(options.device), _dtype(options.dtype)
    cached = not Path(model).is_dir() and not hub.is_reachable()
    with quiet(), _sentences(model, options):
        if Path(model).is_dir():
            require_regular_files(Path(model))
        config = AutoConfig.from_pretrained(
            model, revision=options.revision, local_files_only=cached
        )
        shape = empty_model(model, config)
        rows = shape.get_input_embeddings().num_embeddings
        tokenizer = _tokenizer(model, options, rows, local_files_only=cached)
        attn = attention_for(model, options.attn, shape)
        room = _room(model, shape, options, device)
        network, report = AutoModelForCausalLM.from_pretrained(
            model,
            config=config,
            revision=options.revision,
            local_files_only=cached,
            dtype=dtype,
            attn_implementation=attn,
            device_map=None if room is None else "balanced",
            max_memory=room,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise UserError(
                f"the weights of {model} are incomplete: {len(report['missing_keys'])} tensors "
                f"such as {min(report['missing_keys'])} are missing; download them again."
            )
        if room is None:
            network = network.to(device)
        else:
            across_gpus.require_placed(network, _weights(model, options), room)
            across_gpus.bring_back(network)
        network = network.eval().requires_grad_(False)
        if options.attn is None and device.type == "cpu":
            prefer_grouped(network)
    revision = getattr(network.config, "_commit_hash", None)
    return Pretrained(network, tokenizer, _directory(model, revision), revision)


def weight_files(directory: Path) -> list[Path]:
    """The weight files in a model's directory: safetensors, else PyTorch's own."""
    found = sorted(directory.glob("*.safetensors"))
    return found or sorted(directory.glob("pytorch_model*.bin"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's progress bars and warnings."""
    verbosity, bars = library_logging.get_verbosity(), library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r} is not one torch knows; write cpu or cuda.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device here; use --device cpu.")
    return device


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise UserError(f"dtype {name!r} is unknown; use one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def _room(
    model: str, shape: Any, options: TargetOptions, device: torch.device
) -> dict[int, int] | None:
    """Bytes for each GPU of weights to be spread; None where ``device`` takes them all."""
    dtype = _dtype(options.dtype)
    needed = sum(item.numel() for item in shape.parameters()) * dtype.itemsize
    if options.gpus:
        free = across_gpus.free_bytes(options.gpus)
        return across_gpus.share_out(_weights(model, options), needed, free)
    if device.type == "cuda":
        free_here, place = torch.cuda.mem_get_info(device)[0], "on the GPU"
    else:
        free_here, place = psutil.virtual_memory().available, "of memory"
    if needed > free_here:
        raise UserError(
            f"{model} needs {needed / 1e9:.1f} GB in {dtype} and {free_here / 1e9:.1f} GB {place} "
            "are free; choose a smaller target, a smaller --dtype or another --device."
        )
    return None


def _weights(model: str, options: TargetOptions) -> str:
    return f"{model} in {options.dtype}"


def _tokenizer(model: str, options: TargetOptions, rows: int, *, local_files_only: bool) -> Any:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                model, revision=options.revision, local_files_only=local_files_only
            )
    except Exception as error:
        raise UserError(
            f"the tokenizer of {model} cannot be read ({_first_line(error)}); put tokenizer.json "
            "and tokenizer_config.json beside the weights."
        ) from error
    require_default(model, tokenizer)
    if len(tokenizer) > rows:
        raise UserError(
            f"the tokenizer of {model} has {len(tokenizer)} tokens and its model only {rows}; "
            "they do not belong together."
        )
    return tokenizer


def _directory(model: str, revision: str | None) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from transformers.utils import cached_file

    return Path(cached_file(model, "config.json", revision=revision, local_files_only=True)).parent


@contextlib.contextmanager
def _sentences(model: str, options: TargetOptions) -> Iterator[None]:
    """Turn what the libraries raise while loading into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (SafetensorError, EOFError) as error:
        raise UserError(
            f"the weights of {model} are damaged or cut short ({_first_line(error)}); "
            "download them again."
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(
            f"{model} does not fit in the memory of {options.device}; choose a smaller target or "
            "a smaller --dtype."
        ) from error
    except ImportError as error:
        raise UserError(
            f"{model} cannot be loaded with --attn {options.attn or 'sdpa'}: {_first_line(error)}."
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(_explain(error, model, options)) from error
    except FAILURES as error:  # Code and files of any model there is.
        raise_ctrl_c(error)
        raise UserError(f"{model} cannot be loaded: {one_line(error)}.") from error


def _explain(error: Exception, model: str, options: TargetOptions) -> str:
    """One sentence for an error of ``from_pretrained``, judged by the whole chain of causes."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    names = {type(item).__name__ for item in chain}
    if any(isinstance(item, OSError) and item.errno == errno.ENOSPC for item in chain):
        return f"no space is left on the disk for the weights of {model}; free some and try again."
    if "GatedRepoError" in names:
        return (
            f"{model} is gated; accept its licence on the hub and log in with `hf auth login`, "
            "or give a local directory."
        )
    if "RevisionNotFoundError" in names:
        return f"{model} has no revision {options.revision!r} on the hub."
    if "RepositoryNotFoundError" in names:
        return f"{model} is not on the hub, or is private; check the name or `hf auth login`."
    if names & {
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
        "ConnectError",
        "ConnectTimeout",
    }:
        return hub.missing(model)
    return f"{model} cannot be loaded: {_first_line(error)}."


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], _LONGEST, placeholder=" …").rstrip(".")
