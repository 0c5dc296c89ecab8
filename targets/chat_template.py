"""A tokenizer's chat template: conversations in, text or ids out, and what it tells of turns.

A template may write today's date, which the library takes from the clock at every reading
(``strftime_now``). With a date given, the same conversation has the same ids on every day and in
every time zone.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.errors import FAILURES, UserError, raise_ctrl_c

Messages = Sequence[Mapping[str, str]]

_CLOCK = "strftime_now"
_MACRO = """{%%- macro strftime_now(format) -%%}
{%%- set parts = format.split("%%") -%%}
{{- parts[0] -}}
{%%- for part in parts[1:] -%%}
{%%- set size = 2 if part[:1] == "-" else 1 -%%}
{{- %s[part[:size]] ~ part[size:] -}}
{%%- endfor -%%}
{%%- endmacro %%}
"""
"""The library's clock at a fixed day, as text: it hands no function of ours to a template."""
_MARK = "harness-turn-ends-here"


class ChatTemplate:
    """What a tokenizer makes of conversations."""

    def __init__(
        self, tokenizer: Any, *, enable_thinking: bool = False, date: datetime.date | None = None
    ) -> None:
        """Wrap a tokenizer; its template is looked up at every reading.

        Args:
            tokenizer: of the target.
            enable_thinking: handed to the template.
            date: what the template takes for today; None leaves the library's clock.
        """
        self._tokenizer = tokenizer
        self._enable_thinking = enable_thinking
        self.date = date

    @property
    def text(self) -> str | None:
        """The template that is used; None where there is none."""
        found = getattr(self._tokenizer, "chat_template", None)
        return (found.get("default") if isinstance(found, dict) else found) or None

    @property
    def written_date(self) -> str | None:
        """ISO date that is written into prompts; None where none is, or the clock decides."""
        if self.date is None or _CLOCK not in (self.text or ""):
            return None
        return self.date.isoformat()

    @contextlib.contextmanager
    def on(self, date: datetime.date | None) -> Iterator[None]:
        """Another ``date`` for a while."""
        before, self.date = self.date, date
        try:
            yield
        finally:
            self.date = before

    def encode(self, messages: Messages) -> list[int]:
        """Ids of a conversation; without a template the texts are joined by blank lines."""
        if self.text is None:
            text = "\n\n".join(message["content"] for message in messages)
            return list(self._tokenizer(text)["input_ids"])
        return list(self._apply(messages, tokenize=True, return_dict=False))

    def render(self, messages: Messages, *, add_generation_prompt: bool = True) -> str:
        """Text of a conversation; without a generation prompt its last message is left open."""
        text: str = self._apply(
            messages,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def closing_token(self) -> int | None:
        """The special token that directly follows what the assistant said; None for no such."""
        if self.text is None:
            return None
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}]
        try:
            text = self._apply(turns, tokenize=False, add_generation_prompt=False)
        except FAILURES as error:  # A template may refuse any conversation.
            raise_ctrl_c(error)
            return None
        behind = text.rpartition(_MARK)[2].lstrip()
        special = {
            token.content: index
            for index, token in getattr(self._tokenizer, "added_tokens_decoder", {}).items()
            if token.special and token.content
        }
        found = max(filter(behind.startswith, special), key=len, default=None)
        return None if found is None else special[found]

    def _apply(self, messages: Messages, **how: Any) -> Any:
        return self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            **{
                "chat_template": self._dated(),
                "add_generation_prompt": True,
                "enable_thinking": self._enable_thinking,
                **how,
            },
        )

    def _dated(self) -> str | None:
        """The template with its clock stopped; None for the tokenizer's own."""
        if self.written_date is None:
            return None
        assert self.date is not None and self.text is not None
        noon = datetime.datetime.combine(self.date, datetime.time(12))
        directives = [*string.ascii_letters, *(f"-{letter}" for letter in string.ascii_letters)]
        table = {name: noon.strftime(f"%{name}") for name in directives}
        return _MACRO % json.dumps(table, ensure_ascii=False) + self.text


def require_default(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer that has several templates and none to take unasked.

    Raises:
        UserError: it is such.
    """
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict) and found and "default" not in found:
        raise UserError(
            f"{name} has chat templates by name ({', '.join(sorted(found))}) and none is called "
            "default; give the one to use that name in its tokenizer's files."
        )
