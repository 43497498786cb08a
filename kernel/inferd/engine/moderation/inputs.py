"""What a task is given, as texts that rules look at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.engine.work import ChatInput, TextInput
from inferd.moderation.turning import shown, tagged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.token.intake import Intake
    from inferd.engine.work import Embedding, TaskInput

BETWEEN = "\n"
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})  # which say nothing


def texts_of(task_input: TaskInput, embedding: Embedding | None, intake: Intake) -> Iterator[str]:
    """All that a client says, each thing by itself: prompt, messages, names, calls, tools and variables.

    What is shown in another order than it is read in is there both ways, and what is said in characters that show
    nothing, apart.

    Raises:
        InvalidFieldError: Token ids outside the vocabulary.
    """
    for text in _given(task_input, embedding, intake):
        yield text
        if not text.isascii():
            yield from filter(None, (tagged(text), turned if (turned := shown(text)) != text else ""))


def _given(task_input: TaskInput, embedding: Embedding | None, intake: Intake) -> Iterator[str]:
    if embedding is not None and embedding.query:
        yield embedding.query
    match task_input:
        case TextInput(prompt):
            yield prompt
        case ChatInput():
            yield from _said(task_input)
        case _:
            yield intake.detokenize(task_input.token_ids)


def end_of(task_input: TaskInput, intake: Intake, *, most_chars: int) -> str:
    """The end of what an output goes on behind, without anything between; "" where something is."""
    match task_input:
        case TextInput(prompt):
            return prompt[-most_chars:]
        case ChatInput():
            if not task_input.continue_final_message or not task_input.messages:
                return ""
            last = task_input.messages[-1]
            return (last.content or "".join(last.parts))[-most_chars:]
        case _:
            return intake.detokenize(task_input.token_ids[-most_chars:])[-most_chars:]


def _said(chat: ChatInput) -> Iterator[str]:
    for message in chat.messages:
        yield from filter(
            None,
            ("" if message.role in ROLES else message.role, message.content, message.name, message.reasoning_content),
        )
        yield from filter(None, (message.tool_call_id, *_written(message.tool_calls_json)))
        if message.parts:
            yield "".join(message.parts)
            if len(message.parts) > 1:
                yield BETWEEN.join(message.parts)
    yield from filter(None, (*_written(chat.tools_json), *_written(chat.variables_json)))


def _written(given: str) -> Iterator[str]:
    """JSON as it is, and where it has escapes what its keys and strings say."""
    yield given
    if "\\" not in given:
        return
    try:
        left = [json.loads(given, object_pairs_hook=list)]  # of two equal keys both
    except (ValueError, RecursionError):
        return  # whoever reads it refuses it
    said = []
    while left:
        each = left.pop()
        if isinstance(each, str):
            said.append(each)
        elif isinstance(each, list | tuple):
            left.extend(reversed(each))
    yield BETWEEN.join(said)
