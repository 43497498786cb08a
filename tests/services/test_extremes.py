"""Numbers and durations at both ends of what the wire can carry, for every field of every request."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from connection import Connection, memory, read_until
from google.api import field_behavior_pb2 as marks
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from wire_requests import WAYS, Maker, Way, call, marks_of, refusal_of

from inferd.config import Settings
from inferd.services.times import MOST_SECONDS, duration, timestamp
from inferd.testing.kernel import kernel_here, write_fake_model
from inferd_api.v1.host_service_pb2 import GetHostRequest
from inferd_api.v1.lease_service_pb2 import ListLeasesRequest
from inferd_api.v1.model_service_pb2 import ListModelsRequest
from inferd_api.v1.task_service_pb2 import ListTasksRequest

pytestmark = pytest.mark.usefixtures("_cpu_backend")

DEADLINE_S = 60.0
AT_ONCE = 16
TIMES = {"google.protobuf.Duration", "google.protobuf.Timestamp"}
LARGEST, NANO = 2**63 - 1, 1e-9

MALFORMED = [
    (LARGEST, 0),
    (-LARGEST - 1, 0),
    (MOST_SECONDS + 1, 0),
    (-MOST_SECONDS - 1, 0),
    (0, 1_000_000_000),
    (0, -1_000_000_000),
    (0, 2**31 - 1),
    (0, -(2**31)),
    (1, -1),
    (-1, 1),
    (MOST_SECONDS, 0),  # well-formed, and beyond every bound
    (-MOST_SECONDS, 0),
    (-1, 0),
    (0, -1),
]
BOUNDS = {  # in seconds, both ends included
    "RunTask output_interval": (0, 10),
    "WatchTask output_interval": (0, 10),
    "RunTasks orders.run.request.output_interval": (0, 10),
    "RunTasks orders.watch.request.output_interval": (0, 10),
    "RunTasks orders.run.timeout": (NANO, 3_153_600_000),
    "CreateTask ttl": (NANO, 3_153_600_000),
    "RunTasks orders.run.linger": (0, 60),
    "RunTasks orders.watch.linger": (0, 60),
    "WatchHost interval": (0.1, 60),
    "CreateLease spec.ttl": (1, 3600),
    "CreateLease spec.wait_timeout": (NANO, 604_800),
    "KeepAliveLeases ttl": (1, 3600),
    **{
        f"{way}.prompts.{name}": (NANO, 3600)
        for way in ("CreateModel model.probe", "UploadModel start.model.probe", "UpdateModel probe")
        for name in ("most_first_token", "most_time")
    },
    **{f"UpdateModel canary.{name}": (NANO, 3600) for name in ("most_first_token", "most_token")},
    "UpdateModel canary.steps.least_time": (NANO, 604_800),
}
OTHERS = {"inferd.v1.ChatMessage.name", "inferd.v1.RunOrder.lease_id"}  # another name, and a lease of a model
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), -1, 0, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), -1, 0, 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**31, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**63, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), -1, 99, 2**31 - 1),
}
FLOATS = (math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, -0.0)
GIVEN = [way for way in WAYS if marks.OUTPUT_ONLY not in marks_of(way.last)]
SPANS = [way for way in GIVEN if way.last.message_type is not None and way.last.message_type.full_name in TIMES]
DURATIONS = [way for way in SPANS if way.last.message_type.full_name == Duration.DESCRIPTOR.full_name]


def values_of(way: Way) -> list[Any]:
    """Extreme values of a field with a number; none for others."""
    field, kind = way.last, way.last.message_type
    if kind is not None and kind.GetOptions().map_entry:
        key, value = kind.fields_by_name["key"], kind.fields_by_name["value"]
        numbers = extremes(value)
        return [{at: number} for number in numbers for at in (0, 2**32 - 1)] if key.cpp_type in INTEGERS else []
    return [] if kind is not None else extremes(field)


def extremes(field: FieldDescriptor) -> list[Any]:
    if field.cpp_type in {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}:
        return list(FLOATS)
    return list(INTEGERS.get(field.cpp_type, ()))


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[Connection]:
    """A connection to a kernel whose model has room for 64 tokens."""
    async with kernel_here(tmp_path) as kernel:
        made = Connection(kernel, tmp_path)
        await made.create("fake", context_tokens=64, blocks=256)
        yield made
        await made.channel.close()


async def maker_of(connection: Connection) -> Maker:
    """Makes requests that name what there is."""
    (queued, *_) = await read_until(connection.endless(), "finished")
    lease = await connection.claim(memory(1))
    values: dict[str, Any] = {
        "inferd.v1.Model.source": str(write_fake_model(connection.folder, context_tokens=64, blocks=256)),
        "inferd.v1.ChatMessage.role": "user",
        "inferd.v1.TaskSpec.prompt": "la",
        "inferd.v1.LeaseSpec.wait": True,
        "inferd.v1.KeepAliveLeasesRequest.lease_ids": lease.lease_id,
    }
    named = {"model": "fake", "name": "fake", "task_id": queued.task_id, "lease_id": lease.lease_id}
    for way in WAYS:
        for field in way.fields:
            if field.name in named and field.full_name not in OTHERS:
                values.setdefault(field.full_name, named[field.name])
    return Maker(values)


async def outcome(connection: Connection, way: Way, request: Any) -> tuple[str, str, str]:
    """Code, reason and field of what a call ended with; a task is followed to its end."""
    try:
        if way.method.name == "RunTask":
            async for _ in connection.tasks.RunTask(request, timeout=DEADLINE_S):
                pass
            return "OK", "", ""
        answer = await call(connection, way, request, DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        code, reason, field = refusal_of(error)
        return code.name, reason, field
    for renewal in getattr(answer, "renewals", ()):
        if renewal.HasField("error"):
            return "INVALID_ARGUMENT" if renewal.error.code == 3 else str(renewal.error.code), "INVALID_FIELD", "ttl"
    return "OK", "", ""


async def check_lists(connection: Connection) -> None:
    """All that the kernel has can be read."""
    await connection.leases.ListLeases(ListLeasesRequest())
    await connection.tasks.ListTasks(ListTasksRequest())
    await connection.models.ListModels(ListModelsRequest())
    await connection.hosts.GetHost(GetHostRequest())


async def test_durations_that_are_none(connection: Connection) -> None:
    """A duration that is malformed, or beyond every bound, is INVALID_FIELD with its path, wherever it stands."""
    maker = await maker_of(connection)
    for way in SPANS:
        for seconds, nanos in MALFORMED:
            request = maker.make(way, way.last.message_type._concrete_class(seconds=seconds, nanos=nanos))
            told = await outcome(connection, way, request)
            assert told == ("INVALID_ARGUMENT", "INVALID_FIELD", way.path), f"{way} {seconds} s {nanos} ns: {told}"
    await check_lists(connection)


async def test_durations_at_their_bounds(connection: Connection) -> None:
    """Every duration has bounds: it is taken at both of them, and a nanosecond beyond is INVALID_FIELD."""
    maker = await maker_of(connection)
    assert {str(way) for way in DURATIONS} == set(BOUNDS)
    for way in DURATIONS:
        least, most = (round(bound * 1e9) for bound in BOUNDS[str(way)])
        for nanoseconds, good in ((least, True), (most, True), (least - 1, False), (most + 1, False)):
            span = Duration()
            span.FromNanoseconds(nanoseconds)
            told = await outcome(connection, way, maker.make(way, span))
            if told[1] in {"TASK_EXPIRED", "MODEL_EXISTS", "PROBE_FAILED"} or told[2] == "start.files":
                told = ("OK", "", "")  # it was taken, and what is behind it was looked at
            assert told == (("OK", "", "") if good else ("INVALID_ARGUMENT", "INVALID_FIELD", way.path)), (
                f"{way} {nanoseconds} ns"
            )
    await check_lists(connection)


async def test_numbers_at_their_ends(connection: Connection) -> None:
    """A number at an end of its type is taken, or refused by a typed error that is no defect; all stays readable."""
    maker = await maker_of(connection)
    tried = [(way, value) for way in GIVEN for value in values_of(way)]
    places = asyncio.Semaphore(AT_ONCE)
    refused = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "FAILED_PRECONDITION", "NOT_FOUND"}
    allowed = {"OK", "ALREADY_EXISTS", *refused}  # a model of that name exists, with another number

    async def check(way: Way, value: Any) -> str:
        async with places:
            code, reason, _ = await outcome(connection, way, maker.make(way, value))
        return "" if code in allowed else f"{way} = {value}: {code} {reason}"

    async with asyncio.timeout(DEADLINE_S):
        told = await asyncio.gather(*(check(way, value) for way, value in tried))
    assert [each for each in told if each] == []
    assert len(tried) > 100
    await check_lists(connection)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, -1e300, 1e18, -1e18, 0.0, -0.5, 1.5])
def test_whatever_is_told_is_a_time(connection: Connection, value: float) -> None:
    """What the kernel reckons, however far off, becomes a duration and a timestamp that every client can read."""
    span, instant = duration(value), timestamp(connection.kernel.driver.clock, value)
    assert span is not None
    assert instant is not None
    assert abs(span.seconds) <= MOST_SECONDS
    span.ToJsonString()
    instant.ToJsonString()
    assert duration(math.nan) is None


def test_no_bound_is_beyond_what_can_be_told() -> None:
    """Bounds of times in the configuration are far below the longest duration."""
    leases = Settings().leases
    assert max(leases.max_ttl_s, leases.max_wait_s) < MOST_SECONDS
