"""Which text of an answer is its program.

Answers come as Markdown, more or less. Fences are read as people write them rather than as
CommonMark says, and of several blocks the one is taken that defines what is asked for, with what it
needs from the others.
"""

from __future__ import annotations

import ast
import builtins
import os
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard

from tasks.answer_text import without_reasoning

_LINE = re.compile(r"\r\n?|\n")
"""What ends a line of Python; others, such as U+2028, may stand inside a string."""
_LONGEST_LINE, _LONGEST_BLOCK, _MOST_FENCES = 2_000, 200_000, 100
"""Characters of a line that may hold a fence and of a block that is looked into for definitions,
and fences that may stand in strings: texts of others are read in bounded time."""

_QUOTE = re.compile(r"[ \t]*>[ \t]?")
_FENCE = re.compile(r"(?P<before>.*?)(?P<fence>`{3,}|~{3,})(?P<after>[^`]*)$")
_MARKER = re.compile(r"\s*(?:(?:[-*+]|\d+[.)])\s+|>\s*)*$")
_SENTENCE = re.compile(r"[^`~]*[:.)*][ \t]*$")
"""Words in front of a fence without a language: ``Here it is: ``` ``."""
_PYTHON = re.compile(
    r"\s*\{?\.?(?:py|python|ipython)[23]?(?:\.\d+)*(?:[:,;=\s(\[{}]+(?P<rest>.*))?$", re.I
)
_CODE = re.compile(r"\s*(?:(?:async +)?def|class|import|from) ")
_STRINGS = re.compile(
    r"\#[^\n]*|'''(?:\\.|(?!''').)*'''|\"\"\"(?:\\.|(?!\"\"\").)*\"\"\""
    r"|(?P<open>'''|\"\"\")|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"",
    re.DOTALL,
)
"""Comments and strings; ``open`` is the beginning of one of several lines that has no end."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    code: str
    labelled: bool
    """Whether its fence says Python."""


def definition(names: Sequence[str]) -> str:
    """A regular expression over the lines that define one of ``names`` at the margin."""
    one = "|".join(map(re.escape, names))
    return (
        rf"^(?:(?:async +)?def|class) +(?:{one})\b"
        rf"|^(?:{one}) *(?::[^=\n]+)?=(?!=)"
        rf"|^(?:from +[\w.]+ +)?import\b[^\n]*\b(?:{one})\b"
    )


def extract_code(text: str, wanted: str = "") -> str | None:
    """The program in an answer; None where there is only white space.

    Of the fenced blocks in Python, or without a language, the last one that ``wanted`` is found
    in; else the last one that says Python, else the last one. Definitions in the other blocks that
    it uses and lacks stand above it. A block cut off by the end of the answer counts. Without any
    block the whole answer is taken for code, its reasoning left out.

    Args:
        text: the answer.
        wanted: a regular expression over lines.
    """
    text = without_reasoning(text)
    blocks = list(_blocks(text))
    if not blocks:
        return text if text.strip() else None
    chosen = _chosen(blocks, wanted)
    others = [block.code for block in blocks if block is not chosen]
    return _with_needed(chosen.code, others)


def _chosen(blocks: Sequence[Block], wanted: str) -> Block:
    pattern = re.compile(wanted, re.MULTILINE)
    for fits in (
        lambda block: bool(wanted) and pattern.search(block.code),
        lambda block: block.labelled,
    ):
        found = [block for block in blocks if fits(block)]
        if found:
            return found[-1]
    return blocks[-1]


def _blocks(text: str) -> Iterator[Block]:
    """Fenced blocks in Python, in order and at the margin; empty ones left out."""
    lines = _LINE.split(text)
    at = 0
    while at < len(lines):
        opened = _opened(lines[at])
        at += 1
        if opened is None:
            continue
        body, at = _body(lines, at, opened)
        code = _at_margin([*opened.code, *body])
        if opened.language != "other" and code.strip():
            yield Block(code, opened.language == "python")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A line that opens a block."""

    fence: str
    language: Literal["python", "other", ""]
    quoted: bool
    code: tuple[str, ...]
    """What of the code stands on the fence's own line."""


def _opened(line: str) -> _Opened | None:
    found = _fence(line)
    if found is None:
        return None
    before, info = found["before"], found["after"]
    python = _PYTHON.match(info)
    language: Literal["python", "other", ""] = "other"
    rest = info
    if python:
        language, rest = "python", python["rest"] or ""
    elif not info.strip() or _CODE.match(info) or (info[0].isspace() and " " in info.strip()):
        language = ""
    if not (_MARKER.match(before) or python or (language == "" and _SENTENCE.match(before))):
        return None
    code = (rest.strip(),) if _CODE.match(rest) else ()
    return _Opened(found["fence"], language, bool(_QUOTE.match(before)), code)


def _fence(line: str) -> re.Match[str] | None:
    return _FENCE.match(line) if len(line) <= _LONGEST_LINE else None


def _body(lines: Sequence[str], start: int, opened: _Opened) -> tuple[list[str], int]:
    """Lines of a block and where the text goes on.

    A fence inside a string closes nothing, if another one behind it is outside of every string.
    """
    body: list[str] = []
    first: tuple[list[str], int] | None = None
    num_fences = 0
    for at in range(start, len(lines)):
        line = _QUOTE.sub("", lines[at], count=1) if opened.quoted else lines[at]
        found = _fence(line)
        if found is None or not (follows := _follows(found, opened.fence)):
            body.append(line)
            continue
        closed = [*body, found["before"]] if found["before"].strip() else list(body)
        place = at if follows == "another" else at + 1
        num_fences += 1
        if num_fences > _MOST_FENCES or not _inside_string("\n".join([*opened.code, *closed])):
            return first or (closed, place) if num_fences > _MOST_FENCES else (closed, place)
        first = first or (closed, place)
        body.append(line)
    return first or (body, len(lines))


def _follows(found: re.Match[str], fence: str) -> Literal["nothing", "another", ""]:
    """What a fence means inside the block that ``fence`` began; empty: it is part of the code."""
    before, after = found["before"], found["after"]
    if not found["fence"].startswith(fence) or "#" in before:
        return ""
    if not after.strip():
        return "nothing"
    if before.strip():
        return ""
    if _PYTHON.match(after):
        return "another"  # the first block was never closed
    return "nothing" if after[0].isspace() else ""


def _inside_string(code: str) -> bool:
    """Whether a string of several lines is open at the end."""
    return any(found["open"] for found in _STRINGS.finditer(code))


def _at_margin(lines: Sequence[str]) -> str:
    indents = [line[: -len(line.lstrip())] for line in lines if line.strip()]
    margin = len(os.path.commonprefix(indents))  # noqa: RUF071 (they are no paths)
    return "\n".join(line[margin:] for line in lines) + "\n"


def _with_needed(code: str, others: Sequence[str]) -> str:
    """``code`` below the definitions in ``others`` that it uses and does not make itself."""
    wanted = _free(code)
    if not wanted:
        return code
    found = [one for text in others for one in _definitions(text)]
    made: set[str] = set()
    taken: set[int] = set()
    while wanted:
        name = wanted.pop()
        made.add(name)
        for number in reversed(range(len(found))):
            if name in found[number].names:
                taken.add(number)
                wanted |= _free(found[number].code) - made
                break
    above = "".join(f"{found[number].code}\n" for number in sorted(taken))
    end = _end_of_future_imports(code) if above else 0
    return code[:end] + above + code[end:]


@dataclass(frozen=True, slots=True)
class _Definition:
    """A statement at the margin that binds names."""

    names: frozenset[str]
    code: str


def _definitions(text: str) -> list[_Definition]:
    tree = _parsed(text)
    lines = text.split("\n")
    found = []
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = {node.name}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = {inside.id for inside in ast.walk(node) if _is_stored(inside)}
        else:
            continue
        above = getattr(node, "decorator_list", None)
        start = above[0].lineno if above else node.lineno
        code = "\n".join(lines[start - 1 : node.end_lineno])
        found.append(_Definition(frozenset(names), code))
    return found


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _parsed(code: str) -> ast.Module | None:
    if len(code) > _LONGEST_BLOCK:
        return None
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _free(code: str) -> set[str]:
    """Names that code takes from around it; empty where it is no Python."""
    if len(code) > _LONGEST_BLOCK:
        return set()
    try:
        table = symtable.symtable(code, "answer", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    bound = {
        one.get_name() for one in table.get_symbols() if one.is_assigned() or one.is_imported()
    }
    tables, used = [table], set[str]()
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {
            one.get_name() for one in table.get_symbols() if one.is_global() and one.is_referenced()
        }
    return used - bound - vars(builtins).keys()


def _end_of_future_imports(code: str) -> int:
    """Where the first statement may stand that is no ``from __future__ import``."""
    tree = _parsed(code)
    last = 0
    for node in tree.body if tree else ():
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            last = node.end_lineno or 0
    return sum(len(line) for line in code.split("\n")[:last]) + last
