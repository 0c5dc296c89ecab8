"""What may not change within a run, and the first field in which it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.errors import UserError
from harness.run_facts import PluginFacts
from harness.typed_json import typed

_LATER = ("num_turns", "oracle", "remembers", "foreign")
_MACHINE = ("cpu", "gpu", "num_threads")


def machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of hardware and versions that move tokens or times."""
    found = {
        part: typed(dict[str, Any], environment.get(part), part)
        for part in ("hardware", "versions")
    }
    return {
        "hardware": {name: found["hardware"].get(name) for name in _MACHINE},
        "versions": {name: found["versions"].get(name) for name in ("torch", "transformers")},
    }


def plugins(environment: Mapping[str, Any]) -> dict[str, str]:
    """Digests of plug-in files by name; none in older runs."""
    found = typed(list[PluginFacts], environment.get("plugins", []), "plugins")
    return {item["name"]: item["sha256"] for item in found}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a ``config.json`` a run goes on with.

    Without what older runs do not hold: numbers of turns follow from the prompts, and plug-ins'
    digests are compared by themselves.
    """
    parts: dict[str, Any] = {
        part: [
            {name: item[name] for name in item if name not in _LATER}
            for item in typed(list[dict[str, Any]], config.get(part), part)
        ]
        for part in ("tasks", "methods")
    }
    target = typed(dict[str, Any], config.get("target"), "target")
    parts["target"] = {name: target[name] for name in target if name not in _LATER}
    return {**{name: config[name] for name in config if name != "run_id"}, **parts}


def refuse_difference(began: Any, now: Any, what: str) -> None:
    """Raise `UserError` naming the first field in which two JSON values differ."""
    found = first_difference(began, now)
    if found is not None:
        field, old, new = found
        raise UserError(
            f"cannot resume: {what} field {field} was {old} and is now {new}; repeat the flags "
            "the run began with, or start a new run."
        )


def first_difference(first: Any, second: Any) -> tuple[str, str, str] | None:
    """Dotted name of the first field in which two JSON values differ, and what each says."""
    found = _difference(first, second, "")
    return found and (found[0], _short(found[1]), _short(found[2]))


def _difference(began: Any, now: Any, field: str) -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first difference, depth first."""
    if isinstance(began, dict) and isinstance(now, dict):
        keys = [*began, *(key for key in now if key not in began)]
        pairs = [(f"{field}.{key}".lstrip("."), began.get(key), now.get(key)) for key in keys]
    elif isinstance(began, list) and isinstance(now, list) and len(began) == len(now):
        pairs = [
            (f"{field}[{index}]", *pair) for index, pair in enumerate(zip(began, now, strict=True))
        ]
    else:
        return None if began == now else (field, began, now)
    return next((found for n, a, b in pairs if (found := _difference(a, b, n))), None)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
