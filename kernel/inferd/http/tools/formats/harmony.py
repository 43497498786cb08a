"""gpt-oss: every message has a channel, and a call is a message to a function (https://github.com/openai/harmony)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from inferd.http.tools.parse import MOST_KEY
from inferd.http.tools.reader import BrokenError

if TYPE_CHECKING:
    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps

_START, _CHANNEL, _MESSAGE, _CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
_END, _CALL, _RETURN = "<|end|>", "<|call|>", "<|return|>"
_ENDS: Final = (_END, _CALL, _RETURN)
_OVER: Final = dict.fromkeys(_ENDS, (_START, _CHANNEL, ""))  # what models write of these markers is followed by more
_TO: Final = re.compile(r"\bto=(\S+?)(?=<\||\s|$)")
_WORD: Final = re.compile(r"\w+")


def harmony(p: Parse) -> Steps[None]:
    """The parser of Harmony's messages; the prompt may have begun the first one."""
    first = True
    while True:
        p.reader.record()
        if not (yield from p.attempt(_message(p, first=first))):
            yield from _rest(p)
        first = False
        if not (yield from p.reader.ahead(1)):
            return


def _rest(p: Parse) -> Steps[None]:
    """What has no header is content, up to the next message."""
    if (yield from p.passage({**_OVER, _START: ()}, p.sink.content)) == _START:
        p.reader.give_back(_START)


def _message(p: Parse, *, first: bool) -> Steps[None]:
    started = yield from p.reader.literal(_START, _CHANNEL, _MESSAGE)
    if not started and not first:
        raise BrokenError
    header = ""
    if started != _MESSAGE:
        header, _ = yield from p.collect(_MESSAGE, most=MOST_KEY)
    header = started + header
    channel = _WORD.match(header.partition(_CHANNEL)[2].lstrip())
    recipient = _TO.search(header.replace(_CHANNEL, " "))
    if recipient and recipient[1].startswith("functions."):
        yield from _call(p, recipient[1].removeprefix("functions."))
        return
    thinks = bool(channel) and header.partition(_CHANNEL)[2].lstrip().startswith("analysis")
    p.reader.recorded()
    say = p.sink.reasoning if thinks else p.sink.stray if recipient else p.sink.content
    yield from p.passage(_OVER, say)


def _call(p: Parse, name: str) -> Steps[None]:
    p.sink.begin(name)
    yield from p.reader.skip()
    yield from p.json_arguments()
    yield from p.reader.skip()
    yield from p.reader.literal(*_ENDS)
    p.complete()
