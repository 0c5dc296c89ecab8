"""Targets from GGUF files: the weights are expanded once, to bfloat16, into the user's cache.

A GGUF file holds quantised weights, the tokenizer and the chat template in one file. The library
reads it anew at every start, which takes longer than a run; the safetensors made of it load at
once, and are the same weights in every process.

    load(options, path="models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf")
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from harness.errors import UserError, one_line
from targets.base import TargetOptions
from targets.converted import converted_directory
from targets.digest import file_digest
from targets.hugging_face import load_directory
from targets.pretrained import quiet
from targets.transformers_lm import TransformersTarget

_BYTES_OF_A_WEIGHT = 6
"""While it is converted: float32 as it is read, and bfloat16."""
_SIDE_FILES = 30_000_000
"""Bytes that tokenizer and config may take beside the weights."""


def load(options: TargetOptions, *, path: str) -> TransformersTarget:
    """The target in a GGUF file; the first call converts it, and later ones find it converted.

    Raises:
        UserError: not a whole GGUF file, an architecture that the library cannot
            read from one, or too little memory or disk.
    """
    source = Path(path).expanduser()
    digest = file_digest(source)
    directory = converted(source, digest, source.stem)
    return load_directory(options, directory, {"model": source.name, "source_sha256": digest})


def converted(source: Path, digest: str, name: str) -> Path:
    """The directory that ``source``, whose SHA-256 is ``digest``, was or now is converted into.

    Raises:
        UserError: as `load`.
    """
    directory = converted_directory(digest, name)
    if not directory.is_dir():
        _convert_into(directory, source)
    return directory


def _convert_into(directory: Path, source: Path) -> None:
    """Convert beside ``directory`` and rename: whoever is first wins, and nobody sees half."""
    size = 2 * _num_weights(source) + _SIDE_FILES
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(directory.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        try:
            _convert(source, scratch)
            os.replace(scratch, directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        if directory.is_dir():
            return  # Another process was faster.
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"converting {source.name} takes {size / 1e9:.1f} GB in {directory.parent}; free "
                "some space, or point HARNESS_CACHE_DIR elsewhere."
            ) from error
        raise UserError(
            f"{source.name} cannot be converted in {directory.parent} ({error.strerror}); point "
            "HARNESS_CACHE_DIR to a directory that can be written."
        ) from error


def _num_weights(source: Path) -> int:
    """From the file's table of contents; what is cut short or too large for the memory shows."""
    from gguf import GGUFReader

    try:
        number = sum(int(tensor.n_elements) for tensor in GGUFReader(source).tensors)
    except Exception as error:
        # The reader slices a memory map; what a damaged table makes of that can be anything.
        raise UserError(
            f"{source.name} is no whole GGUF file ({one_line(error)}); download it again."
        ) from error
    needed, free = number * _BYTES_OF_A_WEIGHT, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"converting {source.name} takes {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free; take a machine with more, or a directory of "
            "safetensors."
        )
    return number


def _convert(source: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _sentences(source):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        quantized, report = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, output_loading_info=True
        )
        if report["missing_keys"]:  # the library would leave them random
            raise UserError(
                f"{source.name} lacks {len(report['missing_keys'])} weights such as "
                f"{min(report['missing_keys'])}; give one whole GGUF file, not a part of one."
            )
        # A model that was read from GGUF refuses to be saved while its config says quantized.
        config = quantized.config.to_dict()
        config.pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(
            type(quantized.config).from_dict(config), dtype=torch.bfloat16
        )
        plain.load_state_dict(
            {key: value.to(torch.bfloat16) for key, value in quantized.state_dict().items()}
        )
        plain.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


@contextlib.contextmanager
def _sentences(source: Path) -> Iterator[None]:
    """Silence the library, whose GGUF reader draws a bar of its own, and explain what it raises."""
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            yield
    except (UserError, OSError):
        raise
    except (ValueError, KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{source.name} cannot be read as a target ({one_line(error)}); give a directory of "
            "safetensors or a hub id instead."
        ) from error
