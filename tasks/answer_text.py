"""What a model says to the reader, behind what it wrote to think."""

from __future__ import annotations

import re

_NAME = r"(?:think|thinking|thought|thoughts|reasoning|reflection|seed:think)"
_OPENING = re.compile(rf"\s*(?:<{_NAME}>|\[THINK\])", re.IGNORECASE)
_CLOSING = re.compile(rf"</{_NAME}>|\[/THINK\]", re.IGNORECASE)
_TAG = re.compile(rf"</?{_NAME}>|\[/?THINK\]", re.IGNORECASE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<\n]*?(?:<\|message\|>|\n)|<channel\|>")
_ANY_CHANNEL = re.compile(r"<\|channel\|?>\s*\w+")
_BARE_CHANNEL = re.compile(r"\s*analysis(?=\S).*?assistantfinal", re.DOTALL)
"""The same where special tokens were left out of the text."""
_TRAILER = re.compile(r"<\|(?:return|end|im_end|eot_id)\|>\s*$")


def without_reasoning(text: str) -> str:
    """The text behind its reasoning; empty where the answer ended before it had come to an end.

    Reasoning is what stands between ``<think>`` and ``</think>`` (and their kin) at the beginning,
    what stands before a first ``</think>`` that nothing opened (templates open it in the
    prompt), and every channel but the final one.
    """
    finals = list(_FINAL_CHANNEL.finditer(text))
    if finals:
        text = _TRAILER.sub("", text[finals[-1].end() :])
    elif _ANY_CHANNEL.match(text.lstrip()):
        return ""
    elif bare := _BARE_CHANNEL.match(text):
        text = text[bare.end() :]
    first = _TAG.search(text)
    start = first.end() if first and _CLOSING.fullmatch(first[0]) else 0
    while (opening := _OPENING.match(text, start)) is not None:
        closing = _CLOSING.search(text, opening.end())
        if closing is None:
            return ""
        start = closing.end()
    return text[start:]
