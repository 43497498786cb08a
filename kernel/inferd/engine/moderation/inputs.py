"""What a task is given, as texts that rules look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.engine.work import ChatInput, TextInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inferd.engine.token.intake import Intake
    from inferd.engine.work import Embedding, TaskInput

BETWEEN = "\n"


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
        yield from filter(None, (message.content, message.name, message.tool_calls_json, message.reasoning_content))
        if message.parts:
            yield "".join(message.parts)
            if len(message.parts) > 1:
                yield BETWEEN.join(message.parts)
    yield from filter(None, (chat.tools_json, chat.variables_json))
