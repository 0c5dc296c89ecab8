"""Titles of sections: what was measured, and where two would read alike what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports import formatting as form
from reports.run import Run, group_facts


def titles(groups: Sequence[Sequence[Run]]) -> list[str]:
    """One for each group of comparable runs, all of them different."""
    short = [_short(runs[0]) for runs in groups]
    facts = [group_facts(runs[0]) for runs in groups]
    alike = {
        title: [own for own, other in zip(facts, short, strict=True) if other == title]
        for title in short
    }
    found = [
        " · ".join((title, *_differing(own, alike[title])))
        for title, own in zip(short, facts, strict=True)
    ]
    counts = Counter(found)
    return [
        title if counts[title] == 1 else f"{title} · {', '.join(run.run_id for run in runs)}"
        for title, runs in zip(found, groups, strict=True)
    ]


def _short(run: Run) -> str:
    """Target, machine, sampling and how much was asked."""
    target, hardware = run.config["target"], run.environment["hardware"]
    tasks = run.config["tasks"]
    parts = (
        target["name"],
        form.text(target.get("dtype")),
        form.text(hardware.get("gpu") or hardware.get("cpu")),
        form.sampling(run.config["sampling"]),
        form.counted(len(tasks), "task"),
        form.counted(sum(len(task["prompt_ids"]) for task in tasks), "prompt"),
    )
    return " · ".join(parts)


def _differing(own: Mapping[str, Any], alike: Sequence[Mapping[str, Any]]) -> list[str]:
    """The facts in which sections of one short title differ, as this one has them."""
    names = dict.fromkeys(name for facts in alike for name in facts)
    differing = (name for name in names if any(facts.get(name) != own.get(name) for facts in alike))
    return [f"{name} {_words(own[name])}" for name in differing if name in own]


def _words(value: Any) -> str:
    """A fact in a title: digests shortened, long lists by their ends."""
    if isinstance(value, Mapping):
        return f"{form.text(value.get('kind'))} {form.digest(value.get('digest'))}"
    if isinstance(value, list):
        names = [str(item) for item in value]
        return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"
    text = form.text(value)
    return form.digest(text) if len(text) in (40, 64) and text.isalnum() else text
