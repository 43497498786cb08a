"""Messages of a conversation, from how others write them to how `inferd_client` takes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from inferd.http.fields import MOST_SHOWN, checked, shown
from inferd.http.problems import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXTS: Final = ("text", "input_text", "output_text", "refusal")
SOUND: Final = re.compile(r"[A-Za-z0-9]{1,16}")
IMAGES: Final = ("image_url", "input_image", "image")
KNOWN: Final = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "refusal"}
)
PASSED: Final = frozenset({"audio", "function_call", "annotations", "id", "status", "type", "cache_control"})
"""What answers of other servers have and clients send back, which says nothing; and where a cache is to end."""


def read_messages(messages: Any, path: str = "messages") -> list[dict[str, Any]]:
    """The messages of a request.

    Raises:
        Refusal: One is not as it must be; it names which.
    """
    checked(path, messages, list, "a list of messages, oldest first")
    if not messages:
        raise Refusal(f"{path} is empty; it must have at least one message", param=path)
    return [_message(each, f"{path}[{index}]") for index, each in enumerate(messages)]


def _message(message: Any, path: str) -> dict[str, Any]:
    checked(path, message, dict, 'an object, as {"role": "user", "content": "…"}')
    for name, value in message.items():
        if name not in KNOWN and not (name in PASSED and not (name == "function_call" and value)):
            where = f"{path}.{name[:MOST_SHOWN]}"
            raise Refusal(f"{where} is not known; leave it out", code="UNKNOWN_FIELD", param=where)
    role = message.get("role")
    checked(f"{path}.role", role, str, "the role of who speaks, as user")
    read: dict[str, Any] = {"role": role, "content": _content(message, path)}
    for name in ("name", "tool_call_id"):
        if (value := message.get(name)) is not None:
            read[name] = checked(f"{path}.{name}", value, str, "a text")
    reasoning = message.get("reasoning_content", message.get("reasoning"))
    if reasoning is not None:
        read["reasoning_content"] = checked(f"{path}.reasoning_content", reasoning, str, "a text")
    if calls := message.get("tool_calls"):
        read["tool_calls"] = _calls(calls, f"{path}.tool_calls")
    return read


def _calls(calls: Any, path: str) -> list[dict[str, Any]]:
    checked(path, calls, list, "a list of calls")
    read = []
    for index, call in enumerate(calls):
        here = f"{path}[{index}]"
        checked(here, call, dict, "an object with a function")
        function = call.get("function")
        checked(f"{here}.function", function, dict, "an object with name and arguments")
        checked(f"{here}.function.name", function.get("name"), str, "the name of a function")
        kept = {name: call[name] for name in ("id", "type") if call.get(name) is not None}
        read.append({"type": "function", **kept, "function": function})
    return read


def _content(message: Mapping[str, Any], path: str) -> Any:
    content = message.get("content")
    if content is None:
        return message.get("refusal") or ""
    if isinstance(content, str):
        return content
    checked(f"{path}.content", content, list, "a text or a list of parts")
    return [_part(part, f"{path}.content[{index}]") for index, part in enumerate(content)]


def _part(part: Any, path: str) -> dict[str, Any]:
    checked(path, part, (dict, str), 'a part, as {"type": "text", "text": "…"}')
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type")
    if kind in TEXTS:
        text = part.get("text", part.get("refusal"))
        return {"type": "text", "text": checked(f"{path}.text", text, str, "a text")}
    if kind in IMAGES:
        source = part.get("image_url", part.get("url", part.get("image")))
        url = source.get("url") if isinstance(source, dict) else source
        return {"type": "image_url", "image_url": checked(f"{path}.image_url", url, str, "a URL of https or data")}
    if kind == "input_audio":
        given = checked(f"{path}.input_audio", part.get("input_audio"), dict, "an object with data and format")
        form = checked(f"{path}.input_audio.format", given.get("format"), str, "wav or mp3, or another of sounds")
        if not SOUND.fullmatch(form):
            raise Refusal(f"{path}.input_audio.format is {shown(form)}; it must be a word, as wav", param=path)
        data = checked(f"{path}.input_audio.data", given.get("data"), str, "the file in base64")
        return {"type": "audio", "audio": f"data:audio/{form};base64,{data}"}
    raise Refusal(
        f"{path}.type is {shown(kind)}; parts of messages are text, image_url and input_audio: give the text of files"
        " as text",
        code="UNSUPPORTED_INPUT",
        param=f"{path}.type",
    )
