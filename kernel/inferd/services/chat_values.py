"""Conversations from the wire."""

import json
import re
from typing import Any

from google.protobuf.json_format import MessageToDict

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.services.image_values import read_image
from inferd_api.v1 import task_pb2 as pb
from inferd_api.worker.v1 import task_pb2 as work

MOST_VARIABLES = 64
VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
ROLE = re.compile(r"[\w .-]{1,64}")
TAKEN = frozenset(
    (
        *("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"),
        *("range", "dict", "lipsum", "cycler", "joiner", "namespace", "self", "loop", "caller"),
        *("varargs", "kwargs", "true", "false", "none", "True", "False", "None"),
    )
)
"""Names that a template has already, and those that its language has."""


def read_chat(chat: pb.ChatPrompt, *, at: str) -> work.Chat:
    """A conversation for a worker; `at` is what the paths of its fields begin with.

    Raises:
        InvalidFieldError: A field is missing, contradicts another, or has a value outside what it allows.
        UnsupportedInputError: A part is an image or a sound that is somewhere else.
    """
    if not chat.messages:
        raise InvalidFieldError(f"{at}.messages is empty; give one at least", field=f"{at}.messages")
    if chat.continue_final_message and chat.add_generation_prompt:
        field = f"{at}.add_generation_prompt"
        message = "add_generation_prompt begins an answer and continue_final_message goes on with one; set one of them"
        raise InvalidFieldError(message, field=field)
    asked = chat.add_generation_prompt if chat.HasField("add_generation_prompt") else not chat.continue_final_message
    files: list[bytes] = []
    messages = [_read_message(message, f"{at}.messages[{n}]", files) for n, message in enumerate(chat.messages)]
    return work.Chat(
        messages=messages,
        pictures=[work.Picture(data=file) for file in files],
        tools_json=chat.tools_json,
        variables_json=_read_variables(chat, f"{at}.template_variables"),
        no_generation_prompt=not asked,
        continue_final_message=chat.continue_final_message,
        parse_control_tokens=chat.parse_control_tokens,
    )


def _read_message(m: pb.ChatMessage, at: str, files: list[bytes]) -> work.Message:
    """A message; the files of its images and sounds go behind `files`."""
    if not m.role:
        raise InvalidFieldError(f'{at}.role is empty; for example "user"', field=f"{at}.role")
    if not ROLE.fullmatch(m.role):
        shown = m.role[:80]
        message = f"{at}.role is {shown!r}; it must be 1 to 64 of letters, digits, '_', '-', '.' and spaces"
        raise InvalidFieldError(message, field=f"{at}.role")
    if m.content and m.parts:
        raise InvalidFieldError(f"{at} has content and parts; set one of them", field=f"{at}.parts")
    says = m.content or m.parts or m.tool_calls_json or m.HasField("reasoning_content")
    if not says and not m.tool_call_id:  # the result of a tool may be nothing
        message = f"{at}.content is empty, and there are no parts and no tool calls; a message must say something"
        raise InvalidFieldError(message, field=f"{at}.content")
    kinds = [part.WhichOneof("kind") for part in m.parts]
    seen = [n for n, kind in enumerate(kinds) if kind in ("image", "audio")]
    files += [read_image(m.parts[n], f"{at}.parts[{n}]") for n in seen]
    return work.Message(
        role=m.role,
        content=m.content,
        name=m.name,
        tool_calls_json=m.tool_calls_json,
        tool_call_id=m.tool_call_id,
        parts=[_read_text(part, f"{at}.parts[{n}]") for n, part in enumerate(m.parts) if n not in seen],
        images=seen,
        sounds=[n for n in seen if kinds[n] == "audio"],
        reasoning_content=m.reasoning_content if m.HasField("reasoning_content") else None,
    )


def _read_text(part: pb.ContentPart, at: str) -> str:
    if part.WhichOneof("kind") is None:
        raise InvalidFieldError(f"{at} is empty; set its text, its image or its audio", field=at)
    return part.text


def _read_variables(chat: pb.ChatPrompt, at: str) -> str:
    """The variables as JSON; whole numbers without a fraction, which the wire does not tell from others."""
    fields = chat.template_variables.fields
    if len(fields) > MOST_VARIABLES:
        raise LimitExceededError(
            f"{at} has {len(fields)} names; at most {MOST_VARIABLES}",
            metadata={"bound": at, "value": str(len(fields)), "limit": str(MOST_VARIABLES)},
        )
    for name in fields:
        if not VARIABLE.fullmatch(name):
            shown = name[:80]
            message = f"{at} has a name {shown!r}; it must be a letter and then up to 63 letters, digits and '_'"
            raise InvalidFieldError(message, field=at)
        if name in TAKEN:
            message = f"{at} has a name {name!r}, which the chat template has already; choose another"
            raise InvalidFieldError(message, field=f"{at}.{name}")
    if not fields:
        return ""
    try:
        return json.dumps(_whole(MessageToDict(chat.template_variables)), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise InvalidFieldError(f"{at} cannot be read: {error}", field=at) from None


def _whole(value: Any) -> Any:
    match value:
        case dict():
            return {name: _whole(item) for name, item in value.items()}
        case list():
            return [_whole(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value
