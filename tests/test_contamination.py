"""Which training prompts are found to be a task's, and as what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drafters.block_diffusion.contamination import SHORTEST, Benchmarks, Hit, words_of
from harness.registry import table
from tasks import gsm8k, humaneval
from tasks.base import Prompt, PromptSet, Source

SOURCE = Source(kind="samples", location="x", revision=None, digest="0", num_rows=1)
SUM = "Anna has 3 apples and buys 4 more at the market every single day of the long week."
NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


def task(name: str, *turns: str, reference: Mapping[str, Any] | None = None) -> PromptSet:
    prompts = [
        Prompt(task=name, prompt_id=f"{name}/{i}", turns=(turn,), reference=reference or {})
        for i, turn in enumerate(turns)
    ]
    return PromptSet(tuple(prompts), SOURCE)


def kinds(
    tasks: Mapping[str, PromptSet], prompt: str, reference: str | None = None, ngram: int = 13
) -> dict[str, str]:
    """Kind of hit by task."""
    found = Benchmarks(tasks, ngram).find([("nothing at all", None), (prompt, reference)])
    assert 0 not in found
    return {hit.task: hit.kind for hit in found.get(1, [])}


def test_layout_case_and_punctuation_do_not_hide_a_prompt() -> None:
    tasks = {"t": task("t", SUM, "Say hello.")}
    assert kinds(tasks, SUM.upper().replace(" ", "\n  ").replace(".", " !")) == {"t": "equal"}
    assert kinds(tasks, "say HELLO") == {"t": "equal"}
    assert kinds(tasks, "say hello to my cat") == {}


def test_the_label_above_an_input_does_not_hide_one() -> None:
    tasks = {"t": task("t", "Add these.\n\nInput:\n1 2")}
    assert kinds(tasks, "Add these.\n\n1 2") == {"t": "equal"}


def test_a_task_prompt_inside_another_text() -> None:
    tasks = {"t": task("t", SUM)}
    assert kinds(tasks, f"Answer this question. {SUM} Be brief.") == {"t": "contains"}


def test_a_training_prompt_inside_a_task_prompt() -> None:
    tasks = {"t": task("t", f"Here is a story. {SUM} What is the sum?")}
    assert kinds(tasks, "buys 4 more at the market every single") == {"t": "contained"}
    assert kinds(tasks, "buys 4 more at the market every") == {}
    assert SHORTEST == 8


def test_a_shared_stretch_of_words() -> None:
    tasks = {"t": task("t", f"before {NUMBERS}")}
    assert kinds(tasks, f"{NUMBERS} after") == {"t": "ngram"}
    shorter = NUMBERS.replace(" seven", " SEVENTH")
    assert kinds(tasks, f"{shorter} after") == {}
    assert kinds(tasks, f"{shorter} after", ngram=6) == {"t": "ngram"}


def test_the_strongest_kind_of_each_task_counts() -> None:
    tasks = {"a": task("a", SUM), "b": task("b", f"{SUM} How many?")}
    assert kinds(tasks, SUM, reference=SUM) == {"a": "equal", "b": "contained"}


def test_a_reference_that_is_a_tasks_prompt_or_solution() -> None:
    code = "def f(a, b):\n  total = a + b\n  for i in range(a):\n    total += i * b\n  return total"
    tasks = {"t": task("t", SUM, reference={"canonical_solution": code})}
    assert kinds(tasks, "Tell me a story.", SUM) == {"t": "reference"}
    assert kinds(tasks, "Write code.", f"Of course:\n{code}\n") == {"t": "reference"}
    # The same words with other signs are another program.
    assert kinds(tasks, "Write code.", code.replace("+", "-").replace("*", "/")) == {}
    assert kinds(tasks, "Write code.") == {}


def test_a_tasks_template_is_no_part_of_its_prompts() -> None:
    asked = [gsm8k.TEMPLATE.format(question=text) for text in (SUM, "How much is 2 and 2 in all?")]
    tasks = {"gsm8k": task("gsm8k", *asked)}
    suffix = gsm8k.TEMPLATE.format(question="")
    assert kinds(tasks, f"What did they pay in all?{suffix}") == {}
    assert kinds(tasks, SUM + suffix) == kinds(tasks, SUM) == {"gsm8k": "equal"}
    functions = [humaneval.TEMPLATE.format(prompt=f"def f{i}(x):\n    {i}") for i in range(2)]
    tasks = {"humaneval": task("humaneval", *functions)}
    assert kinds(tasks, humaneval.TEMPLATE.format(prompt="def g(y):")) == {}


def test_texts_without_words_are_nobodys() -> None:
    tasks = {"t": task("t", "???", "What is this?")}
    assert kinds(tasks, "!!!") == {}


@given(
    st.lists(st.sampled_from("abcdef"), min_size=0, max_size=30),
    st.lists(st.sampled_from("abcdef"), min_size=0, max_size=30),
)
def test_hits_are_what_a_plain_search_finds(own: list[str], others: list[str]) -> None:
    """On any two texts, against the definition spelled out."""
    ngram = 9
    found = Benchmarks({"t": task("t", " ".join(others))}, ngram).find([(" ".join(own), None)])
    mine, theirs = f" {' '.join(own)} ", f" {' '.join(others)} "
    stretches = [own[i : i + ngram] for i in range(len(own) - ngram + 1)]
    expected: str | None = None
    if own and own == others:
        expected = "equal"
    elif len(others) >= SHORTEST and theirs in mine:
        expected = "contains"
    elif len(own) >= SHORTEST and mine in theirs:
        expected = "contained"
    elif any(f" {' '.join(stretch)} " in theirs for stretch in stretches):
        expected = "ngram"
    assert found == ({} if expected is None else {0: [Hit("t", "t/0", expected)]})


@pytest.mark.parametrize("name", ["gsm8k", "humaneval", "mbpp", "alpaca", "livecodebench"])
def test_each_tasks_own_samples_are_found(name: str) -> None:
    chosen = {
        n: entry.load()._from_files((_sample(n),), "samples", _sample(n).parent)
        for n, entry in table("tasks").items()
    }
    prompts = [(prompt.turns[0], None) for prompt in chosen[name].prompts]
    found = Benchmarks(chosen, 13).find(prompts)
    assert all("equal" in {hit.kind for hit in found[i]} for i in range(len(prompts)))


def _sample(name: str) -> Path:
    return Path(gsm8k.__file__).parent / "samples" / f"{name}.jsonl"


def test_the_projects_own_training_prompts_are_no_tasks() -> None:
    chosen = {
        n: entry.load()._from_files((_sample(n),), "samples", _sample(n).parent)
        for n, entry in table("tasks").items()
    }
    own = Path(words_of.__code__.co_filename).with_name("prompts.jsonl")
    prompts = [json.loads(line)["prompt"] for line in own.read_text().splitlines()]
    assert Benchmarks(chosen, 13).find([(prompt, None) for prompt in prompts]) == {}
