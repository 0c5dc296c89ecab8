"""Training prompts that a benchmark asks too: found by their words, whatever their layout."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tasks.base import PromptSet

Kind = Literal["equal", "contains", "contained", "ngram", "reference"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Strongest first. A training prompt is a task's, holds one, is part of one, or shares a stretch of
words with one; or its own reference answer shares one with a task's prompt, or twice as much with
a task's solution."""

SHORTEST = 8
"""Words of a text that is looked for inside others; shorter ones are parts of ordinary speech."""
_TEMPLATE = 6
"""Words; what all prompts of a task begin or end with, from here on, is the task's template."""

_SOLUTIONS = ("canonical_solution", "code", "answer", "output")
"""Where tasks keep answers in a prompt's reference."""

_WORD = re.compile(r"\w+")
_SIGN_OR_WORD = re.compile(r"\w+|[^\w\s]")
_LABEL = re.compile(r"^\s*Input:\s*$", re.MULTILINE)

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One task's claim on a training prompt."""

    task: str
    prompt_id: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Text:
    task: str
    prompt_id: str
    words: Words


def words_of(text: str) -> Words:
    """Words in lower case: no punctuation, no layout, no label above an instruction's input."""
    plain = unicodedata.normalize("NFKC", _LABEL.sub("", text))
    return tuple(_WORD.findall(plain.casefold()))


class Benchmarks:
    """Prompts and solutions of the tasks, ready to be looked up by stretches of words.

    Chosen by eye on five public training sets against the six tasks. Stretches of 13 words, the
    longest that GPT-3's report took (arXiv 2005.14165, appendix C), gave pairs that differ in a
    number or a noun; at 10 most were figures of speech (``function that takes a string as input
    and returns the``, ``1 2 3 4 5 …``). Solutions are compared with their signs, and over twice the
    length: without signs any two comprehensions of one line look the same.
    """

    def __init__(self, tasks: Mapping[str, PromptSet], ngram: int) -> None:
        """Read the tasks' texts.

        Args:
            tasks: every prompt of each.
            ngram: words of a shared stretch that counts.
        """
        self.ngram = ngram
        self._templates: list[tuple[Words, Words]] = []
        self._prompts = [
            text for name, chosen in tasks.items() for text in self._read(name, chosen)
        ]
        self._equal: dict[Words, list[_Text]] = defaultdict(list)
        self._starts: dict[Words, list[_Text]] = defaultdict(list)
        for text in self._prompts:
            self._equal[text.words].append(text)
            if len(text.words) >= SHORTEST:
                self._starts[text.words[:SHORTEST]].append(text)
        self._stretches = _stretches(self._prompts, ngram)
        solutions = [text for name, chosen in tasks.items() for text in _solutions(name, chosen)]
        self._solutions = _stretches(solutions, 2 * ngram)

    def find(self, prompts: Sequence[tuple[str, str | None]]) -> dict[int, list[Hit]]:
        """Hits of the training prompts that have any: the strongest of each task.

        Args:
            prompts: each with its reference answer, where it has one.
        """
        texts = [self._without_template(words_of(prompt)) for prompt, _ in prompts]
        found: dict[int, dict[str, Hit]] = defaultdict(dict)
        around = self._around(texts)
        for index, (words, (_, reference)) in enumerate(zip(texts, prompts, strict=True)):
            for hit in self._hits(words, around.get(index, []), reference):
                found[index].setdefault(hit.task, hit)
        return {index: list(hits.values()) for index, hits in found.items()}

    def _hits(self, words: Words, around: list[_Text], reference: str | None) -> Iterator[Hit]:
        """All hits, strongest first."""
        kinds: list[tuple[Kind, Iterable[_Text]]] = [
            ("equal", self._equal.get(words, ()) if words else ()),
            ("contains", self._inside(words)),
            ("contained", around),
            ("ngram", _sharing(words, self._stretches, self.ngram)),
        ]
        if reference is not None:
            answer, signs = words_of(reference), _with_signs(reference)
            kinds.append(("reference", _sharing(answer, self._stretches, self.ngram)))
            kinds.append(("reference", _sharing(signs, self._solutions, 2 * self.ngram)))
        for kind, texts in kinds:
            for text in texts:
                yield Hit(text.task, text.prompt_id, kind)

    def _inside(self, words: Words) -> Iterator[_Text]:
        for place in range(len(words) - SHORTEST + 1):
            for text in self._starts.get(words[place : place + SHORTEST], ()):
                if words[place : place + len(text.words)] == text.words:
                    yield text

    def _around(self, texts: Sequence[Words]) -> dict[int, list[_Text]]:
        """Task prompts that hold a training prompt whole, by the training prompt's number."""
        starts: dict[Words, list[int]] = defaultdict(list)
        for index, words in enumerate(texts):
            if len(words) >= SHORTEST:
                starts[words[:SHORTEST]].append(index)
        found: dict[int, list[_Text]] = defaultdict(list)
        for text in self._prompts:
            for place in range(len(text.words) - SHORTEST + 1):
                for index in starts.get(text.words[place : place + SHORTEST], ()):
                    if text.words[place : place + len(texts[index])] == texts[index]:
                        found[index].append(text)
        return found

    def _read(self, name: str, chosen: PromptSet) -> list[_Text]:
        """A task's turns without what all of them begin and end with."""
        turns = [
            (prompt.prompt_id, words_of(turn)) for prompt in chosen.prompts for turn in prompt.turns
        ]
        before = _common([words for _, words in turns])
        after = _common([words[::-1] for _, words in turns])[::-1]
        if before or after:
            self._templates.append((before, after))
        return [_Text(name, prompt_id, _strip(words, before, after)) for prompt_id, words in turns]

    def _without_template(self, words: Words) -> Words:
        for before, after in self._templates:
            words = _strip(words, before, after)
        return words


def _solutions(name: str, chosen: PromptSet) -> Iterator[_Text]:
    """The answers that come with a task's prompts."""
    for prompt in chosen.prompts:
        for key in _SOLUTIONS:
            value = prompt.reference.get(key)
            if isinstance(value, str):
                yield _Text(name, prompt.prompt_id, _with_signs(value))


def _with_signs(text: str) -> Words:
    return tuple(_SIGN_OR_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def _common(texts: Sequence[Words]) -> Words:
    """What all texts begin with, if it is long enough to be a template."""
    if len(texts) < 2:
        return ()
    first, last = min(texts), max(texts)
    count = 0
    while count < min(len(first), len(last)) and first[count] == last[count]:
        count += 1
    return first[:count] if count >= _TEMPLATE else ()


def _strip(words: Words, before: Words, after: Words) -> Words:
    if before and words[: len(before)] == before:
        words = words[len(before) :]
    if after and words[-len(after) :] == after:
        words = words[: -len(after)]
    return words


def _stretches(texts: Iterable[_Text], length: int) -> dict[int, _Text]:
    """The first text that has each stretch, by the stretch's hash: a few bytes, not words."""
    found: dict[int, _Text] = {}
    for text in texts:
        for stretch in _grams(text.words, length):
            found.setdefault(hash(stretch), text)
    return found


def _grams(words: Words, length: int) -> Iterator[Words]:
    return (words[place : place + length] for place in range(len(words) - length + 1))


def _sharing(words: Words, stretches: Mapping[int, _Text], length: int) -> Iterator[_Text]:
    for stretch in _grams(words, length):
        if (text := stretches.get(hash(stretch))) is not None:
            yield text
