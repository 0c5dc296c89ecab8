"""Alpaca: open-ended instructions, with or without an input (tatsu-lab/stanford_alpaca)."""

from __future__ import annotations

from tasks.base import Prompt
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

TEMPLATE_WITH_INPUT = "{instruction}\n\nInput:\n{input}"


def parse(row: Row) -> Prompt:
    """The instruction, and the input below it where there is one."""
    instruction, context = row.text("instruction"), row.optional_text("input")
    if context:
        turn = TEMPLATE_WITH_INPUT.format(instruction=instruction, input=context)
    else:
        turn = instruction
    return Prompt(
        task="alpaca",
        prompt_id=row.index_id("alpaca", "train"),
        turns=(turn,),
        reference={"output": row.text("output")},
    )


TASK = RowTask(
    name="alpaca",
    files=("alpaca/alpaca.jsonl", "alpaca/alpaca_data.json", "alpaca_data.json"),
    hub=HubFiles("tatsu-lab/alpaca", ("data/train-*.parquet",)),
    parse=parse,
)
