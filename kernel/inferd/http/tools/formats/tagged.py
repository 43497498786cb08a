"""Calls as JSON objects between markers: Hermes and Qwen, Granite, Phi-4, Nemotron, Command R, Mistral before v11."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.http.tools.reader import BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps


def tagged(opens: tuple[str, ...], closes: tuple[str, ...] = ()) -> Callable[[Parse], Steps[None]]:
    """The parser of a format that writes one call, or an array of calls, between markers.

    Args:
        opens: Before them; any of these.
        closes: Behind them; none where nothing is.
    """

    def parse(p: Parse) -> Steps[None]:
        while (yield from p.content(*opens)):
            yield from p.attempt(_between(p, closes))

    return parse


def _between(p: Parse, closes: tuple[str, ...]) -> Steps[None]:
    yield from p.reader.skip()
    yield from calls(p)
    yield from p.reader.skip()
    if closes:
        yield from p.reader.literal(*closes)


def calls(p: Parse, *, known: bool = False) -> Steps[None]:
    """One call, or an array of them.

    Raises:
        BrokenError: It is none; those before the place where that shows are calls all the same.
    """
    if not (yield from p.reader.literal("[")):
        yield from p.call_object(known=known)
        p.complete()
        return
    yield from p.reader.skip()
    while True:
        yield from p.call_object(known=known)
        p.complete()
        yield from p.reader.skip()
        if (yield from p.reader.literal(",", "]")) != ",":
            break  # an array that is not closed has its calls
        yield from p.reader.skip()


def object_follows(p: Parse) -> Steps[None]:
    """Stand still until it is known that a JSON object follows.

    Raises:
        BrokenError: None does.
    """
    if (yield from p.reader.ahead(1)) != "{":
        raise BrokenError
