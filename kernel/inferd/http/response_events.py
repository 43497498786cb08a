"""A task as a response: its object, and the events of its stream, which can be taken up at any of them. Pure.

The number of an event is where it stands in all that the response says: a delta is as many numbers as it has
characters, any other event is one. So the numbers are the same however the kernel merges what it tells, and a stream
that is taken up behind one of them says each character once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from inferd.http.chunks import Plain
from inferd.http.problems import Problem, problem_of
from inferd.http.response_items import CallItem, Item, MessageItem, ThoughtItem
from inferd.http.streams import dumps
from inferd_api.v1.task_pb2 import FinishReason, TaskState
from inferd_client.errors import from_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.rpc.status_pb2 import Status

    from inferd.http.chunks import Reader
    from inferd_api.v1.task_pb2 import Finished, TaskEvent, Usage

STATES: Final[Mapping[int, str]] = {
    TaskState.TASK_STATE_QUEUED: "queued",
    TaskState.TASK_STATE_RUNNING: "in_progress",
    TaskState.TASK_STATE_SUSPENDED: "in_progress",
    TaskState.TASK_STATE_SUCCEEDED: "completed",
    TaskState.TASK_STATE_FAILED: "failed",
    TaskState.TASK_STATE_CANCELLED: "cancelled",
    TaskState.TASK_STATE_EXPIRED: "failed",
}
KINDS: Final[Mapping[str, type[Item]]] = {each.kind: each for each in (MessageItem, ThoughtItem, CallItem)}
"""Items by the name that a delta of a chat has for them."""
NAMES: Final[Mapping[Any, str]] = {MessageItem: "msg", ThoughtItem: "rs"}
"""What their ids begin with."""
ENDS: Final[Mapping[str, str]] = {"completed": "completed", "incomplete": "incomplete"}
"""The event that ends a stream, by the response's status; "failed" for others."""


class Response:
    """A response as it grows.

    Args:
        response_id: Its id.
        created: When, as a Unix time.
        shown: What it repeats of its request.
        after: Events up to this number have been told before; -1 for none.

    Attributes:
        reader: Of what the model writes; to be set before its first output.
        thought: Tokens of thoughts; to be set before its end.
        ended: Whether it has ended.
    """

    def __init__(self, response_id: str, created: int, shown: Mapping[str, Any], *, after: int = -1) -> None:
        self.reader: Reader = Plain()
        self.thought = 0
        self.ended = False
        self._id = response_id
        self._created = created
        self._shown = shown
        self._after = after
        self._number = -1
        self._items: list[Item] = []
        self._status = "queued"
        self._error: dict[str, Any] | None = None
        self._usage: dict[str, Any] | None = None
        self._unparsed = ""

    def begin(self) -> bytes:
        """The events that all streams begin with."""
        created = self._event("response.created", {"response": self.object()})
        self._status = "in_progress"
        return created + self._event("response.in_progress", {"response": self.object()})

    def take(self, event: TaskEvent, logprobs: list[Any] | None = None) -> bytes:
        """What an event of the task is, as events of the stream."""
        if event.HasField("output"):
            said = b"" if self._items or not isinstance(self.reader, Plain) else self._open(MessageItem)
            return said + self._told(self.reader.feed(event.output.text, event.output.token_ids), logprobs or [])
        if event.HasField("finished"):
            return self._end(event.finished)
        return b""

    def message(self) -> dict[str, Any]:
        """It as a message of a conversation."""
        texts = {kind: "".join(each.text for each in self._items if each.kind == kind) for kind in KINDS}
        message: dict[str, Any] = {"role": "assistant", "content": texts["content"]}
        calls = [each for each in self._items if isinstance(each, CallItem)]
        if texts["reasoning_content"] and calls:
            message["reasoning_content"] = texts["reasoning_content"]
        if calls:
            message["tool_calls"] = [
                {"id": each.call_id, "type": "function", "function": {"name": each.name, "arguments": each.text}}
                for each in calls
            ]
        return message

    def object(self) -> dict[str, Any]:
        """It, as it stands."""
        incomplete = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self._status,
            "error": self._error,
            "incomplete_details": incomplete,
            "output": [each.object(self._item_status(each)) for each in self._items] if self.ended else [],
            "usage": self._usage,
            **({"unparsed": self._unparsed} if self._unparsed else {}),
            **self._shown,
        }

    def stand(self, state: TaskState.ValueType) -> None:
        """Its task stands so, and has not ended."""
        self._status = STATES.get(state, "in_progress")

    def _told(self, deltas: Sequence[Mapping[str, Any]], logprobs: list[Any]) -> bytes:
        if not deltas and logprobs and self._items and isinstance(self._items[-1], MessageItem):
            self._items[-1].logprobs += logprobs
        pieces = []
        for delta in deltas:
            self._unparsed += delta.get("unparsed", "")
            for kind in delta.keys() & KINDS.keys():
                if kind == "tool_calls":
                    pieces += [self._called(call) for call in delta[kind]]
                else:
                    pieces.append(self._say(KINDS[kind], delta[kind], logprobs))
                    logprobs = []
        return b"".join(pieces)

    def _called(self, call: Mapping[str, Any]) -> bytes:
        """A call that is whole."""
        return self._open(partial(CallItem, call=call)) + self._say(CallItem, call["function"]["arguments"], [])

    def _say(self, kind: type[Item], text: str, logprobs: list[Any]) -> bytes:
        begun = b"" if self._items and isinstance(self._items[-1], kind) else self._open(kind)
        item = self._items[-1]
        before = self._number
        item.text += text
        self._number += len(text)
        more = {}
        if isinstance(item, MessageItem):
            item.logprobs += logprobs
            more = {"logprobs": logprobs}
        if self._number <= self._after:
            return begun
        told = text[max(0, self._after - before) :]
        return begun + self._write(item.delta, {**item.place, "delta": told, **more})

    def _open(self, make: Callable[[str, int], Item]) -> bytes:
        """Begin a further item."""
        closed = self._events(self._items[-1].done("completed")) if self._items else b""
        index = len(self._items)
        name = NAMES.get(make, "fc")
        item_id = self._id.replace("resp_", f"{name}_", 1) + (f"_{index}" if index else "")
        self._items.append(make(item_id, index))
        return closed + self._events(self._items[-1].begun())

    def _end(self, finished: Finished) -> bytes:
        cut = finished.reason == FinishReason.FINISH_REASON_MAX_TOKENS
        said = self._told(self.reader.finish(cut=cut), [])
        self.ended = True
        self._usage = usage_of(finished.usage, self.thought)
        if finished.state == TaskState.TASK_STATE_SUCCEEDED:
            self._status = "incomplete" if cut else "completed"
        else:
            self._status = STATES.get(finished.state, "failed")
            problem = _problem(finished.error)
            self._error = {"code": problem.code, "message": problem.message}
        said += b"" if self._items else self._open(MessageItem)
        last = self._items[-1]
        said += self._events(last.done(self._item_status(last)))
        self._number += 1  # told to who has come behind it, too: that it has ended
        return said + self._write(f"response.{ENDS.get(self._status, 'failed')}", {"response": self.object()})

    def _item_status(self, item: Item) -> str:
        whole = self._status == "completed" or item is not self._items[-1] or isinstance(item, CallItem)
        return "completed" if whole else "incomplete"

    def _events(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> bytes:
        return b"".join(self._event(*event) for event in events)

    def _event(self, name: str, value: Mapping[str, Any]) -> bytes:
        self._number += 1
        return b"" if self._number <= self._after else self._write(name, value)

    def _write(self, name: str, value: Mapping[str, Any]) -> bytes:
        told = dumps({"type": name, "sequence_number": self._number, **value})
        return f"event: {name}\ndata: {told}\n\n".encode()


def usage_of(usage: Usage, thought: int) -> dict[str, Any]:
    """Tokens in and out, in the words of responses; so many of those out are thoughts."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


def _problem(status: Status) -> Problem:
    problem = problem_of(from_status(status))
    if problem is None:
        raise TypeError("errors of the kernel are told")
    return problem
