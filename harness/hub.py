"""Whether the Hugging Face hub can be reached, asked once a process and before it is used.

The libraries try again for most of a minute when a hub does not answer; one short question comes
before any of that.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)

TIMEOUT_S = 4.0
"""For the first answer, not for a download."""


def is_reachable() -> bool:
    """Whether the hub (or the mirror that HF_ENDPOINT names) answers; False in offline mode."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not _answers(constants.ENDPOINT):
        # The libraries have questions of their own to ask; they look here before each.
        constants.HF_HUB_OFFLINE = True
    return not constants.HF_HUB_OFFLINE


def is_cached(model: str, revision: str | None = None) -> bool:
    """Whether the hub's cache holds this model, as far as its config tells."""
    return cached_file(model, "config.json", revision) is not None


def cached_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a model in the hub's cache; None where it is not there, or is no model's name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def missing(model: str) -> str:
    """One sentence for a model that would have to be downloaded where nothing can be."""
    return (
        f"the hub cannot be reached and {model} is not in its cache; check the network, give "
        "a local directory, or take --target smollm2, which needs no hub."
    )


@functools.cache
def _answers(endpoint: str) -> bool:
    """Any answer counts, an error's too: what is missing or gated is told later."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=TIMEOUT_S)
    except Exception as error:
        # The hub's transports raise from families that share no base class.
        _LOG.info("the hub does not answer: %s", error)
        return False
    return True
