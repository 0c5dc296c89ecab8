"""Verdicts: hand-made answers to every scored task, the samples, and any text at all."""

from __future__ import annotations

import functools
import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import plain_sandbox
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_sandbox import Finished

from harness.errors import UserError
from tasks import gsm8k, humaneval, livecodebench, mbpp, mt_bench
from tasks.answer_code import extract_code
from tasks.base import Prompt
from tasks.grading import Grader, Outcome, Runs, Verdict, grader_of
from tasks.programs import CallTrial, InputTrial, output_difference

RUNS = plain_sandbox.Sandbox()
SCORED = (gsm8k, humaneval, mbpp, livecodebench)
MARKUP = st.sampled_from(
    [
        "```",
        "```python\n",
        "~~~",
        "\n",
        "\\boxed{",
        "}",
        "####",
        "$",
        "1,0",
        "-",
        "/0",
        "def f(",
        " ",
    ]
)
TEXTS = st.text() | st.lists(MARKUP | st.text(max_size=5)).map("".join)


def grader(module: Any) -> Grader:
    found = grader_of(module.TASK)
    assert found is not None
    return found


@functools.cache
def samples(module: Any) -> dict[str, Prompt]:
    return {prompt.prompt_id: prompt for prompt in module.TASK.load(None, None).prompts}


@functools.cache
def solutions() -> dict[str, str]:
    path = Path(livecodebench.__file__).parent / "samples" / "livecodebench.jsonl"
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["question_id"]: row["solution"] for row in rows}


def fenced(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```\n\nIt takes linear time."


def right_answer(module: Any, prompt: Prompt) -> str:
    reference = prompt.reference
    if module is gsm8k:
        return str(reference["solution"])
    if module is humaneval:
        return fenced(reference["prompt"] + reference["canonical_solution"])
    return fenced(reference["code"] if module is mbpp else solutions()[prompt.prompt_id])


def wrong_answer(module: Any, prompt: Prompt) -> str:
    reference = prompt.reference
    if module is gsm8k:
        return f"#### {reference['answer']}1"
    if module is humaneval:
        return fenced(reference["prompt"] + "    return -98765")
    if module is mbpp:
        name = reference["code"].partition("def ")[2].partition("(")[0]
        return fenced(f"def {name}(*arguments):\n    return -98765")
    if "function_name" in reference:
        return fenced(f"{reference['starter_code'].rstrip()}\n        return -98765")
    return fenced("print('wrong')")


@pytest.mark.parametrize(
    ("module", "prompt_id"), [(module, key) for module in SCORED for key in samples(module)]
)
def test_every_sample_tells_right_from_wrong(module: Any, prompt_id: str) -> None:
    prompt, rule = samples(module)[prompt_id], grader(module)
    assert rule.grade(prompt, right_answer(module, prompt), RUNS) == Outcome("passed")
    assert rule.grade(prompt, wrong_answer(module, prompt), RUNS).verdict == "failed"


def test_open_questions_have_no_rule() -> None:
    assert grader_of(mt_bench.TASK) is None


@given(TEXTS)
def test_no_text_is_too_odd_to_judge(text: str) -> None:
    for module in SCORED:
        prompt = next(iter(samples(module).values()))
        found = grader(module).judge(prompt, text)
        if isinstance(found, Outcome):
            assert found.verdict in ("passed", "failed", "error")
            assert found.detail.isprintable() and len(found.detail) <= 160
        else:
            assert text.strip() and len(found) >= 1
    code = extract_code(text)
    assert code is None or code.strip()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so \\boxed{18}.", "18"),
        ("\\boxed{17}, no: \\boxed{18}", "18"),
        ("\\boxed{18} and 3 more things", "18"),
        ("put it within \\boxed{}: 18", "18"),
        ("\\boxed{\\$1,050.0}", "1050"),
        ("\\boxed{1{,}050}", "1050"),
        ("\\boxed{12 \\text{ eggs in 3 days}}", "12"),
        ("\\boxed{\\text{12 eggs}}", "12"),
        ("\\boxed{x = 5 + 7 = 12}", "12"),
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("\\boxed{\\textbf{18}}", "18"),
        ("\\boxed{18", "18"),
        ("half is 9\n#### 18 dollars, not 20", "18"),
        ("#### 7\n#### 18\nand that for 2 days", "18"),
        ("####\nthe 18th", "18"),
        ("It costs $1,050.00.", "1050"),
        ("**-$12**", "-12"),
        ("\u22125 degrees", "-5"),
        ("10-5", "5"),
        ("10 - 4 = 6", "6"),
        ("3/4?", "0.75"),
        ("1/0", None),
        ("2, 3, 4", "4"),
        ("1,2,3", "3"),
        (".5 of it", "0.5"),
        ("20% of them", "20"),
        ("9" * 5000, "9" * 5000),
        ("#### Step 1: Half is 21.\n#### Step 2: Total\nSo the answer is 42.", "42"),
        ("#### 1. Halve it\n#### 2. Add them\nSo it is 42.", "42"),
        ("####  $1,050.00\nin 3 days", "1050"),
        ("##### 7\nand 42", "42"),
        ("\\boxed{36\\text{ cm}^2}", "36"),
        ("\\boxed{36\\,\\mathrm{cm}^{2}}", "36"),
        ("\\boxed{50\\ m^2}", "50"),
        ("\\[ 3 \\times 5 = 15 \\text{ m}^2 \\]", "15"),
        ("\\boxed{120 000}", "120000"),
        ("\\boxed{1\\ 120~000}", "1120000"),
        ("\\boxed{1\\frac{1}{2}}", "1.5"),
        ("\\boxed{-1\\frac12}", "-1.5"),
        ("-\\frac{3}{4}", "-0.75"),
        ("2 1/2", "2.5"),
        ("of 4 8/2", "4"),
        ("twelve", None),
        ("", None),
    ],
)
def test_the_number_an_answer_ends_in(text: str, number: str | None) -> None:
    assert gsm8k.final_number(text) == (None if number is None else Decimal(number))


def test_an_answer_without_a_number_is_an_error() -> None:
    prompt = next(iter(samples(gsm8k).values()))
    assert gsm8k.judge(prompt, "I do not know.") == Outcome("error", "no number")
    wrong = gsm8k.judge(prompt, "\\boxed{1.50}")
    assert wrong == Outcome("failed", f"1.50 instead of {prompt.reference['answer']}")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("<think>It may be \\boxed{{3}}.</think>\nIt is {0}.", "passed"),
        ("Is it \\boxed{{3}}?\n</think>\n\nIt is {0}.", "passed"),
        ("<think>a</think>\n<reasoning>\\boxed{{3}}</reasoning> It is {0}.", "passed"),
        ("[THINK]\\boxed{{3}}[/THINK]It is {0}.", "passed"),
        ("<|channel|>final<|message|>3<|channel|>final<|message|>{0}", "passed"),
        ("<|channel|>final<|message|>\\boxed{{3}}<|channel|>final<|message|>{0}", "passed"),
        ("<|channel|>analysis<|message|>\\boxed{{3}}<|channel|>final<|message|>{0}", "passed"),
        ("<think>It is \\boxed{{{0}}}.</think>\nIt is 3.", "failed"),
        ("<think>It is \\boxed{{{0}}}, or is it", "error"),
        ("Between <b> and </b> stands {0}", "passed"),
    ],
)
def test_thoughts_are_no_answer(text: str, verdict: str) -> None:
    prompt = next(p for p in samples(gsm8k).values() if p.reference["answer"] != "3")
    right = prompt.reference["answer"]
    assert gsm8k.judge(prompt, text.format(right)).verdict == verdict


@pytest.mark.parametrize(
    ("text", "wanted", "code"),
    [
        ("```python\na\n```\n```py\nb\n```", "", "b\n"),
        ("```python\ndef f(): 1\n```\nuse it:\n```python\nf()\n```", "^def f", "def f(): 1\n"),
        ("```\na\n```\n```bash\npip install b\n```", "", "a\n"),
        ("```text\nno code\n```", "", "```text\nno code\n```"),
        ("```Python3\na", "", "a\n"),
        ("~~~python\ns = '''\n```\n'''\n~~~", "", "s = '''\n```\n'''\n"),
        *(
            (f"```python\ns = {q}a\n```\nb\n```\n{q}\n```\nc", "", f"s = {q}a\n```\nb\n```\n{q}\n")
            for q in ("'''", '"""')
        ),
        ("```python\ns = ''\nt = 'a'\n```\nb\n```\nc\n```", "", "s = ''\nt = 'a'\n"),
        ("- ```python\n  a\n  ```", "", "a\n"),
        ("1. So:\n   ```python\n   def f():\n\n     a\n   ```", "^def f", "def f():\n\n  a\n"),
        ("```\n\tif a:\n\t\tb\n```", "", "if a:\n\tb\n"),
        ("```\ns = '''\n   \n'''\n```", "", "s = '''\n   \n'''\n"),
        ("````python\ns = 1\n```\nb\n````", "", "s = 1\n```\nb\n"),
        ("```\na\n```\n```\nb\n```", "", "b\n"),
        ("```python\na\n```python\nb\n```", "", "b\n"),
        (
            "```python\nk = 1\n```\n```python\ndef h(): return 0\n```\n"
            "```python\ndef h(): return k\n```\n```python\ndef f(): return h()\n```",
            "^def f",
            "k = 1\ndef h(): return k\ndef f(): return h()\n",
        ),
        (
            "```python\nimport functools\n@functools.cache\ndef h(): return 1\n```\n"
            "```python\nfrom __future__ import annotations\ndef f(): return h()\n```",
            "^def f",
            "from __future__ import annotations\nimport functools\n@functools.cache\n"
            "def h(): return 1\ndef f(): return h()\n",
        ),
        ("x = 1", "", "x = 1"),
        ("```python\n\n```", "", "```python\n\n```"),
        ("  \n ", "", None),
    ],
)
def test_which_text_is_the_code(text: str, wanted: str, code: str | None) -> None:
    assert extract_code(text, wanted) == code


def outcome(source: str, tests: str) -> Outcome:
    return trial(source, tests).attempt(RUNS)


def trial(source: str, tests: str) -> CallTrial:
    return CallTrial(answer=(("answer", source),), tests=(("tests", tests),), names=("f",))


@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        ("x = 1; print('hello', end='')", "passed", ""),
        ("x = 2", "failed", "AssertionError"),
        ("import os; os._exit(0)", "failed", "ended before its tests did"),
        ("import sys; sys.exit(0)", "failed", "ended before its tests did"),
        ("exit()", "failed", "ended before its tests did"),
        ("import sys; sys.exit(3)", "error", "exit status 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "error", "killed by signal 9"),
        ("x = = 1", "error", "SyntaxError: invalid syntax"),
        ("y = 1", "error", "NameError: name 'x' is not defined"),
        ("raise ValueError('two\\nlines ' + 'x' * 500)", "error", f"lines {'x' * 153}…"),
        ("import atexit; x = 1; atexit.register(print, 'bye')", "passed", ""),
        ("import sys; x = 1; sys.stdout = open('/dev/null', 'w')", "passed", ""),
        ("from __future__ import annotations\nimport dataclasses\nx = 1", "passed", ""),
        (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "@dataclass\nclass A:\n    b: int\nx = A(1).b",
            "passed",
            "",
        ),
        ("x = 1\nif __name__ == '__main__':\n    x = int(input())", "passed", ""),
    ],
)
def test_how_a_module_ends(source: str, verdict: str, detail: str) -> None:
    found = outcome(f"{source}\ndef f(): return x", "assert f() == 1")
    assert found.verdict == verdict
    assert found.detail.startswith(detail) and bool(found.detail) == bool(detail)


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (Finished(exit_status=None, timed_out=True), Outcome("timeout", "time limit")),
        (Finished(exit_status=None, signal=signal.SIGXCPU), Outcome("timeout", "time limit")),
        (Finished(exit_status=None, signal=9), Outcome("error", "killed by signal 9")),
        (
            Finished(exit_status=None, signal=9, output_cut=True),
            Outcome("error", "printed more than is kept"),
        ),
        (Finished(exit_status=1, stderr="MemoryError\n"), Outcome("error", "MemoryError")),
    ],
)
def test_how_the_machine_ends_a_program(finished: Finished, expected: Outcome) -> None:
    gone = Finished(stderr='{"verdict": "gone", "detail": ""}')

    class Machine(plain_sandbox.Sandbox):
        def run(self, *texts: Any, **limits: Any) -> Finished:
            return finished

        def converse(self, *texts: Any, **limits: Any) -> tuple[Finished, Finished]:
            return finished, gone

    for one in (trial("", ""), InputTrial("", "", "1", "test 1")):
        assert one.attempt(Machine()) == expected


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1 2  \n3\n\n", "1 2\n3", True),
        ("1.0 2\n3", "1 2\n3", True),
        ("1\n2", "1 2", False),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("0.30000000000000004", "0.3", False),
        ("Yes", "YES", False),
        ("1\n\n2", "1\n2", False),
        ("", "1", False),
        ("nan", "NaN", False),
    ],
)
def test_outputs_are_compared_line_by_line(output: str, expected: str, same: bool) -> None:
    assert (output_difference(output, expected) is None) is same


def test_what_the_tests_call_is_the_answers_own() -> None:
    """Neither a built-in function of that name nor what stands above the answer is asked."""
    tests = (("tests", "assert pow(2, 3) == 8 == mul(2, 4)"),)
    above = ("imports", "from operator import mul, pow")
    for source, verdict in (
        ("", "error"),
        ("def mul(a, b): return a * b", "error"),
        ("def mul(a, b): return a * b\ndef pow(a, b): return a ** b", "passed"),
        ("from operator import mul, pow", "passed"),
    ):
        one = CallTrial(answer=(above, ("answer", source)), tests=tests, names=("pow", "mul"))
        assert one.attempt(RUNS).verdict == verdict, source


HUMANEVAL = Prompt(
    task="humaneval",
    prompt_id="0",
    turns=("",),
    reference={
        "prompt": "import math\n\ndef half(x):\n    return x / 2\n\n\n"
        'def quarter(x: float) -> float:\n    """A quarter."""\n',
        "entry_point": "quarter",
        "test": "def check(candidate):\n    assert candidate(8) == 2\n    assert half(2) == 1\n",
        "canonical_solution": "",
    },
)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (fenced("def quarter(x):\n    return half(half(x))"), "passed"),
        (fenced("from math import floor\ndef quarter(x): return floor(x / 4)"), "passed"),
        (fenced("return x / 4"), "passed"),
        ("    return x / 4\n", "passed"),
        (fenced("    y = x / 4\n    return y"), "passed"),
        ("\n    y = math.floor(x)\n    return y / 4\n", "passed"),
        ("def quarter(x):\n    return x / 4\n", "passed"),
        (fenced("def quarter(x):\n    return x / 4") + fenced("print(quarter(1))"), "passed"),
        ("```python\ndef quarter(x):\n    return x / 4", "passed"),
        ("```python\ndef quarter(x):\n    return (x /", "error"),
        (fenced("def quarter(x):\n    return x / 3"), "failed"),
        (fenced("def fourth(x):\n    return x / 4"), "failed"),
        ("I would divide by four.", "error"),
        (" \n", "error"),
    ],
)
def test_humaneval_answers(text: str, verdict: str) -> None:
    assert grader(humaneval).grade(HUMANEVAL, text, RUNS).verdict == verdict


MBPP = Prompt(
    task="mbpp",
    prompt_id="0",
    turns=("",),
    reference={
        "tests": ("assert math.isclose(third(9), 3)", "assert third(0) == 0"),
        "test_imports": ("import math",),
        "code": "",
    },
)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (fenced("def third(x):\n    return x / 3"), "passed"),
        ("def third(x):\n    return x / 3", "passed"),
        (fenced("def third(x):\n    return x / 3") + fenced("third(9)"), "passed"),
        ("1. Divide:\n   ```python\n   def third(x):\n       return x / 3\n   ```", "passed"),
        (fenced("def third(x):\n    return x / 4"), "failed"),
        (fenced("def one_third(x):\n    return x / 3"), "error"),
        ("", "error"),
    ],
)
def test_mbpp_answers(text: str, verdict: str) -> None:
    assert grader(mbpp).grade(MBPP, text, RUNS).verdict == verdict


def contest(kind: str, *tests: tuple[str, str]) -> Prompt:
    public = [{"input": given, "output": out, "testtype": kind} for given, out in tests]
    name = {"function_name": "twice"} if kind == "functional" else {}
    return Prompt(
        task="livecodebench",
        prompt_id="0",
        turns=("",),
        reference={"public_tests": public, "starter_code": "", **name},
    )


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("n = int(input())\nprint(2 * n)", "passed"),
        ("for line in stdin:\n    print(2 * float(line))", "passed"),
        (
            "def main():\n    print(2 * int(input()))\nif __name__ == '__main__':\n    main()",
            "passed",
        ),
        ("print(2 * int(input()))\nexit()", "passed"),
        ("print(2)", "failed"),
        ("", "error"),
        ("print(1 / 0)", "error"),
        ("import os; os._exit(0)", "failed"),
    ],
)
def test_livecodebench_programs_read_and_print(code: str, verdict: str) -> None:
    prompt = contest("stdin", ("1\n", "2\n"), ("21", "42"))
    assert grader(livecodebench).grade(prompt, fenced(code), RUNS).verdict == verdict


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (
            "class Solution:\n    def twice(self, a: List[int], n): return [n * i for i in a]",
            "passed",
        ),
        ("class Solution:\n    def twice(self, a, n): return tuple(n * i for i in a)", "passed"),
        ("def twice(a, n): return [n * i for i in a]", "passed"),
        ("class Solution:\n    def twice(self, a, n): return a", "failed"),
        ("class Solution:\n    def thrice(self, a, n): return a", "error"),
        ("class Solution:\n    def twice(self, a): return a", "error"),
    ],
)
def test_livecodebench_functions_are_called(code: str, verdict: str) -> None:
    prompt = contest("functional", ("[1, 2]\n2", "[2, 4]"), ("[]\n0", "[]"))
    assert grader(livecodebench).grade(prompt, fenced(code), RUNS).verdict == verdict


def test_numbers_may_have_as_many_digits_as_upstream_allows() -> None:
    nines = "9" * 9000
    code = "def twice(n): return 2 * int(str(n))"
    calls, reads = (
        contest("functional", ("1", "2"), (nines, f"1{nines[1:]}8")),
        contest("stdin", (nines, f"1{nines[1:]}8")),
    )
    assert grader(livecodebench).grade(calls, fenced(code), RUNS).verdict == "passed"
    printed = fenced("print(2 * int(input()))")
    assert grader(livecodebench).grade(reads, printed, RUNS).verdict == "passed"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("x" * 160, "x" * 160),
        ("x" * 161, "x" * 159 + "…"),
        ("  one\n\ttwo ", "one two"),
        ("red\x1b[31m", "red [31m"),
        ("\u202eright\u200bto\x07left", "right to left"),
    ],
)
def test_a_reason_is_one_short_printable_line(reason: str, line: str) -> None:
    assert Outcome.because("failed", reason) == Outcome("failed", line)


class Known:
    """A trial whose end is known, and whether anybody asked for it."""

    def __init__(self, verdict: Verdict) -> None:
        self.outcome, self.asked = Outcome(verdict), False

    def attempt(self, runs: Runs) -> Outcome:
        self.asked = True
        return self.outcome


@pytest.mark.parametrize("verdict", ["failed", "timeout", "error", "not run"])
def test_the_first_trial_that_is_not_passed_decides(verdict: Verdict) -> None:
    trials = [Known("passed"), Known(verdict), Known("passed")]
    rule = Grader(rule="known", runs_code=True, judge=lambda prompt, text: trials)
    assert rule.grade(HUMANEVAL, "", RUNS) == Outcome(verdict)
    assert [known.asked for known in trials] == [True, True, False]


def test_a_prompt_without_tests_is_not_run() -> None:
    rule = grader(livecodebench)
    before = len(plain_sandbox.programs)
    assert rule.grade(contest("stdin"), fenced("x = 1"), RUNS).verdict == "not run"
    assert len(plain_sandbox.programs) == before


def test_the_real_sandbox_agrees() -> None:
    from tasks.sandbox import Limits, Sandbox

    try:
        sandbox = Sandbox(Limits(wall_s=2.0))
    except UserError as error:
        pytest.skip(str(error))
    texts = {
        fenced("def quarter(x):\n    return x / 4"): "passed",
        fenced("def quarter(x):\n    return x / 3"): "failed",
        fenced("import os; os._exit(0)\ndef quarter(x): ..."): "failed",
        fenced("def quarter(x):\n    while True: ..."): "timeout",
        fenced("def quarter(x):\n    print('x' * 10 ** 8)"): "error",
    }
    rule = grader(humaneval)
    assert [rule.grade(HUMANEVAL, t, sandbox).verdict for t in texts] == list(texts.values())


def test_what_is_called_is_what_the_solution_defines() -> None:
    tests = "assert set(f([1])) == {1} and sorted(f([2]))"
    assert mbpp.called(tests, "def f(x): return x\ndef unused(): pass") == ("f",)
    assert mbpp.called(tests, "") == ("f",)
