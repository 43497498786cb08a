"""What requests must have, as the wire API says it of each field; read from its descriptors."""

import grpc
import pytest
from connection import Connection
from google.api import field_behavior_pb2 as marks
from wire_requests import WAYS, Maker, Way, call, in_oneof, marks_of, refusal_of

EXCLUSIVE = {marks.REQUIRED, marks.OPTIONAL, marks.OUTPUT_ONLY}
MAKER = Maker({"inferd.v1.ModelFile.digest": f"sha256:{'0' * 64}"})
REQUIRED = [way for way in WAYS if marks.REQUIRED in marks_of(way.last)]


def test_each_field_says_what_it_is() -> None:
    """Each field of a request, at any depth, is marked required, optional or output only; of several, none is."""
    unmarked = {
        way.last.full_name
        for way in WAYS
        if len(EXCLUSIVE.intersection(marks_of(way.last))) != 1 and not in_oneof(way.last)
    }
    assert unmarked == set()
    assert {way.method.containing_service.name for way in REQUIRED} == {
        "HostService",
        "LeaseService",
        "ModelService",
        "TaskService",
    }


async def test_what_is_missing_is_named(connection: Connection) -> None:
    """A request without a field that it must have is INVALID_ARGUMENT, and names the field by its path."""
    told = {str(way): await refusal(connection, way) for way in REQUIRED}
    assert told == {str(way): (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", way.path) for way in REQUIRED}


async def refusal(connection: Connection, way: Way) -> tuple[grpc.StatusCode, str, str]:
    """The error of a call without a field."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(connection, way, MAKER.make(way))
    return refusal_of(caught.value)
