"""The one exception that reaches the user as a sentence, and how others are told."""

from harness.visible import visible

FAILURES = (Exception, SystemExit)
"""What code from elsewhere may raise without ending a run: all but Ctrl-C."""


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""

    def __init__(self, sentence: str) -> None:
        # What libraries and files say, quoted in it, may have line ends of its own, and worse.
        super().__init__(visible(" ".join(sentence.splitlines())))


class NotNumbers(UserError):
    """A target's logits hold NaN or Inf, so that no token is its choice."""

    def __init__(self, target: str = "the target") -> None:
        super().__init__(
            f"the logits of {target} are not numbers (NaN or Inf); its weights are damaged, so "
            "download them again, or its --dtype cannot hold them."
        )


def one_line(error: BaseException) -> str:
    """Kind and text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def raise_ctrl_c(error: BaseException) -> None:
    """Raise the Ctrl-C that ``error`` hides: code that was interrupted may fail to clean up."""
    hidden = error.__context__
    while hidden is not None and not isinstance(hidden, KeyboardInterrupt):
        hidden = hidden.__context__
    if hidden is not None:
        raise hidden from None
