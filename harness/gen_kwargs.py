"""What an lm-eval request asks of generation, honoured or refused, never dropped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness import registry
from harness.errors import UserError
from harness.sampling import Sampling

_LOG = logging.getLogger(__name__)

DEFAULT_MAX_NEW_TOKENS = 256
"""What lm-eval's own models take where a task says nothing."""

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = ("until", "do_sample", "temperature", "top_p", "top_k", *_LIMITS)


@dataclass(frozen=True, slots=True)
class Request:
    """How one answer is to be written."""

    sampling: Sampling
    stop_strings: tuple[str, ...]
    max_new_tokens: int


def read_gen_kwargs(given: Mapping[str, Any], seed: int) -> Request:
    """The request that ``given`` describes.

    As elsewhere in lm-eval: ``do_sample`` without a temperature means 1, a temperature above 0
    without ``do_sample`` samples, and ``do_sample: false`` is greedy whatever the temperature.

    Raises:
        UserError: a name that is not known, values out of range, or two that contradict.
    """
    for name in given:
        if name not in _KNOWN:
            raise UserError(
                f"generation argument {name!r} cannot be honoured; "
                f"{registry.near_misses(name, _KNOWN)}"
            )
    limits = {int(given[name]) for name in _LIMITS if given.get(name) is not None}
    if len(limits) > 1:
        raise UserError(f"generation arguments give several limits: {sorted(limits)}; keep one.")
    max_new_tokens = limits.pop() if limits else DEFAULT_MAX_NEW_TOKENS
    if max_new_tokens < 1:
        raise UserError(f"max_gen_toks must be at least 1, not {max_new_tokens}.")
    until = given.get("until") or []
    stop_strings = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(text, str) and text for text in stop_strings):
        raise UserError(f"until must hold texts that are not empty, not {until!r}.")
    return Request(_sampling(given, seed), stop_strings, max_new_tokens)


def _sampling(given: Mapping[str, Any], seed: int) -> Sampling:
    do_sample = given.get("do_sample")
    temperature = given.get("temperature")
    if temperature is None:
        temperature = 1.0 if do_sample else 0.0
    if do_sample is False and float(temperature) > 0:
        # Many of lm-eval's tasks say this, and all its models take it for greedy.
        _LOG.warning("do_sample=False: temperature=%s is not used, answers are greedy", temperature)
        temperature = 0.0
    if do_sample and float(temperature) == 0:
        raise UserError("do_sample=True needs a temperature above 0.")
    try:
        return Sampling(
            float(temperature), float(given.get("top_p", 1.0)), int(given.get("top_k", 0)), seed
        )
    except ValueError as error:
        raise UserError(f"generation arguments: {error}.") from error
