"""GSM8K, main test split: grade-school math word problems (arXiv 2110.14168)."""

from __future__ import annotations

import re
from decimal import Decimal

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

TEMPLATE = "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."

_FINAL = re.compile(r"#### *(-?\d[\d,]*(?:\.\d+)?)\s*$")


def parse(row: Row) -> Prompt:
    """The question with a call for steps; the number after ``####`` is the answer."""
    solution = row.text("answer")
    final = _FINAL.search(solution)
    if final is None:
        raise row.error("'answer' does not end in '#### <number>'")
    return Prompt(
        task="gsm8k",
        prompt_id=row.index_id("gsm8k", "test"),
        turns=(TEMPLATE.format(question=row.text("question")),),
        reference={"answer": normalise_number(final[1]), "solution": solution},
    )


def normalise_number(text: str) -> str:
    """A decimal number without thousands separators and trailing zeros: ``1,050.0`` is ``1050``.

    Raises:
        decimal.InvalidOperation: ``text`` is no number.
    """
    number = Decimal(text.replace(",", ""))
    return format(number.normalize(), "f") if number else "0"


TASK = RowTask(
    name="gsm8k",
    files=("gsm8k/test.jsonl",),
    hub=HubFiles("openai/gsm8k", ("main/test-*.parquet",)),
    parse=parse,
)
