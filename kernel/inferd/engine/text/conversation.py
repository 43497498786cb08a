"""Conversations as chat templates want them: plain dictionaries, as Hugging Face transformers hands them over.

What a template wants is found out by trying it: it is given a short conversation with a word that is easy to find
again, once written in one way and once in the other.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.errors import InvalidFieldError, UnsupportedInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd.engine.work import ChatInput, Message

FIELD: Final = "spec.chat"
SYSTEM, DEVELOPER = "system", "developer"
INSTRUCT: Final = (SYSTEM, DEVELOPER)
Dicts = list[dict[str, Any]]

_WORD: Final = "731946285"  # of digits alone: whatever filter it goes through, it stays as it is
_DUMPED: Final = re.compile(rf"""['"]text['"]\s*:\s*['"]{_WORD}""")  # a list that is written as it is in Python or JSON
_ARGUMENTS: Final = {"n0": _WORD}
_ARGUMENTS_TEXT: Final = json.dumps(_ARGUMENTS)
_NAME: Final = "f864207531"  # of a function, as easy to find again
_ANSWER_ID: Final = "a1b2c3d4e"  # of a call: some templates want nine letters and digits


class Try(Protocol):
    """Renders messages for a try; None when the template refuses them."""

    def __call__(self, messages: Dicts) -> str | None:
        """The text."""
        ...


class Wants:
    """What a template wants, found out when a conversation needs it.

    Args:
        source: The template.

    Attributes:
        names_developers: Whether it has that word; whether it shows what they say is found out for each conversation.
    """

    def __init__(self, source: str) -> None:
        self._lists = "text" in source  # without that word it does not look into parts
        self.names_developers = DEVELOPER in source
        self._contents: dict[str, tuple[bool, bool]] = {}
        self._arguments: tuple[bool, bool] | None = None
        self._absent: dict[tuple[str, bool, bool], Dicts] = {}

    def contents(self, role: str, render: Try) -> tuple[bool, bool]:
        """Whether it shows what a role says when that is a text, and when it is a list of parts."""
        if not self._lists:
            return True, False
        if role not in self._contents:
            self._contents[role] = (self._shows(role, _WORD, render), self._shows(role, _parts([_WORD]), render))
        return self._contents[role]

    def _shows(self, role: str, content: Any, render: Try) -> bool:
        list_like = isinstance(content, list)

        def say(other: str, text: str) -> dict[str, Any]:
            return {"role": other, "content": _parts([text]) if list_like else text}

        said, asked, answered = {"role": role, "content": content}, say("user", "1"), say("assistant", "2")
        tries = {
            "user": ([said], [say("system", "3"), said]),
            "assistant": ([asked, said], [asked, said, asked]),
            "system": ([said, asked], [asked, answered, said, asked]),
        }
        call = answered | {"tool_calls": [_call(_ARGUMENTS)]}
        others = ([said, asked], [asked, said], [asked, call, said], [asked, answered, said, asked])
        shown = [render(messages) or "" for messages in tries.get(role, others)]
        return any(_WORD in text and not _DUMPED.search(text) for text in shown)

    def arguments(self, render: Try) -> tuple[bool, bool]:
        """Whether it shows arguments of calls as they are when they are JSON text, and when they are an object."""
        if self._arguments is None:
            texts, objects = (
                [
                    text
                    for form in self._forms("assistant", render)
                    for text in self._try({"role": "assistant", **form, "tool_calls": [call]}, render)
                ]
                for call in (_call(_ARGUMENTS_TEXT), _call(_ARGUMENTS))
            )
            as_python = repr(_ARGUMENTS)
            self._arguments = (
                any(_ARGUMENTS_TEXT in text for text in texts),
                any(_WORD in text and as_python not in text for text in objects),
            )
        return self._arguments

    def absent(self, role: str, *, calls: bool, reasons: bool, render: Try) -> Dicts:
        """What may stand for the content of a message with calls or reasoning and no words, the best first.

        Those that show the most of calls and reasoning, and of these the first that is not written as "None".
        """
        key = role, calls, reasons
        if key not in self._absent:
            shows_text, shows_object = self.arguments(render)
            call = _call(_ARGUMENTS if shows_object or not shows_text else _ARGUMENTS_TEXT, _NAME)
            rest: dict[str, Any] = {"tool_calls": [call]} if calls else {}
            rest |= {"thinking": _WORD, "reasoning_content": _WORD} if reasons else {}
            forms = self._forms(role, render)
            shown = [self._try({"role": role} | form | rest, render) for form in forms]
            scores = [sum(any(word in text for text in texts) for word in (_NAME, _WORD)) for texts in shown]
            none = [sum(text.count("None") for text in texts) for texts in shown]
            order = sorted(range(len(forms)), key=lambda n: (none[n] > none[1], n))
            best = [forms[n] for n in order if scores[n] == max(scores)]
            self._absent[key] = best if max(scores) else [forms[1]]
        return self._absent[key]

    def _forms(self, role: str, render: Try) -> Dicts:
        """How content may be missing. The first is what most programs have; some templates look for just that."""
        return [{"content": None}, {"content": self._shape(role, "", render)}, {}]

    def _try(self, said: dict[str, Any], render: Try) -> list[str]:
        """What is shown of a message that answers, as the last one and before the result of a tool."""
        asked = {"role": "user", "content": self._shape("user", "1", render)}
        result = {"role": "tool", "content": self._shape("tool", "2", render), "tool_call_id": _ANSWER_ID}
        return [render(messages) or "" for messages in ([asked, said], [asked, said, result])]

    def _shape(self, role: str, text: str, render: Try) -> str | list[dict[str, str]]:
        shows_text, shows_parts = self.contents(role, render)
        return _parts([text]) if shows_parts and not shows_text else text


def _call(arguments: Any, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "id": _ANSWER_ID, "function": {"name": name, "arguments": arguments}}


def _parts(texts: list[str]) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def read_messages(chat: ChatInput, wants: Wants, render: Try) -> Dicts:
    """The messages as the template wants them.

    All that systems and developers say reaches it, in the first of these ways in which it shows it: each message as it
    is, what developers say as the system's, those at the begin as one, all of them as one at the begin.

    Raises:
        InvalidFieldError: Calls of tools are no JSON array of objects, or arguments that have to be an object are none.
        UnsupportedInputError: The template leaves out something of it whichever way.
    """
    places = [n for n, message in enumerate(chat.messages) if message.role in INSTRUCT]
    if not places or (places == [0] and chat.messages[0].role == SYSTEM):
        return _settled(_read_all(chat.messages, wants, render), chat, wants, render)  # as all programs do it
    words = {n: f"{_WORD}{n:06d}" for n in places if chat.messages[n].content or chat.messages[n].parts}
    ways = [
        (_gathered(messages, count, chat), _gathered(_marked(messages, words), count, chat))
        for count in (_none, _leading, _all)
        for messages in _roles(chat, wants, render)
    ]
    lost: list[int] = []
    for messages, marked in ways:
        text = render(_settled(marked, chat, wants, render))
        if text is not None and not (lost := [n for n, word in words.items() if word not in text]):
            return _settled(messages, chat, wants, render)
    if not lost:  # it refuses each, in its own words
        return _settled(ways[0][0], chat, wants, render)
    where = f"{FIELD}.messages[{lost[0]}]"
    raise UnsupportedInputError(
        f"{where}: the model's chat template leaves out what {chat.messages[lost[0]].role!r} says there; let a user say"
        " it, or ask another model",
        field=where,
    )


def _read_all(given: Sequence[Message], wants: Wants, render: Try) -> Dicts:
    return [_read(message, f"{FIELD}.messages[{n}]", wants, render) for n, message in enumerate(given)]


def _roles(chat: ChatInput, wants: Wants, render: Try) -> list[Dicts]:
    """The messages with developers, where the template may know them, and with systems in place of these."""
    plain = [replace(each, role=SYSTEM) if each.role == DEVELOPER else each for each in chat.messages]
    given = [chat.messages] if wants.names_developers and list(chat.messages) != plain else []
    return [_read_all(messages, wants, render) for messages in (*given, plain)]


def _settled(messages: Dicts, chat: ChatInput, wants: Wants, render: Try) -> Dicts:
    """The messages, with what the template takes for the content of those that have none."""
    forms = [_forms(message, wants, render) for message in messages]
    if chat.continue_final_message:
        forms[-1] = []  # its content is gone on with
    tries = [
        [
            _put(message, some[min(n, len(some) - 1)]) if some else message
            for message, some in zip(messages, forms, strict=True)
        ]
        for n in range(max(1, *map(len, forms)))
    ]
    if len(tries) == 1:
        return tries[0]
    return next((messages for messages in tries if render(messages) is not None), tries[0])


def _none(_: Dicts) -> Dicts:
    return []


def _leading(messages: Dicts) -> Dicts:
    return list(takewhile(lambda message: message["role"] in INSTRUCT, messages))


def _all(messages: Dicts) -> Dicts:
    return [message for message in messages if message["role"] in INSTRUCT]


def _gathered(messages: Dicts, choose: Callable[[Dicts], Dicts], chat: ChatInput) -> Dicts:
    """The messages with some of them as one at the begin; as they are where images or an open end forbid that."""
    chosen = choose(messages)
    open_end = chat.continue_final_message and any(each is messages[-1] for each in chosen)
    if not chosen or open_end or any(_has_image(each["content"]) for each in chosen):
        return messages
    texts = [part["text"] for each in chosen for part in _as_parts(each["content"]) if part["text"]]
    whole = "\n\n".join(texts)
    content = _parts([whole]) if isinstance(chosen[0]["content"], list) else whole
    rest = [each for each in messages if not any(each is one for one in chosen)]
    return [chosen[0] | {"content": content}, *rest]


def _marked(messages: Dicts, words: Mapping[int, str]) -> Dicts:
    """The messages, some with other texts."""
    return [
        message | {"content": _said(message["content"], words[n])} if n in words else message
        for n, message in enumerate(messages)
    ]


def _said(content: Any, word: str) -> Any:
    if not isinstance(content, list):
        return word
    return [*(part for part in content if "text" not in part), *_parts([word])]


def _as_parts(content: Any) -> list[dict[str, str]]:
    return content if isinstance(content, list) else _parts([content])


def _has_image(content: Any) -> bool:
    return any("text" not in part for part in _as_parts(content))


def _forms(message: dict[str, Any], wants: Wants, render: Try) -> Dicts:
    """What may stand for the content of a message that has none, the best first; nothing for others."""
    calls, reasons = "tool_calls" in message, bool(message.get("reasoning_content"))
    if message["content"] not in ("", _parts([""])) or not (calls or reasons):
        return []
    return wants.absent(message["role"], calls=calls, reasons=reasons, render=render)


def _put(message: dict[str, Any], form: dict[str, Any]) -> dict[str, Any]:
    """The message with another content, or without, in the order in which it was."""
    return {name: form.get(name, said) for name, said in message.items() if name != "content" or form}


def read_tools(chat: ChatInput) -> list[Any] | None:
    """The tools; None for none.

    Raises:
        InvalidFieldError: They are no JSON array of objects.
    """
    return _read_array(chat.tools_json, f"{FIELD}.tools_json")


def read_variables(chat: ChatInput) -> dict[str, Any]:
    """What the template sees besides; its `documents` are None unless they are given."""
    given: dict[str, Any] = json.loads(chat.variables_json) if chat.variables_json else {}
    return {"documents": None} | given


def _read(message: Message, field: str, wants: Wants, render: Try) -> dict[str, Any]:
    """A message: what it does not have is not there."""
    calls = _read_array(message.tool_calls_json, f"{field}.tool_calls_json")
    rest = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "tool_calls": calls and [_decide(call, f"{field}.tool_calls_json", wants, render) for call in calls],
    }
    plain = {"role": message.role, "content": _content(message, field, wants, render)}
    plain |= {name: value for name, value in rest.items() if value}
    if message.reasoning_content is not None:  # some templates know it by its older name
        plain = {"thinking": message.reasoning_content} | plain | {"reasoning_content": message.reasoning_content}
    return plain


def _content(message: Message, field: str, wants: Wants, render: Try) -> str | list[dict[str, str]]:
    shows_text, shows_parts = wants.contents(message.role, render)
    if message.images:
        return _mixed(message, field, shows_parts=shows_parts)
    if message.parts:
        return _parts(list(message.parts)) if shows_parts else "\n".join(message.parts)
    return _parts([message.content]) if shows_parts and not shows_text else message.content


def _mixed(message: Message, field: str, *, shows_parts: bool) -> list[dict[str, str]]:
    """Texts, images and sounds, each in its place."""
    if not shows_parts:
        where = f"{field}.parts[{message.images[0]}]"
        raise UnsupportedInputError(
            f"{where} is {'a sound' if message.images[0] in message.sounds else 'an image'}, and the model's chat"
            f" template shows what {message.role!r} says as a text alone: leave it out, or ask a model that takes such",
            field=where,
        )
    parts = _parts(list(message.parts))
    for place in message.images:
        parts.insert(place, {"type": "audio" if place in message.sounds else "image"})
    return parts


def _decide(call: dict[str, Any], field: str, wants: Wants, render: Try) -> dict[str, Any]:
    """A call whose arguments are an object or JSON text, whichever the template can write."""
    function = call.get("function", call)
    given = function.get("arguments") if isinstance(function, dict) else None
    if not isinstance(given, str | dict):
        return call
    shows_text, shows_object = wants.arguments(render)
    settled: Any
    if isinstance(given, str) and shows_object and not shows_text:
        settled = _read_arguments(given, field)
    elif isinstance(given, dict) and shows_text and not shows_object:
        settled = json.dumps(given, ensure_ascii=False)
    else:
        return call
    changed = {**function, "arguments": settled}
    return {**call, "function": changed} if "function" in call else changed


def _read_arguments(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        message = f"{field} has arguments that are no JSON: {error}; the model's chat template wants an object"
        raise InvalidFieldError(message, field=field) from None
    if not isinstance(value, dict):
        raise InvalidFieldError(
            f"{field} has arguments that are a {type(value).__name__}; the model's chat template wants an object",
            field=field,
        )
    return value


def _read_array(text: str, field: str) -> list[Any] | None:
    """A JSON array of objects; None for no text."""
    if not text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(f"{field} is no JSON: {error}; send an array of objects", field=field) from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidFieldError(f"{field} is not an array of objects", field=field)
    return value
