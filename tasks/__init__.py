"""Tasks: where prompts come from and how answers are scored, one file a task."""

from harness.registry import Entry

TASKS: dict[str, Entry] = {
    "mt_bench": Entry("tasks.mt_bench:TASK", "80 two-turn conversations (FastChat)"),
    "gsm8k": Entry("tasks.gsm8k:TASK", "grade-school math word problems"),
    "humaneval": Entry("tasks.humaneval:TASK", "164 Python functions from docstrings"),
    "mbpp": Entry("tasks.mbpp:TASK", "short Python programs, sanitized test split"),
    "livecodebench": Entry("tasks.livecodebench:TASK", "contest programs, code_generation_lite"),
    "alpaca": Entry("tasks.alpaca:TASK", "open-ended instructions"),
}
