"""What an exception of foreign code says, in one line for a client. The traceback goes to the log."""

import traceback

_LONGEST = 1000


def last_line(error: BaseException) -> str:
    """The last line of the exception's traceback, for example "ValueError: token 9 is outside the vocabulary"."""
    return traceback.format_exception_only(error)[-1].strip()[:_LONGEST]
