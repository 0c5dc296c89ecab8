"""Prompts for a corpus: of files, directories and hub sets, each with its source and licence."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drafters.block_diffusion.prompts import (
    HUB_FILES,
    OWN,
    PromptFile,
    PromptRow,
    described,
    parse_row,
    prompt_files,
    warn_of_cuts,
)
from harness.errors import UserError
from tasks import gsm8k
from tasks.hub import HUB, HubFiles
from tasks.rows import read_rows

OWN_LICENCE = "Apache-2.0"
"""Of the project's own prompts, as of the project."""

_SUFFIX = gsm8k.TEMPLATE.format(question="").strip()
_LABEL = re.compile(r"\n\s*Input:\s*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedPrompt:
    """One distinct prompt, with all that the sources know of it."""

    prompt: str
    """As it stands where it has a response, else where it was met first."""
    source: str
    licence: str | None
    reference: str | None
    """Answer of its data set, as text."""
    reference_ids: tuple[int, ...] | None
    """The same, where it was tokenised already."""
    responses: tuple[PromptRow, ...]
    """Rows with a response, each that differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Distinct prompts and the files they were read from."""

    prompts: tuple[SourcedPrompt, ...]
    files: tuple[PromptFile, ...]
    num_read: Mapping[str, int]
    """Rows by source, before the same prompts were put together."""


def gather(names: Sequence[str], licences: Sequence[str]) -> Sources:
    """Read all rows of the files, directories and hub sets named, and put equal prompts together.

    Prompts are equal where they differ in case and white space only, in the label above an
    instruction's input, or in GSM8K's request for a boxed answer. So a file of responses and one
    of references can be read together, though they write their prompts differently.

    Args:
        names: files, directories, ``owner/name:PATTERN`` of the hub or one of `HUB_FILES`; none
            takes `HUB_FILES` where they can be had, else the project's own prompts.
        licences: ``NAME`` for all, or ``SOURCE=NAME``; only for rows whose licence nobody says.

    Raises:
        UserError: a name that is nothing to read, or a malformed row.
    """
    rows: list[PromptRow] = []
    files: list[PromptFile] = []
    for name in names or _default():
        read, where = _from_hub(name) if _is_hub(name) else _from_disk(Path(name))
        warn_of_cuts(read, name)
        rows += read
        files += where
    rows = _licensed(rows, licences)
    counts = Counter(row.source or "" for row in rows)
    return Sources(prompts=tuple(_together(rows)), files=tuple(files), num_read=counts)


def same_prompt(prompt: str) -> str:
    """What two spellings of one prompt have in common."""
    text = _LABEL.sub("\n", prompt.strip())
    return " ".join(text.removesuffix(_SUFFIX).casefold().split())


def _default() -> list[str]:
    known = [files.repo for files in HUB_FILES]
    return known if all(HUB.snapshot(files) is not None for files in HUB_FILES) else [str(OWN)]


def _is_hub(name: str) -> bool:
    """Whether a name that is no path has the form of a data set's id."""
    return not Path(name).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+(:.+)?", name) is not None


def _from_disk(path: Path) -> tuple[list[PromptRow], tuple[PromptFile, ...]]:
    licence = OWN_LICENCE if path == OWN else None
    paths = prompt_files(path)
    rows = []
    for file in paths:
        source = file.name.partition(".")[0] or file.name
        found = map(parse_row, read_rows((file,), "directory"))
        rows += [_filled(row, source, licence) for row in found]
    return rows, described(paths)


def _from_hub(name: str) -> tuple[list[PromptRow], tuple[PromptFile, ...]]:
    repo, _, pattern = name.partition(":")
    known = {files.repo: files for files in HUB_FILES}
    if not pattern and repo not in known:
        raise UserError(
            f"{name} is neither a file nor a data set whose files are known here; write "
            f"{name}:PATTERN, such as {name}:data/train-*.parquet."
        )
    wanted = HubFiles(repo, (pattern,)) if pattern else known[repo]
    snapshot = HUB.snapshot(wanted)
    if snapshot is None:
        raise UserError(
            f"{name} is neither a file here nor to be had from the hub; check the name and the "
            "network, or download the file and name it."
        )
    licence = _card_licence(repo)
    found = map(parse_row, read_rows(snapshot.paths, "hub"))
    rows = [_filled(row, repo, licence) for row in found]
    return rows, described(snapshot.paths, f"{repo}/", snapshot.commit)


def _card_licence(repo: str) -> str | None:
    """The licence that the data set's card names."""
    from huggingface_hub import DatasetCard

    snapshot = HUB.snapshot(HubFiles(repo, ("README.md",)))
    if snapshot is None:
        return None
    try:
        licence = DatasetCard.load(snapshot.paths[0]).data.get("license")
    except Exception:  # a card is prose with a head in YAML, and whatever its author made of it
        return None
    names = licence if isinstance(licence, list) else [licence]
    return ", ".join(str(name) for name in names if name) or None


def _filled(row: PromptRow, source: str, licence: str | None) -> PromptRow:
    return replace(row, source=row.source or source, licence=row.licence or licence)


def _licensed(rows: Sequence[PromptRow], licences: Sequence[str]) -> list[PromptRow]:
    """Rows with the licences given on the command line, where they have none of their own."""
    named = dict(text.split("=", 1) for text in licences if "=" in text)
    general = [text for text in licences if "=" not in text]
    if len(general) > 1:
        raise UserError(
            f"--licence has more than one for all ({', '.join(general)}); write SOURCE=NAME."
        )
    sources = {row.source for row in rows}
    if unknown := sorted(set(named) - sources):
        raise UserError(
            f"--licence names {unknown[0]}, and no row comes from it; sources are "
            f"{', '.join(sorted(map(str, sources)))}."
        )
    rest = general[0] if general else None
    return [
        row if row.licence else replace(row, licence=named.get(row.source or "", rest))
        for row in rows
    ]


def _together(rows: Iterable[PromptRow]) -> list[SourcedPrompt]:
    """One prompt for all rows that ask the same, in order of first appearance."""
    groups: dict[str, list[PromptRow]] = {}
    for row in rows:
        groups.setdefault(same_prompt(row.prompt), []).append(row)
    return [_merged(group) for group in groups.values()]


def _merged(group: Sequence[PromptRow]) -> SourcedPrompt:
    first = next((row for row in group if row.response_ids), group[0])
    # Responses belong to the prompt as it was asked; another spelling's are not this one's.
    responses = {
        row.response_ids: row for row in group if row.response_ids and row.prompt == first.prompt
    }
    licence = first.licence or next((row.licence for row in group if row.licence), None)
    return SourcedPrompt(
        prompt=first.prompt,
        source=first.source or "",
        licence=licence,
        reference=next((row.reference for row in group if row.reference), None),
        reference_ids=next((row.reference_ids for row in group if row.reference_ids), None),
        responses=tuple(responses.values()),
    )
