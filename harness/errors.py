"""The one exception that reaches the user as a sentence, and how others are told."""

FAILURES = (Exception, SystemExit)
"""What code from elsewhere may raise without ending a run: all but Ctrl-C."""


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""


def one_line(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
