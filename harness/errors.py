"""The one exception that reaches the user as a sentence instead of a traceback."""


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""

    def __init__(self, sentence: str) -> None:
        # What libraries and files say, quoted in it, may have line ends of its own.
        super().__init__(" ".join(sentence.splitlines()))
