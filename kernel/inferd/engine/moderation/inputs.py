"""What a task is given, as texts that rules look at."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from inferd.engine.work import ChatInput, TextInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.token.intake import Intake
    from inferd.engine.work import Embedding, TaskInput

BETWEEN = "\n"
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})  # which say nothing


def texts_of(task_input: TaskInput, embedding: Embedding | None, intake: Intake) -> Iterator[str]:
    """All that a client says, each thing by itself: prompt, messages, names, calls, tools and variables.

    Raises:
        InvalidFieldError: Token ids outside the vocabulary.
    """
    if embedding is not None and embedding.query:
        yield embedding.query
    match task_input:
        case TextInput(prompt):
            yield prompt
        case ChatInput():
            yield from _said(task_input)
        case _:
            yield intake.detokenize(task_input.token_ids)


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
