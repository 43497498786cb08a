"""What a response is made of: messages, thoughts and calls of functions, each with the events that tell it. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

Event = tuple[str, dict[str, Any]]
"""The name of an event of a stream, and what it says."""


class Item(ABC):
    """One of them, as it grows.

    Args:
        item_id: Its id.
        index: Its place in the response.

    Attributes:
        text: Of it so far.
        delta: The event by which text is added.
    """

    kind = ""
    delta = ""

    def __init__(self, item_id: str, index: int) -> None:
        self.item_id = item_id
        self.index = index
        self.text = ""

    @property
    def place(self) -> dict[str, Any]:
        """Where its text stands."""
        return {"item_id": self.item_id, "output_index": self.index, "content_index": 0}

    def begun(self) -> list[Event]:
        """The events that it begins with."""
        return [("response.output_item.added", {"output_index": self.index, "item": self.empty()})]

    def empty(self) -> dict[str, Any]:
        """It, before anything was added."""
        return {**self.object("in_progress"), "content": []}

    def done(self, status: str) -> list[Event]:
        """The events that it ends with."""
        return [("response.output_item.done", {"output_index": self.index, "item": self.object(status)})]

    @abstractmethod
    def object(self, status: str) -> dict[str, Any]:
        """It, as it stands."""


class MessageItem(Item):
    """What is said."""

    kind = "content"
    delta = "response.output_text.delta"

    def __init__(self, item_id: str, index: int) -> None:
        super().__init__(item_id, index)
        self.logprobs: list[Any] = []

    def begun(self) -> list[Event]:
        """As of `Item`."""
        return [*super().begun(), ("response.content_part.added", {**self.place, "part": self._part("")})]

    def done(self, status: str) -> list[Event]:
        """As of `Item`."""
        said = {**self.place, "text": self.text, "logprobs": self.logprobs}
        part = {**self.place, "part": self._part(self.text)}
        return [("response.output_text.done", said), ("response.content_part.done", part), *super().done(status)]

    def object(self, status: str) -> dict[str, Any]:
        """As of `Item`."""
        parts = [self._part(self.text)]
        return {"type": "message", "id": self.item_id, "status": status, "role": "assistant", "content": parts}

    def _part(self, text: str) -> dict[str, Any]:
        logprobs = self.logprobs if text else []
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


class ThoughtItem(Item):
    """What is thought."""

    kind = "reasoning_content"
    delta = "response.reasoning_text.delta"

    def done(self, status: str) -> list[Event]:
        """As of `Item`."""
        return [("response.reasoning_text.done", {**self.place, "text": self.text}), *super().done(status)]

    def object(self, status: str) -> dict[str, Any]:
        """As of `Item`."""
        parts = [{"type": "reasoning_text", "text": self.text}]
        return {"type": "reasoning", "id": self.item_id, "status": status, "summary": [], "content": parts}


class CallItem(Item):
    """A call of a function.

    Args:
        item_id: As of `Item`.
        index: As of `Item`.
        call: It, as chats have it.
    """

    kind = "tool_calls"
    delta = "response.function_call_arguments.delta"

    def __init__(self, item_id: str, index: int, call: Mapping[str, Any]) -> None:
        super().__init__(item_id, index)
        self.call_id: str = call["id"]
        self.name: str = call["function"]["name"]

    @property
    def place(self) -> dict[str, Any]:
        """As of `Item`."""
        return {"item_id": self.item_id, "output_index": self.index}

    def empty(self) -> dict[str, Any]:
        """As of `Item`."""
        return self.object("in_progress")

    def done(self, status: str) -> list[Event]:
        """As of `Item`."""
        said = {**self.place, "name": self.name, "arguments": self.text}
        return [("response.function_call_arguments.done", said), *super().done(status)]

    def object(self, status: str) -> dict[str, Any]:
        """As of `Item`."""
        about = {"call_id": self.call_id, "name": self.name, "arguments": self.text}
        return {"type": "function_call", "id": self.item_id, "status": status, **about}
