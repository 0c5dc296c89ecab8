"""The date that chat templates take for today: one for a whole run, however long it takes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.reading import read_text
from harness.typed_json import parse_json, typed


def today() -> str:
    """ISO date, where the user is."""
    return datetime.date.today().isoformat()


def parse(text: str) -> datetime.date:
    """The date of ``text``.

    Raises:
        UserError: it is no ISO date.
    """
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except (TypeError, ValueError):
        raise UserError(
            f"template date {text!r} is no date; write --template-date YYYY-MM-DD, as in "
            "2026-01-31."
        ) from None


def to_use(asked: str | None, began: Path | None) -> str | None:
    """The date asked for, else the one of what is gone on with, else today's.

    Args:
        asked: ``--template-date``.
        began: JSON settings that were begun with, which have a ``target``; None at a beginning.
            Where they name no date, from before there was one or because the template writes none,
            the clock decides as it did then.

    Raises:
        UserError: the settings cannot be read.
    """
    if asked is not None or began is None:
        return asked or today()
    try:
        settings = typed(dict[str, Any], parse_json(read_text(began)))
        target = typed(dict[str, Any], settings.get("target"), "target")
        return typed(str | None, target.get("template_date"), "template_date")  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise UserError(f"{began} cannot be used ({error}); restore it or start anew.") from error
