"""Where a parser puts what it finds, and what of it goes out at once."""

from __future__ import annotations

import json
import secrets
import string
from typing import TYPE_CHECKING, Final

from inferd.http.tools.deltas import Arguments, CallBegun, CallEnded, Content, Reasoning, Stray, joined
from inferd.http.tools.reader import SPACES, BrokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.http.tools.deltas import Delta

HELD_CHARS: Final = 4096
"""Characters of a call's arguments that are held back until the call is whole."""
MOST_CALLS: Final = 1024
"""Most calls of one answer; what looks like a further one is content."""
MOST_NAME: Final = 256
"""Characters of a tool's name, and of a call's id."""
GLUE_CHARS: Final = 64
"""White space around contents and thoughts that is looked at as the format's own: line feeds before a call, say."""

_LETTERS: Final = string.ascii_letters + string.digits


def fresh_id() -> str:
    """An id of a call that no other one has: nine letters and digits, which all templates take."""
    return "".join(secrets.choice(_LETTERS) for _ in range(9))


class Sink:
    """Contents, reasoning and calls on their way out.

    A call goes out when it is whole, so that one that breaks off can be given as the content that it is. One of which
    the arguments are longer than `held_chars` goes out as it comes from there on.

    One writer: the parser that owns it.

    Args:
        glue: Characters between contents and calls that are the format's own.
        held_chars: Characters of arguments that are held back; 0 has each call go out as it comes.
        make_id: Gives a new id for a call that has none of its own.
    """

    def __init__(
        self, *, glue: str = "\n", held_chars: int = HELD_CHARS, make_id: Callable[[], str] = fresh_id
    ) -> None:
        self._glue = glue
        self._held_chars = held_chars
        self._make_id = make_id
        self._out: list[Delta] = []
        self._spaces = ""  # the last of the content: the format's own where a call follows
        self._content = False  # whether any went out
        self._call: _Call | None = None
        self._thinking = False
        self._thought_spaces = ""
        self.calls = 0

    def drain(self) -> list[Delta]:
        """What can go out now."""
        out, self._out = self._out, []
        return joined(out)

    def content(self, text: str) -> None:
        """A piece of the answer. What may be the format's own at its end waits for what follows it."""
        text = self._spaces + text
        blank = not self._content and not text.strip(SPACES)  # which is none before a call, whatever it is made of
        kept = min(len(text) - len(text.rstrip(SPACES if blank else self._glue)), GLUE_CHARS)
        self._spaces = text[len(text) - kept :]
        self._say(text[: len(text) - kept])

    def thought(self, text: str) -> None:
        """A piece of what the model thinks; white space around all of it is the format's own."""
        text = self._thought_spaces + text
        if not self._thinking:
            text = text.lstrip(SPACES)
        kept = min(len(text) - len(text.rstrip(SPACES)), GLUE_CHARS)
        self._thought_spaces = text[len(text) - kept :]
        self.reasoning(text[: len(text) - kept])

    def thought_ended(self) -> None:
        """The model has thought; it may do so again."""
        self._thought_spaces = ""
        self._thinking = False

    def stray(self, text: str) -> None:
        """What is for nobody."""
        if text:
            self._out.append(Stray(text))

    def reasoning(self, text: str) -> None:
        """A piece of what the model thinks, as it is."""
        if text:
            self._out.append(Reasoning(text))
            self._thinking = True

    def _say(self, text: str) -> None:
        if text:
            self._out.append(Content(text))
            self._content = True

    # A call.

    def begin(self, name: str, call_id: str = "") -> None:
        """A call begins; it is `complete` or `broken` in the end.

        Raises:
            BrokenError: Its name is none, or there are too many calls.
        """
        if not name or len(name) > MOST_NAME or len(call_id) > MOST_NAME or self.calls >= MOST_CALLS:
            raise BrokenError
        self._call = _Call(CallBegun(self.calls, call_id or self._make_id(), name))

    def arguments(self, text: str) -> bool:
        """A piece of the open call's arguments; whether all that came of them has gone out."""
        call = self._call
        if call is None or not text:
            return False
        call.pieces.append(text)
        call.size += len(text)
        if call.size <= self._held_chars:
            return False
        self._let_go(call)
        return True

    def complete(self) -> None:
        """The open call is whole; its arguments, where none came, are no arguments."""
        call = self._call
        if call is None:
            return
        if not call.size:
            call.pieces.append("{}")
        self._let_go(call)
        self._out.append(CallEnded(call.begun.index, complete=True))
        self._call = None

    def broken(self, raw: str, *, cut: bool) -> None:
        """What was read does not become a call.

        Args:
            raw: What was read of it and has not gone out.
            cut: Whether it might have become one if the text were not cut off.
        """
        call = self._call
        self._call = None
        if call is not None and call.out:
            self._out.append(CallEnded(call.begun.index, complete=False))
        if cut:
            self._spaces = ""
            self.stray(raw)
        else:
            self.content(raw)

    def _let_go(self, call: _Call) -> None:
        if not call.out:
            self._spaces = ""
            self._out.append(call.begun)
            call.out = True
            self.calls += 1
        if call.pieces:
            self._out.append(Arguments(call.begun.index, "".join(call.pieces)))
            call.pieces.clear()

    def finish(self) -> None:
        """The text is over: white space at its end is content, except behind a call."""
        if not self.calls:
            self._say(self._spaces)
        self._spaces = ""


class _Call:
    """The call that is open."""

    __slots__ = ("begun", "out", "pieces", "size")

    def __init__(self, begun: CallBegun) -> None:
        self.begun = begun
        self.pieces: list[str] = []
        self.size = 0
        self.out = False


def quoted(text: str) -> str:
    """A text as JSON writes it, without the quotes."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
