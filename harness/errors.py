"""The one exception that reaches the user as a sentence instead of a traceback."""


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""
