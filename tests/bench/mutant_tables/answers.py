"""Tasks: what an answer says, and what it is worth."""

from __future__ import annotations

TESTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "tasks/gsm8k.py": (("tests/test_grading.py", "-k", "number or thoughts"),),
    "tasks/answer_text.py": (("tests/test_grading.py", "-k", "thoughts or text_is_the_code"),),
    "tasks/answer_code.py": (("tests/test_grading.py", "-k", "text_is_the_code"),),
    "tasks/mbpp.py": (
        ("tests/test_tasks.py", "-k", "mbpp"),
        ("tests/test_grading.py", "-k", "solution_defines"),
    ),
    "tasks/grading.py": (
        ("tests/test_grading.py", "-k", "odd or machine or without_tests or reason or trial_that"),
    ),
    "tasks/call_values.py": (("tests/test_call_values.py",),),
    "tasks/rows.py": (("tests/test_tasks_rows.py",),),
}

MUTANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "tasks/gsm8k.py": (
        ("                return numbers[-1]\n", "                return numbers[0]\n"),
        ("for box in reversed(list(_boxes(text))):", "for box in list(_boxes(text)):"),
        ("for marked in reversed(_MARKED", "for marked in (_MARKED"),
        ('if match["whole"] and number >= divisor:', "if False:"),
        ("number / divisor if match", "divisor / number if match"),
        ("whole + value if match", "value if match"),
        ("final_number(without_reasoning(text))", "final_number(text)"),
        ("if not _HEADING.match(marked) and", "if"),
        ("            if depth == 0:", "            if depth <= 1:"),
    ),
    "tasks/answer_text.py": (
        ("finals[-1].end()", "finals[0].end()"),
        ("first.end() if first and _CLOSING", "first.end() if first or _CLOSING"),
        (
            '        if closing is None:\n            return ""\n',
            "        if closing is None:\n            break\n",
        ),
        ("        start = closing.end()\n", "        start = closing.start()\n"),
    ),
    "tasks/answer_code.py": (
        (
            "            return found[-1]\n    return blocks[-1]",
            "            return found[0]\n    return blocks[-1]",
        ),
        (
            "            return found[-1]\n    return blocks[-1]",
            "            return found[-1]\n    return blocks[0]",
        ),
        ("return text if text.strip() else None", "return None"),
        ('at if follows == "another" else at + 1', "at + 1"),
        ("for number in reversed(range(len(found))):", "for number in range(len(found)):"),
        ("for number in sorted(taken))", "for number in sorted(taken, reverse=True))"),
        ("above[0].lineno if above else node.lineno", "node.lineno"),
        ("line[margin:] for line in lines", "line.lstrip() for line in lines"),
        ("return code[:end] + above + code[end:]", "return above + code"),
        ('    if not found["fence"].startswith(fence) or', "    if"),
    ),
    "tasks/mbpp.py": (
        ("range(11, 511)", "range(11, 510)"),
        ("range(11, 511)", "range(12, 511)"),
        ("set(names) - set(dir(builtins))", "set(names)"),
        ("if name in defined)", "if name not in defined)"),
    ),
    "tasks/grading.py": (
        ("if len(line) > _DETAIL_LENGTH:", "if len(line) > _DETAIL_LENGTH + 1:"),
        (
            '            if outcome.verdict != "passed":\n',
            '            if outcome.verdict == "failed":\n',
        ),
        ("c if c.isprintable() else", "c if c else"),
        ('return Outcome("not run", "the prompt', 'return Outcome("passed", "the prompt'),
    ),
    "tasks/call_values.py": (
        (
            "value is None or value is True or value is False",
            "value is None or value == True or value is False",
        ),
        ("if number == MOST_ITEMS:", "if number == MOST_ITEMS + 1:"),
        (
            'form = "bytes" if isinstance(value, bytes)',
            'form = "bytes" if isinstance(value, bytearray)',
        ),
        (
            "float.hex(value.real), float.hex(value.imag)",
            "float.hex(value.imag), float.hex(value.real)",
        ),
        ("[value.days, value.seconds, value.microseconds]", "[value.days, value.seconds, 0]"),
        ("renew(old[key], item) if key in old else item", "item"),
        ("if form is list and len(old) == len(new):", "if form is list:"),
    ),
    "tasks/rows.py": (
        ("if index == start:", "if index == 0:"),
        ("            index += 1\n", "            index += 2\n"),
        ("isinstance(value, bool) or not", "not"),
        (
            'enumerate(rows, start=1):\n        yield f"{path}, item',
            'enumerate(rows):\n        yield f"{path}, item',
        ),
        ("if number == 1 else line", "if number == 2 else line"),
    ),
}
