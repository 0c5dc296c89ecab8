"""Rows that hold whole conversations: the first question of one, and the reply to it."""

from __future__ import annotations

from typing import Any

from tasks.rows import Row

_USERS = ("user", "human")
_MODELS = ("assistant", "gpt", "model", "bot", "chatgpt")
_KEYS = ("messages", "conversations", "conversation", "prompt")
"""Where a row may hold its messages; under ``prompt`` they are the beginning of a conversation."""


def has_conversation(row: Row) -> bool:
    """Whether a row holds a list of messages."""
    return _key(row) is not None


def opening(row: Row) -> tuple[str, str | None, bool]:
    """What a user asks first, the reply to it, and whether the conversation holds more than that.

    Messages are objects with ``role`` and ``content``, or ``from`` and ``value`` (ShareGPT).

    Raises:
        UserError: a message is none, or no user asks anything.
    """
    key = _key(row)
    assert key is not None
    messages = [
        _message(row, f"{key}[{place}]", message) for place, message in enumerate(row.body[key])
    ]
    first = next((n for n, (role, text) in enumerate(messages) if role in _USERS and text), None)
    if first is None:
        raise row.error(f"{key!r} holds no message of a user ({' or '.join(_USERS)})")
    role, text = messages[first + 1] if first + 1 < len(messages) else ("", "")
    reply = text if role in _MODELS and text else None
    more = len(messages) > (1 if reply is None else 2)
    return messages[first][1], reply, more


def _key(row: Row) -> str | None:
    return next((key for key in _KEYS if isinstance(row.body.get(key), list)), None)


def _message(row: Row, place: str, message: Any) -> tuple[str, str]:
    """Role, in lower case, and text."""
    if not isinstance(message, dict):
        raise row.error(f"{place!r} should be a message with a role and a content")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str):
        raise row.error(f"{place!r} should say under 'role' or 'from' whose message it is")
    content = message.get("content", message.get("value"))
    if isinstance(content, list):  # parts, of which some may be images
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "\n".join(texts) if len(texts) == len(parts) else content
    if content is None:  # a call of a tool says nothing
        content = ""
    if not isinstance(content, str):
        raise row.error(f"{place!r} should hold text under 'content' or 'value'")
    return role.casefold(), content if content.strip() else ""
