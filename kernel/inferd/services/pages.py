"""Pages of lists: how large one is, and the tokens that lead from one to the next.

A token names the last record of its page, so that records which come or go between two calls shift nothing.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from inferd.core.index import Page
from inferd.errors import InvalidFieldError

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
MARK_BYTES = 4
LONGEST_NUMBER = 19  # digits

Item = TypeVar("Item")


def size_of(asked: int) -> int:
    """How large a page is; a size above the largest one is lowered to it (https://google.aip.dev/158)."""
    return min(asked or DEFAULT_PAGE, LARGEST_PAGE)


def number_of(token: str) -> int | None:
    """The number of the record that a token names; None for no token.

    Raises:
        InvalidFieldError: The token is wrong.
    """
    key = name_of(token)
    if key is None:
        return None
    if not (key.isascii() and key.isdecimal() and len(key) <= LONGEST_NUMBER):  # that of another list
        raise _wrong(token)
    return int(key)


def name_of(token: str) -> str | None:
    """The name of the record that a token names; None for no token.

    Raises:
        InvalidFieldError: The token is wrong.
    """
    if not token:
        return None
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
        mark, key = data[:MARK_BYTES], data[MARK_BYTES:]
        if mark == _mark(key):
            return key.decode()
    except ValueError:
        pass
    raise _wrong(token)


def token_of(page: Page[Item], key: Callable[[Item], str | int]) -> str:
    """The token of the page after this one; "" when there is none."""
    return token_for(str(key(page.records[-1]))) if page.more else ""


def token_for(name: str) -> str:
    """The token that names a record, see `name_of`."""
    data = name.encode()
    return base64.urlsafe_b64encode(_mark(data) + data).decode()


def page_of(items: Sequence[tuple[str, Item]], size: int, token: str) -> tuple[list[Item], str]:
    """A page of items that are all at hand, each with the key that it is ordered by, and the token of the next page.

    Raises:
        InvalidFieldError: The token is wrong.
    """
    after = name_of(token)
    start = 0 if after is None else next((n for n, (key, _) in enumerate(items) if key > after), len(items))
    end = start + size_of(size)
    page = Page(list(items[start:end]), more=end < len(items))
    return [item for _, item in page.records], token_of(page, lambda record: record[0])


def _wrong(token: str) -> InvalidFieldError:
    message = f"page_token {token[:80]!r} is not one that this service gave"
    return InvalidFieldError(message, field="page_token")


def _mark(key: bytes) -> bytes:
    """Tells a token of ours from what happens to be well-formed. No secret: a token gives access to nothing."""
    return hashlib.sha256(key).digest()[:MARK_BYTES]
