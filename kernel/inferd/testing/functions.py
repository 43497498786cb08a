"""Functions that do what they should not, for tests; enabled by the setting `functions.modules`."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from inferd.plugin import (
    Ask,
    AskError,
    ask,
    ask_all,
    forget,
    function,
    hookimpl,
    memo_names,
    progress,
    recall,
)
from inferd.plugin import remember as keep

STATE: list[int] = []


class Found(BaseModel):
    """A word and how often it was found."""

    word: str
    count: Annotated[int, Field(ge=1)]


@function()
def repeat(
    text: str, times: Annotated[int, Field(ge=1, le=1000)] = 1, case: Literal["as is", "upper"] = "as is"
) -> str:
    """Say a text several times.

    And nothing else.
    """
    return " ".join([text.upper() if case == "upper" else text] * times)


@function(name="repeat", version=2)
def repeat_loudly(text: str) -> str:
    """Say a text once, with a mark."""
    return f"{text}!"


@function()
def count(upto: int) -> Iterator[int]:
    """Give numbers, one after the other; 3 is one too many."""
    for number in range(upto):
        if number == 3:  # noqa: PLR2004 - see above
            raise RuntimeError("three is one too many")
        yield number


@function()
def words(texts: list[str]) -> list[Found]:
    """Count words."""
    each = [word for text in texts for word in text.split()]
    return [Found(word=word, count=each.count(word)) for word in dict.fromkeys(each)]


@function(timeout_s=0.5)
def hang() -> None:
    """Never end."""
    while True:
        pass


@function(memory_bytes=32 << 20)
def grow(bytes_: int) -> int:
    """Take memory."""
    return len(bytearray(bytes_))


@function()
def nap(seconds: float) -> str:
    """Take so long."""
    time.sleep(seconds)
    return "woke up"


@function()
def die() -> None:
    """End the process."""
    os._exit(3)


@function()
def lie() -> str:
    """Give something else than a text."""
    given: Any = 7
    return given  # type: ignore[no-any-return] # that is what is tried


@function()
def refuse(why: str) -> None:
    """Refuse the input."""
    raise ValueError(why)


@function()
def remember() -> int:
    """Count the calls that this process has seen."""
    STATE.append(1)
    return len(STATE)


@function()
def reach(path: str) -> list[str]:
    """Try to read a file, and to open a socket; which of both it could."""
    could = []
    try:
        could.append(f"read {len(Path(path).read_bytes())}")
    except OSError as error:
        could.append(f"read: {type(error).__name__}")
    try:
        socket.socket().close()
        could.append("socket")
    except OSError as error:
        could.append(f"socket: {type(error).__name__}")
    return could


@function(asks=3)
def answers(model: str, prompts: list[str], do: Literal["write", "embed", "count"] = "write") -> Iterator[str]:
    """Ask a model each prompt, all at once, and tell how far that is."""
    progress(0.5)
    for given in ask_all(
        [Ask(model=model, prompt=each, do=do, texts=[each], sampling={"max_tokens": 4}) for each in prompts]
    ):
        yield given.text or str(len(given.embedding)) + str(given.counts)


@function(asks=8)
def likeliest(model: str, prompt: str, endings: list[str]) -> str:
    """Which of some endings is the likeliest."""
    given = ask(Ask(model=model, prompt=prompt, do="score", endings=endings))
    return max(zip(given.logprobs, endings, strict=True))[1]


@function(asks=2)
def described(model: str, text: str, tries: int = 1) -> str:
    """What a model says of a text, as JSON of a schema; how an error of it is named where there is one."""
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    said = Ask(model=model, messages=[{"role": "user", "content": text}], schema=schema, sampling={"max_tokens": 40})
    try:
        return str(ask_all([said] * tries)[0].value["mood"])
    except AskError as error:
        return error.reason


@function(asks=2)
def tally(name: str, beside: str = "") -> int:
    """Count the calls with this name."""
    known = recall(name)
    number = 1 + (known.value or {"number": 0})["number"]
    keep(name, {"number": number, "beside": beside}, after=known.version)
    return int(number)


@function(asks=2)
def tallies(drop: str = "") -> list[str]:
    """The names that are counted; forgets one."""
    names = memo_names()
    if drop:
        forget(drop)
    return names


@function()
def unsaid(model: str) -> str:
    """Ask a model without having said so."""
    return ask(Ask(model=model, prompt="x")).text


@hookimpl
def inferd_functions() -> Iterable[Callable[..., Any]]:
    """All of them."""
    plain = (repeat, repeat_loudly, count, words, hang, grow, nap, die, lie, refuse, remember, reach)
    return (*plain, answers, likeliest, described, tally, tallies, unsaid)
