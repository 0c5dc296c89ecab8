"""What an lm-eval request asks of generation, honoured or refused, never dropped."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from harness import registry
from harness.errors import UserError
from harness.sampling import Sampling

T = TypeVar("T")
D = TypeVar("D")

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
    asked = (_value(given, name, int, None) for name in _LIMITS)
    limits = {limit for limit in asked if limit is not None}
    if len(limits) > 1:
        raise UserError(f"generation arguments give several limits: {sorted(limits)}; keep one.")
    max_new_tokens = limits.pop() if limits else DEFAULT_MAX_NEW_TOKENS
    if max_new_tokens < 1:
        raise UserError(f"max_gen_toks must be at least 1, not {max_new_tokens}.")
    until = given.get("until")
    until = [] if until in (None, "") else [until] if isinstance(until, str) else until
    if not isinstance(until, list | tuple) or not all(isinstance(t, str) and t for t in until):
        raise UserError(f"until must hold texts that are not empty, not {until!r}.")
    stop_strings = tuple(until)
    return Request(_sampling(given, seed), stop_strings, max_new_tokens)


def _sampling(given: Mapping[str, Any], seed: int) -> Sampling:
    do_sample = _value(given, "do_sample", bool, None)
    temperature = _value(given, "temperature", float, 1.0 if do_sample else 0.0)
    if do_sample is False and temperature > 0:
        # Many of lm-eval's tasks say this, and all its models take it for greedy.
        _LOG.warning("do_sample=False: temperature=%s is not used, answers are greedy", temperature)
        temperature = 0.0
    if do_sample and temperature == 0:
        raise UserError("do_sample=True needs a temperature above 0.")
    top_p, top_k = _value(given, "top_p", float, 1.0), _value(given, "top_k", int, 0)
    try:
        return Sampling(temperature, top_p, top_k, seed)
    except ValueError as error:
        raise UserError(f"generation arguments: {error}.") from error


_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number"}


def _value(given: Mapping[str, Any], name: str, kind: type[T], absent: D) -> T | D:
    """The argument as a ``kind``, or ``absent``; null is absent, and ``12.0`` a whole number.

    Raises:
        UserError: another type, or a number that is not finite.
    """
    value = given.get(name)
    if value is None:
        return absent
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        fits = isinstance(value, bool) if kind is bool else number and math.isfinite(value)
    except OverflowError:
        fits = False
    if not fits or (kind is int and value != int(value)):
        raise UserError(f"generation argument {name} must be {_WORDS[kind]}, not {value!r}.")
    return kind(value)  # type: ignore[call-arg]
