"""GSM8K, main test split: grade-school math word problems (arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from tasks.answer_text import without_reasoning
from tasks.base import Prompt
from tasks.grading import Grader, Outcome
from tasks.hub import HubFiles
from tasks.row_task import RowTask
from tasks.rows import Row

TEMPLATE = "{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."

_FINAL = re.compile(r"#### *(-?\d[\d,]*(?:\.\d+)?)\s*$")
_WORDS = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}")
_PLAIN = (
    (re.compile(r"\\?[$£]|[€¥₹₩]|\\(?:pounds|euro)\b|\\[,!;]|\*\*"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile("\u2212"), "-"),
    (re.compile(r"\^\s*(?:\{[^{}]*\}|[-+]?[0-9]+)"), ""),
    (re.compile(r"([0-9])\s*(?=\\[dt]?frac)"), r"\1 "),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s*([0-9])\s*([0-9])"), r"\1/\2"),
)
"""How numbers are written in LaTeX and Markdown, and plainly; exponents are those of units."""
_SPACE = r"(?:[ ~\u00a0\u2009\u202f]|\\ )"
_SPACED = re.compile(rf"(?<![\w.,])[0-9]{{1,3}}(?:{_SPACE}[0-9]{{3}})+(?![\w/])")
"""Thousands set apart by spaces."""
_UNSIGNED = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w.)}}\]])-)?(?:(?P<whole>{_UNSIGNED}) +(?=[0-9]+ ?/))?"
    rf"(?P<number>{_UNSIGNED})(?: ?/ ?(?P<divisor>{_UNSIGNED}))?"
)
_MARKED = re.compile(rf"(?<!#)####[ \t]*(-?(?:{_UNSIGNED})[^\n]*)")
_HEADING = re.compile(r"[0-9]+[.):][ \t]+\S")
"""``#### 2. Total`` is a heading of Markdown."""


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


def judge(prompt: Prompt, text: str) -> Outcome:
    """The answer's last number, as `final_number` finds it, against the solution's.

    What the model wrote to think is no part of the answer.
    """
    found = final_number(without_reasoning(text))
    if found is None:
        return Outcome("error", "no number")
    right = Decimal(prompt.reference["answer"])
    if found == right:
        return Outcome("passed")
    return Outcome.because("failed", f"{found:f} instead of {right:f}")


def final_number(text: str) -> Decimal | None:
    r"""The number an answer ends in; None where it holds none.

    The last ``\boxed{}`` with a number decides, else the number that directly follows the last
    such ``####``, else the last number of the whole. In a box the last number counts, words aside:
    ``\boxed{x = 12 \text{ eggs}}`` is 12. Currency signs, thousands separators and exponents are
    dropped (``36 \text{ cm}^2`` is 36); ``\frac{3}{4}`` is 0.75, ``1\frac{1}{2}`` 1.5.
    """
    for box in reversed(list(_boxes(text))):
        for inside in (_WORDS.sub(" ", box), box):
            if numbers := _numbers(_SPACED.sub(_joined, _plain(inside))):
                return numbers[-1]
    plain = _plain(text)
    for marked in reversed(_MARKED.findall(plain)):
        if not _HEADING.match(marked) and (numbers := _numbers(marked)):
            return numbers[0]
    return next(reversed(_numbers(plain)), None)


def _boxes(text: str) -> Iterator[str]:
    r"""What stands in each ``\boxed{…}``, braces balanced; a box never closed is left out."""
    for opening in re.finditer(r"\\boxed\s*\{", text):
        depth = 1
        for place in range(opening.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                yield text[opening.end() : place]
                break


def _plain(text: str) -> str:
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return text


def _joined(spaced: re.Match[str]) -> str:
    return re.sub(_SPACE, "", spaced[0])


def _numbers(plain: str) -> list[Decimal]:
    found: list[Decimal] = []
    for match in _NUMBER.finditer(plain):
        whole, number, divisor = (
            Decimal((match[part] or default).replace(",", ""))
            for part, default in (("whole", "0"), ("number", ""), ("divisor", "1"))
        )
        if match["whole"] and number >= divisor:  # two numbers, not a mixed one
            found.append(-whole if match["sign"] else whole)
            whole = Decimal(0)
        try:
            value = number / divisor if match["divisor"] else number
            value = whole + value if match["whole"] else value
        except ArithmeticError:
            continue
        found.append(-value if match["sign"] else value)
    return found


TASK = RowTask(
    name="gsm8k",
    files=("gsm8k/test.jsonl",),
    hub=HubFiles("openai/gsm8k", ("main/test-*.parquet",)),
    parse=parse,
    grader=Grader(rule="gsm8k/3", runs_code=False, judge=judge),
)
