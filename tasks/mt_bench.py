"""MT-Bench: two-turn conversations in eight categories, asked as they are (arXiv 2306.05685).

The text is FastChat's. Copies differ from it (that on the hub in question 121), so what is read is
held against FastChat's by digest, and a question that has another text is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

_FIRST_QUESTION = 81
_DIGESTS = (
    "67e3d7eb284224f6c032d9b8ed8222eb193e8b373f7c934d1d70a5b8bece86b60c0233622aa29443"
    "ae924e992fd5f0e38d4afc574d1043c30ec7ff6508e1b8fa39ffa5383ef94b8dfc548008eda18d8b"
    "384d7e81ea38e1200b4367ec101cccf1c33283e56f1d898c23b04d49ff2bfadf88667fb50edc2d9c"
    "ddc9ce8228482f0f6c9d0bfd759d53a3765d9df50861f714af2b245d69edfc2131cc47695258490a"
    "f5b67535b2b534c410b6fa4a80dda80a74838f535176aaa2e9d8ae7749c952db66fd7d773dee0e6a"
    "317fe3ab0deb90115ca97854e873dacbfb4f3e10f5a0a902e8c41b0f4e89c7571f989e43f8c69a23"
    "0c16ee073cc1a2d51002ba7ddfdd7f1450f4a11f9578f248c48848b33b1b8d72b9a152852a5ab3a8"
    "8accbdac477d5a2b9e5f9295065d43e8471d595f8be77b0995763a8f5941987447bfcfdf8069a790"
)
"""Of FastChat's 80 questions in their order, eight hexadecimal digits of the SHA-256 each: of both
turns with a zero byte between them."""


def parse(row: Row) -> Prompt:
    """The raw turns; FastChat calls them ``turns``, the hub's copy ``prompt``."""
    turns = row.texts("prompt" if "prompt" in row.body else "turns")
    if len(turns) != 2:
        raise row.error(f"a conversation should have 2 turns and has {len(turns)}")
    return Prompt(
        task="mt_bench",
        prompt_id=row.identifier("question_id"),
        turns=turns,
        reference={"category": row.text("category")},
    )


def digest(turns: Sequence[str]) -> str:
    """Eight digits that tell one question's text from another's."""
    return hashlib.sha256("\0".join(turns).encode("utf-8", "surrogatepass")).hexdigest()[:8]


def other_texts(prompts: Sequence[Prompt]) -> str:
    """Which questions are not FastChat's, in words; empty where all are."""
    known = {
        str(_FIRST_QUESTION + place // 8): _DIGESTS[place : place + 8]
        for place in range(0, len(_DIGESTS), 8)
    }
    others = [p.prompt_id for p in prompts if digest(p.turns) != known.get(p.prompt_id)]
    if not others:
        return ""
    named = f"question {others[0]} has" if len(others) == 1 else f"{len(others)} questions have"
    return f"{named} another text than FastChat's"


TASK = RowTask(
    name="mt_bench",
    files=("mt_bench/question.jsonl",),
    hub=HubFiles("HuggingFaceH4/mt_bench_prompts", ("raw/question.jsonl",)),
    parse=parse,
    note=other_texts,
)
