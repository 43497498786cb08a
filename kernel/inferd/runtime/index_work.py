"""What indexes have models and functions do: work that workers open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final

from inferd.core.demand import Demand
from inferd.core.function import FUNCTION
from inferd.core.ids import NO_LEASE, ModelName, TaskId
from inferd.core.priority import Priority
from inferd.core.task import INDEX_LABEL, TaskSpec
from inferd.runtime.shared_work import SharedWork
from inferd.sampling import choose_text
from inferd_api.worker.v1 import task_pb2 as wp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.runtime.front.caller import Caller
    from inferd.shared import Part

BYTES_PER_TOKEN: Final = 4
MESSAGE_BYTES: Final = 512  # of memory, that work takes besides what it is given
TASK_ID_BYTES: Final = 16

Conversation = tuple[tuple[str, str], ...]
"""Who says what."""


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom tasks of an index are made, and how they run; `label` says of what else, where it is of none."""

    caller: Caller
    index: str
    priority: Priority = Priority.LOW
    label: str = INDEX_LABEL


def calling_task(asker: Asker, function: str, given: Mapping[str, Any], data: Sequence[Part]) -> TaskSpec:
    """Call a function, with data in memories beside its input."""
    written = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
    work = wp.Work(call=wp.Call(name=function, input=written))
    for number, part in enumerate(data):
        work.shared.add(tensor=number, memory=number, start=part.start, size_bytes=part.size_bytes)
    shared = SharedWork(work, tuple(part.memory for part in data)) if data else work
    return _task(asker, FUNCTION + function, shared, more_bytes=len(written.encode()), operation="call")


def embedding_task(asker: Asker, model: str, text: str) -> TaskSpec:
    """Make a vector of length 1 of a text."""
    work = wp.Work(embed=wp.Embed(normalize=True))
    work.input.prompt = text
    size = len(text.encode())
    return _task(
        asker,
        model,
        work,
        prompt_tokens=size // BYTES_PER_TOKEN,
        more_bytes=size,
        operation="embeddings",
    )


def conversation(said: Conversation) -> wp.Input:
    """What is to become tokens."""
    written = wp.Input()
    for role, content in said:
        written.chat.messages.add(role=role, content=content)
    return written


def answering_task(
    asker: Asker,
    model: str,
    said: Conversation,
    schema: str,
    *,
    prompt_tokens: int,
    most_tokens: int,
) -> TaskSpec:
    """Write JSON that a schema allows, the likeliest token always."""
    work = wp.Work(prefix_cache=True)
    work.input.CopyFrom(conversation(said))
    choose_text(work.generate.sampling, schema=schema, most_tokens=most_tokens)
    return _task(
        asker,
        model,
        work,
        prompt_tokens=prompt_tokens,
        most_output=most_tokens,
        more_bytes=work.ByteSize(),
        operation="chat",
    )


def _task(
    asker: Asker,
    model: str,
    work: SharedWork | wp.Work,
    *,
    prompt_tokens: int = 0,
    most_output: int = 1,
    more_bytes: int = 0,
    operation: str,
) -> TaskSpec:
    return TaskSpec(
        task_id=TaskId(token_hex(TASK_ID_BYTES)),
        tenant=asker.caller.tenant,
        model=ModelName(model),
        demand=Demand(prompt_tokens=prompt_tokens, most_output=most_output, memory_bytes=MESSAGE_BYTES + more_bytes),
        work=work,
        priority=asker.priority,
        lease_id=asker.caller.lease_id if operation == "chat" else NO_LEASE,
        deadline=asker.caller.deadline,
        labels={asker.label: asker.index},
        operation=operation,
    )
