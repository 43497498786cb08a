"""Events of a task as chunks of a stream, and a task that has ended as one answer: chats and completions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from inferd.http.streams import comment, dumps, event
from inferd.http.tasks import REASONS
from inferd.http.thoughts import Thoughts
from inferd_api.v1.task_pb2 import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inferd_api.v1.task_pb2 import Output, Queued, Usage

PREFIX: Final = "FINISH_REASON_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What all chunks of an answer begin with.

    Attributes:
        id: Of the answer.
        kind: Its `object`.
        created: When, as a Unix time.
        model: Name of the model.
    """

    id: str
    kind: str
    created: int
    model: str

    @property
    def fields(self) -> dict[str, Any]:
        """They, as an answer has them."""
        return {"id": self.id, "object": self.kind, "created": self.created, "model": self.model}


class Reader(Protocol):
    """Reads what a model writes in one sample: parts it into what is said, thought and called."""

    def feed(self, text: str, token_ids: Sequence[int] = ()) -> Sequence[Mapping[str, Any]]:
        """The deltas that a piece of text completes, and the tokens that came with it."""

    def finish(self, *, cut: bool = False) -> Sequence[Mapping[str, Any]]:
        """Those that its end completes, where it was `cut` off, or the model ended it."""

    @property
    def called(self) -> bool:
        """Whether a tool was called."""

    @property
    def thoughts(self) -> Thoughts:
        """What was thought."""


class Plain:
    """Reads all as what is said."""

    called = False
    thoughts = Thoughts()  # none

    def feed(self, text: str, token_ids: Sequence[int] = ()) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002 - of all readers
        """The text itself."""
        return ({"content": text},) if text else ()

    def finish(self, *, cut: bool = False) -> Sequence[Mapping[str, Any]]:  # noqa: ARG002 - as above
        """Nothing is left."""
        return ()


class ChatChunks:
    """Writes the chunks of a chat.

    Args:
        head: Of the answer.
        reader: Makes the reader of a sample.
        usage: Whether usage is told in a chunk of its own.
    """

    def __init__(self, head: Head, reader: Callable[[], Reader], *, usage: bool) -> None:
        self._before = dumps(head.fields)[:-1] + ',"choices":['
        self._after = '],"usage":null}' if usage else "]}"
        self._reader = reader
        self._readers: dict[int, Reader] = {}
        self._open: set[int] = set()

    def output(self, output: Output, logprobs: Mapping[str, Any] | None) -> bytes:
        """What an output of the task is."""
        sample = output.sample
        if sample not in self._readers:
            self._readers[sample] = self._reader()
            self._open.add(sample)
            deltas = [{"role": "assistant", "content": ""}]
        else:
            deltas = []
        deltas += [dict(each) for each in self._readers[sample].feed(output.text, output.token_ids)]
        if len(deltas) > 1 and deltas[0].get("role"):
            deltas[:2] = [{**deltas[0], **deltas[1]}]
        if logprobs is not None and not deltas:
            deltas = [{}]
        told = dumps(logprobs) if logprobs is not None else "null"
        pieces = [self._choice(sample, dumps(each), told if not n else "null", "null") for n, each in enumerate(deltas)]
        if output.finish_reason:
            pieces.append(self._end(sample, output.finish_reason))
        return b"".join(pieces)

    @property
    def thoughts(self) -> list[Thoughts]:
        """What its samples have thought."""
        return [reader.thoughts for reader in self._readers.values()]

    def finished(self, reason: FinishReason.ValueType) -> bytes:
        """What the end of the task is."""
        if not self._readers:  # it has written nothing at all
            self._readers[0] = self._reader()
            self._open.add(0)
            begun = [self._choice(0, '{"role":"assistant","content":""}', "null", "null")]
        else:
            begun = []
        return b"".join(begun + [self._end(sample, reason) for sample in sorted(self._open)])

    def usage(self, told: Mapping[str, Any]) -> bytes:
        """The chunk that tells usage."""
        return event(f'{self._before}],"usage":{dumps(told)}}}')

    def queued(self, value: Mapping[str, Any]) -> bytes:
        """What is told of the queue to who asks for it as data."""
        return event(f'{self._before}],"queue":{dumps(value)}}}')

    def _end(self, sample: int, reason: FinishReason.ValueType) -> bytes:
        self._open.discard(sample)
        reader = self._readers[sample]
        cut = reason == FinishReason.FINISH_REASON_MAX_TOKENS
        pieces = [self._choice(sample, dumps(each), "null", "null") for each in reader.finish(cut=cut)]
        told = "tool_calls" if reader.called and not cut else reason_of(reason)
        return b"".join(pieces) + self._choice(sample, "{}", "null", f'"{told}"')

    def _choice(self, sample: int, delta: str, logprobs: str, reason: str) -> bytes:
        return event(
            f'{self._before}{{"index":{sample},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}'
            f"{self._after}"
        )


class TextChunks:
    """Writes the chunks of completions, of which one request may have several prompts.

    Args:
        head: Of the answer.
        usage: Whether usage is told in a chunk of its own.
        first: Number of the choice that the task's first sample is.
    """

    def __init__(self, head: Head, *, usage: bool, first: int = 0) -> None:
        self._before = dumps(head.fields)[:-1] + ',"choices":['
        self._after = '],"usage":null}' if usage else "]}"
        self._first = first
        self._open: set[int] = set()
        self.sent: dict[int, int] = {}
        """Characters of each sample so far."""

    def output(self, output: Output, logprobs: Mapping[str, Any] | None) -> bytes:
        """What an output of the task is."""
        sample = output.sample
        if not output.finish_reason:
            self._open.add(sample)
        self.sent[sample] = self.sent.get(sample, 0) + len(output.text)
        if not output.text and logprobs is None and not output.finish_reason:
            return b""
        self._open -= {sample} if output.finish_reason else set()
        told = f'"{reason_of(output.finish_reason)}"' if output.finish_reason else "null"
        return self._choice(sample, output.text, "null" if logprobs is None else dumps(logprobs), told)

    def finished(self, reason: FinishReason.ValueType) -> bytes:
        """What the end of the task is."""
        left = sorted(self._open) if self.sent else [0]
        return b"".join(self._choice(sample, "", "null", f'"{reason_of(reason)}"') for sample in left)

    def usage(self, told: Mapping[str, Any]) -> bytes:
        """The chunk that tells usage."""
        return event(f'{self._before}],"usage":{dumps(told)}}}')

    def queued(self, value: Mapping[str, Any]) -> bytes:
        """What is told of the queue to who asks for it as data."""
        return event(f'{self._before}],"queue":{dumps(value)}}}')

    def _choice(self, sample: int, text: str, logprobs: str, reason: str) -> bytes:
        index = self._first + sample
        return event(
            f'{self._before}{{"index":{index},"text":{dumps(text)},"logprobs":{logprobs},"finish_reason":{reason}}}'
            f"{self._after}"
        )


def reason_of(reason: FinishReason.ValueType) -> str:
    """Why an output ended, in OpenAI's words."""
    return REASONS.get(FinishReason.Name(reason).removeprefix(PREFIX), "stop")


def usage_of(usage: Usage, thought: int = 0) -> dict[str, Any]:
    """Tokens in and out, in OpenAI's words; so many of those out are thoughts."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def queue_of(queued: Queued) -> dict[str, Any]:
    """Where a task stands in its queue, as clients of other servers read it, and the estimate in seconds."""
    told: dict[str, Any] = {"status": "queued", "position": queued.position}
    if queued.HasField("eta"):
        told["eta_s"] = round(queued.eta.ToTimedelta().total_seconds(), 3)
    if queued.reason:
        told["reason"] = queued.reason
    return told


def queue_comment(queued: Queued) -> bytes:
    """The same as a comment of the stream."""
    return comment("queue_status", queue_of(queued))
