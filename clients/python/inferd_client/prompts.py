"""What a model is given, in Python's words and for the wire."""

from __future__ import annotations

import json
import reprlib
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from inferd_api.v1.task_pb2 import AudioPart, ChatMessage, ChatPrompt, ContentPart, ImagePart, TaskSpec, TokenPrompt
from inferd_client.options import check_names
from inferd_client.values import TEXT, TOKENS, check_values, is_whole, with_texts

if TYPE_CHECKING:
    from inferd_api.v1.explanation_pb2 import ExplanationSpec
    from inferd_api.v1.model_service_pb2 import CountTokensRequest, TokenizeRequest
    from inferd_client.options import ChatOptions

Message: TypeAlias = ChatMessage | Mapping[str, Any]
"""A message of a conversation: `{"role": …, "content": …}`, where the content is a text or a list of parts.

It may have `name`, `tool_calls` (a list of objects, or `tool_calls_json`), `tool_call_id` and `reasoning_content`. A
part is `{"type": "text", "text": …}` or a text, or `{"type": "image", "image": …}` with the bytes of a file, its
`pathlib.Path` or a data URL; `{"type": "image_url", "image_url": {"url": …}}` is taken, too. A sound is
`{"type": "audio", "audio": …}`, likewise, or OpenAI's `input_audio`.
"""

Prompt: TypeAlias = str | Sequence[Message] | Sequence[int]
"""Plain text, a conversation (`{"role": …, "content": …}`, oldest message first), or token ids."""

_KEYS: Final = frozenset(
    {
        *("role", "content", "parts", "name", "tool_calls", "tool_calls_json"),
        *("tool_call_id", "reasoning_content"),
    }
)
_KEYS_OF_TEXT: Final = frozenset({"role", "name", "tool_calls_json", "tool_call_id", "reasoning_content"})
_BLANKS: Final = str.maketrans("", "", " \t\n\f\r")  # in base64 they say nothing: encoders break lines
_FORMS: Final = "a text, a sequence of at least one message, or one of at least one token id"
_TEXTS: Final = ("text", "input_text", "output_text")


@with_texts
def write_prompt(
    into: TaskSpec | TokenizeRequest | CountTokensRequest | ExplanationSpec,
    prompt: Prompt,
    options: ChatOptions | None = None,
) -> None:
    """Set the input of a message.

    Raises:
        ValueError: It is empty, mixes kinds, or is tokens for a message that takes texts only.
        TypeError: It is none of what a prompt can be, or a message has a key or a value that messages do not have.
    """
    if isinstance(prompt, str):
        into.prompt = prompt
        return
    items = _items(prompt)
    if items and all(isinstance(item, (ChatMessage, Mapping)) for item in items):
        messages = [_message(item, f"messages[{index}]") for index, item in enumerate(items)]
        into.chat.CopyFrom(_chat(messages, options or {}))
    elif isinstance(into, TaskSpec) and items and all(map(is_whole, items)):
        TOKENS.check("prompt", items)
        into.tokens.CopyFrom(TokenPrompt(token_ids=items))
    else:
        raise ValueError(f"prompt is {reprlib.repr(prompt)}; it must be {_FORMS}")


def _items(prompt: Any) -> list[Any]:
    """The members of a prompt that is no text.

    Raises:
        TypeError: It has none, or is a single message.
    """
    if isinstance(prompt, (ChatMessage, Mapping)):
        if isinstance(prompt, Mapping) and "role" not in prompt:
            raise TypeError("prompt is a mapping; inputs of a model of tensors are given to infer() or create_infer()")
        raise TypeError(f"prompt is a single message; it must be {_FORMS}: write [message]")
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
        raise TypeError(f"prompt is {reprlib.repr(prompt)} of type {type(prompt).__name__}; it must be {_FORMS}")
    return list(prompt)


def _chat(messages: Sequence[ChatMessage], options: ChatOptions) -> ChatPrompt:
    check_values(options)
    tools, variables = options.get("tools"), options.get("template_variables")
    return ChatPrompt(
        messages=messages,
        tools_json=_json(tools) if tools else options.get("tools_json", ""),
        template_variables=ParseDict(dict(variables), Struct()) if variables else None,
        add_generation_prompt=options.get("add_generation_prompt"),
        continue_final_message=options.get("continue_final_message", False),
        parse_control_tokens=options.get("parse_control_tokens", False),
    )


def _message(item: Message, path: str) -> ChatMessage:
    if isinstance(item, ChatMessage):
        return item
    check_names(item, _KEYS, "a message")
    for name in _KEYS_OF_TEXT & item.keys():
        if item[name] is not None:
            TEXT.check(f"{path}.{name}", item[name])
    content, calls = item.get("content"), item.get("tool_calls")
    parts = item.get("parts") or (() if content is None or isinstance(content, str) else content)
    if isinstance(parts, (str, bytes, Mapping)) or not isinstance(parts, Iterable):
        where = f"{path}.{'parts' if item.get('parts') else 'content'}"
        kind = type(parts).__name__
        raise TypeError(f"{where} is {reprlib.repr(parts)} of type {kind}; it must be a text or a list of parts")
    return ChatMessage(
        role=item.get("role") or "",
        content=content if isinstance(content, str) else "",
        parts=[_part(part) for part in parts],
        name=item.get("name") or "",
        tool_calls_json=_json(calls) if calls else item.get("tool_calls_json") or "",
        tool_call_id=item.get("tool_call_id") or "",
        reasoning_content=item.get("reasoning_content"),
    )


def _part(part: Any) -> ContentPart:
    """A part, also as it is written for the HTTP interfaces of others.

    Raises:
        ValueError: It is of a kind that the wire does not know.
    """
    if isinstance(part, ContentPart):
        return part
    if isinstance(part, str):
        return ContentPart(text=part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXTS and isinstance(part.get("text"), str):
        return ContentPart(text=part["text"])
    if kind in ("image", "image_url", "input_image"):
        source = part.get("image_url", part.get("url", part.get("image", "")))
        return ContentPart(image=ImagePart(**_file("an image", source)))
    if kind in ("audio", "input_audio"):
        return ContentPart(audio=AudioPart(**_file("a sound", _sound(part))))
    raise ValueError(
        f'a part of a message is a text, {{"type": "text", "text": …}}, {{"type": "image", "image": …}} or'
        f' {{"type": "audio", "audio": …}}, not of type {kind!r}'
    )


def _sound(part: Mapping[str, Any]) -> Any:
    """Where a sound is; OpenAI's form has base64 without a head."""
    given = part.get("input_audio", part.get("url", part.get("audio", "")))
    if isinstance(given, Mapping) and "data" in given:
        return f"data:audio/{given.get('format', 'wav')};base64,{given['data']}"
    return given


def _file(what: str, source: Any) -> dict[str, Any]:
    """The file of an image or a sound as `data`, or its `url`.

    Raises:
        TypeError: It is neither.
        OSError: A file cannot be read.
    """
    source = source.get("url", "") if isinstance(source, Mapping) else source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return {"data": bytes(source)}
    if isinstance(source, PathLike):
        return {"data": Path(source).read_bytes()}
    if not isinstance(source, str):
        kind = type(source).__name__
        raise TypeError(f"{what} is the bytes of its file, a Path or a data URL, not {reprlib.repr(source)} of {kind}")
    head, _, body = source.partition(",")
    if head[:5].lower() == "data:" and head.lower().endswith(";base64"):
        with suppress(ValueError):  # the kernel says what is wrong
            return {"data": b64decode(body.translate(_BLANKS), validate=True)}
    return {"url": source}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
