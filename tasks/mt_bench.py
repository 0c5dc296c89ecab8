"""MT-Bench: two-turn conversations in eight categories, asked as they are (arXiv 2306.05685)."""

from __future__ import annotations

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row


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


TASK = RowTask(
    name="mt_bench",
    files=("mt_bench/question.jsonl",),
    hub=HubFiles("HuggingFaceH4/mt_bench_prompts", ("raw/question.jsonl",)),
    parse=parse,
)
