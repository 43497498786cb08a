"""Lists and texts as long as a message can hold, in every field of every request; read from the descriptors."""

import asyncio
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from connection import Connection
from google.api import field_behavior_pb2 as marks
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from wire_requests import WAYS, Maker, Way, call, marks_of, refusal_of

from inferd.config import Limits
from inferd.core.host import MOST_BACKENDS, MOST_DEVICES, MOST_LABELS
from inferd.errors import InferdError
from inferd.services.chat_values import read_chat
from inferd.services.extents import Extents
from inferd.services.work_values import MESSAGE_BYTES, read_work
from inferd.testing.kernel import kernel_here
from inferd_api.agent.v1 import agent_pb2
from inferd_api.agent.v1.agent_service_pb2 import AttachOpening, AttachRequest
from inferd_api.v1 import task_pb2 as pb
from inferd_api.v1.task_service_pb2 import RunOrder, RunTaskRequest, RunTasksRequest, TaskOrder

LIMITS = Limits()
MESSAGE = 1 << 20  # bytes of the largest message where lists are sent: larger ones only take longer to make
ROOM_BYTES = MESSAGE - 4096
LARGE = 3_000_000
MOST_STEPS = 20_000  # of Python, for an answer to such a request; reading it takes hundreds of thousands
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED}
MAKER = Maker({"inferd.v1.ChatMessage.role": "user", "inferd.v1.LeaseSpec.wait": True})
GIVEN = [way for way in WAYS if not any(marks.OUTPUT_ONLY in marks_of(field) for field in way.fields)]
LISTS = [way for way in GIVEN if way.last.is_repeated]
FILES = ("image.data", "audio.data")  # may be as large as a message
TEXTS = [
    way
    for way in GIVEN
    if way.last.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES} and not way.path.endswith(FILES)
]


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel that takes messages of a MiB."""
    async with kernel_here(tmp_path, limits={"message_bytes": MESSAGE}) as kernel:
        made = Connection(kernel, tmp_path)
        yield made
        await made.channel.close()


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def fill(way: Way) -> Any:
    """A request whose list at the end of a way has as many entries as fit into a message."""
    request = MAKER.make(way)
    *before, last = way.fields
    holder = request
    for field in before:
        value = getattr(holder, field.name)
        holder = value[0] if field.is_repeated else value
    holder.ClearField(last.name)
    if is_map(last):
        number = last.message_type.fields_by_name["key"].type != FieldDescriptor.TYPE_STRING
        value = 1 if last.message_type.fields_by_name["value"].type != FieldDescriptor.TYPE_STRING else ""
        getattr(holder, last.name).update({n if number else f"{n:x}": value for n in range(ROOM_BYTES // 64)})
    elif last.message_type is None and last.type != FieldDescriptor.TYPE_STRING:
        getattr(holder, last.name).extend([1] * ROOM_BYTES)
    else:
        one = type(holder)()
        getattr(one, last.name).append("") if last.message_type is None else getattr(one, last.name).add()
        holder.MergeFromString(one.SerializeToString() * (ROOM_BYTES // one.ByteSize()))
    return request


class Answer(NamedTuple):
    """How a call was refused, and how many functions were called for that, in this process."""

    code: grpc.StatusCode
    field: str
    steps: int


async def ask(connection: Connection, way: Way, request: Any) -> Answer:
    """The answer to a request that is to be refused."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(connection, way, request, 60)
    finally:
        sys.setprofile(None)
    code, _, field = refusal_of(caught.value)
    return Answer(code, field, steps)


async def test_lists_are_refused_before_they_are_read(narrow: Connection) -> None:
    """A list as long as a message can hold, in any request, is refused by name, without a look at its entries."""
    await narrow.create()
    for way in LISTS:
        answer = await ask(narrow, way, fill(way))
        assert answer.code in REFUSED, f"{way}: {answer}"
        assert answer.field in {way.path, ""}, f"{way}: {answer}"  # of tokens the bound is told, and no field
        assert answer.steps < MOST_STEPS, f"{way}: {answer}"


async def test_texts_are_refused(connection: Connection) -> None:
    """A text of three million characters, in any field of any request, is refused by a typed error that is short."""
    await connection.create()
    for way in TEXTS:
        value = b"x" * LARGE if way.last.type == FieldDescriptor.TYPE_BYTES else "x" * LARGE
        answer = await ask(connection, way, MAKER.make(way, value))
        assert answer.code in REFUSED, f"{way}: {answer}"
        assert answer.steps < MOST_STEPS, f"{way}: {answer}"


async def test_others_go_on_between_the_orders_of_one_message(connection: Connection) -> None:
    """Orders that each keep to the bounds, as many as a message holds, stop the kernel for one of them at a time."""
    await connection.create(context_tokens=64)
    chat = chat_of(500)
    run = RunOrder(request=RunTaskRequest(spec=pb.TaskSpec(model="fake", chat=chat)))
    request = RunTasksRequest(orders=[TaskOrder(tag=tag, run=run) for tag in range(64)])
    ended: set[int] = set()
    steps, turns = 0, [0]

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    async def take_turns() -> None:
        while True:
            turns.append(steps)
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    sys.setprofile(count)
    try:
        async for response in connection.tasks.RunTasks(iter([request]), timeout=60):
            ended |= {
                each.tag for each in response.updates if each.HasField("error") or each.event.HasField("finished")
            }
    finally:
        sys.setprofile(None)
        other.cancel()
    gaps = [after - before for before, after in pairwise(turns)]
    assert len(ended) == 64
    assert steps > 64 * 500  # all of them were read, in this process
    assert max(gaps) < steps / 8


def deep(values: int) -> Value:
    """A value that holds so many others, half in lists of objects and half in objects of lists."""
    listed = ListValue(values=[Value(struct_value=Struct(fields={"a": Value(bool_value=True)}))] * (values // 2))
    return Value(struct_value=Struct(fields={"b": Value(list_value=listed)}))


def chat_of(messages: int = 1, parts: int = 0, **more: Any) -> pb.ChatPrompt:
    said = pb.ChatMessage(role="user", content="" if parts else "x", parts=[pb.ContentPart(text="")] * parts)
    return pb.ChatPrompt(messages=[said] * messages, **more)


CHATS = {
    "chat_messages": chat_of(LIMITS.chat_messages + 1),
    "chat_parts": chat_of(LIMITS.chat_parts // 1024 + 1, 1024),
    "chat_values": chat_of(template_variables=Struct(fields={"a": deep(LIMITS.chat_values)})),
}
LARGEST = (
    chat_of(LIMITS.chat_messages),
    chat_of(LIMITS.chat_parts // 1024, 1024),
    chat_of(template_variables=Struct(fields={"a": deep(LIMITS.chat_values - 2)})),
)


@pytest.mark.parametrize("bound", CHATS)
def test_conversations_have_bounds(bound: str) -> None:
    """Messages, the parts of all of them, and values at any depth are counted against the configuration, by name."""
    with pytest.raises(InferdError) as caught:
        Extents(LIMITS).check(RunTaskRequest(spec=pb.TaskSpec(model="x", chat=CHATS[bound])))
    assert (caught.value.reason, caught.value.metadata["bound"]) == ("LIMIT_EXCEEDED", f"limits.{bound}")
    assert int(caught.value.metadata["value"]) > int(caught.value.metadata["limit"]) == getattr(LIMITS, bound)
    assert caught.value.field.startswith("spec.chat.")


@pytest.mark.parametrize("chat", LARGEST, ids=CHATS)
def test_conversations_at_their_bounds_are_read(chat: pb.ChatPrompt) -> None:
    """A conversation that is as long as the configuration allows is taken, whole."""
    Extents(LIMITS).check(RunTaskRequest(spec=pb.TaskSpec(model="x", chat=chat)))
    read = read_chat(chat, at="spec.chat")
    assert len(read.messages) == len(chat.messages)
    assert sum(len(message.parts) for message in read.messages) == sum(len(each.parts) for each in chat.messages)
    _, demand = read_work(pb.TaskSpec(model="x", chat=chat), 1 << 40)
    assert demand.memory_bytes >= MESSAGE_BYTES * len(chat.messages)


@pytest.mark.parametrize(
    ("name", "labels", "backends", "devices"),
    [("", 0, 0, 0), ("labels", 1, 0, 0), ("backends", 0, 1, 0), ("backends[0].device_ids", 0, 0, 1)],
)
def test_a_host_may_tell_as_much_as_the_core_takes(name: str, labels: int, backends: int, devices: int) -> None:
    """Facts of a host have the bounds of the core, as of one with many parts of devices, and one more is refused."""
    names = [f"cuda:{n}" for n in range(MOST_DEVICES + devices)]
    facts = agent_pb2.HostFacts(
        labels={f"l{n}": "x" for n in range(MOST_LABELS + labels)},
        backends=[agent_pb2.BackendFacts(name=f"b{n}", device_ids=names) for n in range(MOST_BACKENDS + backends)],
    )
    request = AttachRequest(opening=AttachOpening(facts=facts))
    if not name:
        Extents(LIMITS).check(request)
        return
    with pytest.raises(InferdError) as caught:
        Extents(LIMITS).check(request)
    assert caught.value.field == f"opening.facts.{name}"
