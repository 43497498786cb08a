"""What a task is given, as the engine reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.plugin.backend import Pooling
    from inferd.plugin.pictures import PlacedPicture
    from inferd.plugin.session import Attribution


@dataclass(frozen=True, slots=True)
class TextInput:
    """Plain text, continued as it stands."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; with `parts` or `images` its content is empty."""

    role: str
    content: str
    name: str = ""
    tool_calls_json: str = ""
    tool_call_id: str = ""
    parts: tuple[str, ...] = ()
    reasoning_content: str | None = None
    images: tuple[int, ...] = ()  # places of images and sounds, ascending, where they are counted as parts
    sounds: tuple[int, ...] = ()  # of them, those that are sounds

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the client wrote."""
        rest = (self.name, self.tool_calls_json, self.tool_call_id, self.reasoning_content or "")
        return (self.content, *self.parts, *rest)


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation, oldest message first; the worker renders it with the model's template.

    Attributes:
        messages: What was said.
        tools_json: A JSON array; "" for none.
        variables_json: What the template sees besides, a JSON object; "" for none.
        add_generation_prompt: End with what begins an answer.
        continue_final_message: End with the content of the last message.
        parse_control_tokens: Take the texts of control tokens for control tokens, whoever says them.
        files: Of the images and sounds, in the order in which the messages have them.
    """

    messages: tuple[Message, ...]
    tools_json: str = ""
    variables_json: str = ""
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    parse_control_tokens: bool = False
    files: tuple[bytes, ...] = ()

    @property
    def fields_of_files(self) -> list[str]:
        """Where the client said each of them."""
        return [
            f"spec.chat.messages[{n}].parts[{place}]"
            for n, message in enumerate(self.messages)
            for place in message.images
        ]

    @property
    def sound_files(self) -> list[bool]:
        """Which of them are sounds."""
        return [place in message.sounds for message in self.messages for place in message.images]

    @property
    def texts(self) -> tuple[str, ...]:
        """All that the client wrote."""
        return (*(text for message in self.messages for text in message.texts), self.tools_json, self.variables_json)


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids of the model's vocabulary."""

    token_ids: Sequence[int]  # an array from the wire: 4 bytes each
    pictures: tuple[PlacedPicture, ...] = ()  # that stand in them


TaskInput = TextInput | ChatInput | TokenInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """An embedding is wanted instead of a text."""

    pooling: Pooling | None = None  # as the model's file says
    normalize: bool = True
    query: str = ""  # the first text of a pair, whose second one is the input


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributed:
    """It is wanted what tokens are worth for the last ones, instead of a text; as `AttributionPass` says it."""

    method: Attribution
    told: int
    places: Sequence[int] = ()
    baseline_id: int = 0
    at: float = 1.0
