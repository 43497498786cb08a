"""What the sandbox of a worker has refused, in words: the system says no more than that it is not permitted."""

from __future__ import annotations

import traceback
from errno import EACCES, EPERM
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST: Final = 200
_MOST: Final = 20  # errors behind each other


def refused_words(error: BaseException) -> str:
    """A clause for an error that comes of it, which names the file or the call; "" for others."""
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in (EACCES, EPERM):
            frames = traceback.extract_tb(each.__traceback__)
            call = f"the call `{(frames[-1].line or '')[:_LONGEST]}` ({frames[-1].name})" if frames else "a call"
            what = f"access to {str(each.filename)[:_LONGEST]!r}" if each.filename is not None else call
            return (
                f"; perhaps its sandbox refused {what}: a worker reaches its model, libraries and its scratch, and what"
                " its backend asks for (BackendSpec.access); workers.sandbox = 'off' tells whether that is why"
            )
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    for _ in range(_MOST):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
