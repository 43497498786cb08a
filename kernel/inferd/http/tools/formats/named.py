"""Calls as a name and a JSON object behind it: Mistral, DeepSeek to V3.1, Kimi K2, Functionary."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from inferd.http.tools.formats.tagged import calls
from inferd.http.tools.parse import MOST_KEY
from inferd.http.tools.reader import BrokenError

if TYPE_CHECKING:
    from inferd.http.tools.parse import Parse
    from inferd.http.tools.reader import Steps

# Mistral: [TOOL_CALLS][{…}] up to v7, [TOOL_CALLS]name[CALL_ID]id[ARGS]{…} of v11, without an id from v13 on.


def mistral(p: Parse) -> Steps[None]:
    """The parser of Mistral's formats."""
    while (yield from p.content("[TOOL_CALLS]")):
        yield from p.attempt(_mistral(p))


def _mistral(p: Parse) -> Steps[None]:
    yield from p.reader.skip()
    if (yield from p.reader.ahead(1)) in ("[", "{"):
        yield from calls(p)
        return
    name, marker = yield from p.collect("[CALL_ID]", "[ARGS]", "{", most=MOST_KEY)
    call_id = ""
    if marker == "[CALL_ID]":
        call_id, _ = yield from p.collect("[ARGS]", most=MOST_KEY)
    p.sink.begin(name.strip(), call_id.strip())
    if marker == "{":
        raise BrokenError
    yield from p.reader.skip()
    yield from p.json_arguments()
    p.complete()


# DeepSeek V3 and R1: function, a name, and JSON in a code block; V3.1: a name and JSON.

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001 - as the model writes it
_CALL, _CALL_END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"  # noqa: RUF001


def deepseek(p: Parse) -> Steps[None]:
    """The parser of DeepSeek V3, R1 and V3.1."""
    while marker := (yield from p.content(_CALLS, _CALL)):
        yield from p.attempt(_deepseek(p, marker))


def _deepseek(p: Parse, marker: str) -> Steps[None]:
    while True:
        if marker == _CALLS:
            yield from p.reader.skip()
            yield from p.reader.expect(_CALL)
        yield from _deepseek_call(p)
        yield from p.reader.skip()
        marker = yield from p.reader.literal(_CALL, _CALLS_END)
        if marker != _CALL:
            return


def _deepseek_call(p: Parse) -> Steps[None]:
    name, _ = yield from p.collect(_SEP, most=MOST_KEY)
    fenced = name.strip() == "function" and (yield from p.reader.ahead(1)) != "{"
    if fenced:
        name, _ = yield from p.collect("\n", most=MOST_KEY)
        yield from p.reader.skip()
        yield from p.reader.literal("```json", "```")
    p.sink.begin(name.strip())
    yield from p.reader.skip()
    yield from p.json_arguments()
    yield from p.reader.skip()
    if fenced:
        yield from p.reader.literal("```")
        yield from p.reader.skip()
    yield from p.reader.expect(_CALL_END)
    p.complete()


# Kimi K2: the name is a part of the id.

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_KIMI, _KIMI_ARGUMENTS, _KIMI_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_KIMI_ID: Final = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::(?P<index>\d+))?", re.DOTALL)


def kimi(p: Parse) -> Steps[None]:
    """The parser of Kimi K2."""
    while marker := (yield from p.content(_SECTION, _KIMI)):
        yield from p.attempt(_kimi(p, marker))


def _kimi(p: Parse, marker: str) -> Steps[None]:
    while True:
        if marker == _SECTION:  # what stands in it outside of calls is no content
            p.reader.record()
            if (yield from p.passage({_KIMI: (), _SECTION_END: ()}, p.sink.stray)) != _KIMI:
                return
        call_id, _ = yield from p.collect(_KIMI_ARGUMENTS, most=MOST_KEY)
        found = _KIMI_ID.fullmatch(call_id.strip())
        if found is None:
            raise BrokenError
        p.sink.begin(found["name"], call_id.strip() if found["index"] else "")
        yield from p.reader.skip()
        yield from p.json_arguments()
        yield from p.reader.skip()
        yield from p.reader.expect(_KIMI_END)
        p.complete()
        yield from p.reader.skip()
        marker = yield from p.reader.literal(_KIMI, _SECTION_END)
        if marker != _KIMI:
            return


# Functionary v3.1, and what Llama's documents show: <function=name>{…}</function>.


def functions(p: Parse) -> Steps[None]:
    """The parser of calls between markers with the name in the first."""
    while (yield from p.content("<function=")):
        yield from p.attempt(function(p))


def function(p: Parse) -> Steps[None]:
    """What follows "<function="."""
    name, _ = yield from p.collect(">", most=MOST_KEY)
    p.sink.begin(name.strip())
    yield from p.reader.skip()
    yield from p.json_arguments()
    yield from p.reader.skip()
    yield from p.reader.expect("</function>")
    p.complete()


# Functionary v3.2: >>>name, a line feed and JSON; ">>>all" is content. The first ">>>" may be the prompt's.


def functionary(p: Parse) -> Steps[None]:
    """The parser of Functionary v3.2."""
    p.reader.record()
    yield from p.reader.literal(">>>")
    yield from p.attempt(_functionary(p))
    while (yield from p.content(">>>")):
        yield from p.attempt(_functionary(p))


def _functionary(p: Parse) -> Steps[None]:
    name, _ = yield from p.collect("\n", most=MOST_KEY)
    if name.strip() == "all":
        p.reader.record()
        return
    if name.strip() not in p.tools:
        raise BrokenError
    p.sink.begin(name.strip())
    yield from p.reader.skip()
    yield from p.json_arguments()
    p.complete()
