"""Tensors of the Open Inference Protocol that are in memory which a client of this host shares with the kernel."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.errors import InvalidFieldError, LimitExceededError, PermissionDeniedError, words_of
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.named import Named
from inferd.services.secure import is_here
from inferd.shared import LEAST_BYTES, Memory, Part, aligned, can_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd.runtime.front.regions import Region, Regions
    from inferd.runtime.front.tasks import Tasks
    from inferd.services.calls import Call
    from inferd_api.inference import grpc_service_pb2 as gp

REGION, SIZE, OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
OFF: Final = (
    "system shared memory is not offered by this kernel: inferd.Settings.inference.shared_memory names none; send"
    " tensors in the request, or name an upload or a blob with inferd.v1.TaskService.RunTask"
)
MOST_AT_ONCE_BYTES: Final = 4 << 20
"""Read while all others wait; more is read in a thread."""


class Place(NamedTuple):
    """Bytes of a region.

    Attributes:
        region: Of which.
        start: Of the first one.
        size_bytes: How many.
        path: Of the tensor in the request.
    """

    region: Region
    start: int
    size_bytes: int
    path: str

    async def read(self) -> bytes:
        """They.

        Raises:
            InvalidFieldError: Their memory has been shortened.
        """
        if self.size_bytes > MOST_AT_ONCE_BYTES:
            return await asyncio.to_thread(self.region.read, self.start, self.size_bytes, self.path)
        return self.region.read(self.start, self.size_bytes, self.path)

    def write(self, data: bytes, name: str, into: gp.ModelInferResponse.InferOutputTensor) -> None:
        """Put an output there, and say so.

        Raises:
            InvalidFieldError: There is no room for it.
        """
        if len(data) > self.size_bytes:
            raise InvalidFieldError(
                f"shared memory size specified with the request for output '{name[:80]}' ({self.size_bytes} bytes)"
                f" should be at least {len(data)} bytes to hold the results",
                field=self.path,
            )
        self.region.write(self.start, data, self.path)
        into.parameters[REGION].string_param = self.region.name
        into.parameters[SIZE].int64_param = len(data)
        into.parameters[OFFSET].int64_param = self.start


class Reach:
    """What a call may use of shared memory.

    Args:
        regions: Of all.
        call: It.
        tasks: Bound what is held of requests.
        most_bytes: Of all inputs of a request, `limits.task_input_bytes`.
    """

    def __init__(self, regions: Regions, call: Call, tasks: Tasks, *, most_bytes: int) -> None:
        self._regions = regions
        self._call = call
        self._tasks = tasks
        self._most_bytes = most_bytes

    def check(self) -> str:
        """The tenant whose regions they are.

        Raises:
            NotOfferedError: There are none.
            PermissionDeniedError: The call comes from elsewhere.
        """
        if not self._regions.offered:
            raise NotOfferedError(OFF)
        if not is_here(self._call.peer()):
            raise PermissionDeniedError(
                "system shared memory is for callers of the kernel's own host, by a unix socket or the loopback; send"
                " tensors in the request"
            )
        return self._call.caller.tenant

    def place(self, given: Mapping[str, gp.InferParameter], path: str) -> Place | None:
        """Where a tensor is; None for one that is in the message.

        Raises:
            InferdError: There is no such region, or the tensor is not inside.
        """
        for name in given:
            if name in {REGION, SIZE, OFFSET}:
                break
        else:
            return None
        at = f"{path}.parameters"
        tenant = self.check()
        name, size, start = _text(given, REGION, at), _whole(given, SIZE, at), _whole(given, OFFSET, at, default=0)
        region = self._regions.find(tenant, name, at)
        region.check(start, size, at)
        return Place(region, start, size, path)

    async def read(self, places: Sequence[Place]) -> list[bytes]:
        """The elements of inputs.

        Raises:
            LimitExceededError: They are too many.
            InvalidFieldError: A memory has been shortened.
        """
        size_bytes = sum(each.size_bytes for each in places)
        if size_bytes > self._most_bytes:
            raise LimitExceededError(
                f"inputs have {size_bytes} bytes in shared memory and limits.task_input_bytes is {self._most_bytes}",
                metadata={
                    "bound": "limits.task_input_bytes",
                    "value": str(size_bytes),
                    "limit": str(self._most_bytes),
                },
                field="inputs",
            )
        with self._tasks.holding(self._call.caller.tenant, size_bytes):
            return [await each.read() for each in places]


def share(given: Mapping[int, bytes]) -> dict[int, Named]:
    """Elements of inputs, by their places, as tasks name them; none where they are few, and go with the message.

    Raises:
        LimitExceededError: The system has no memory.
    """
    if sum(map(len, given.values())) < LEAST_BYTES or not can_share():
        return {}
    try:
        memory = Memory.of(*given.values())
    except OSError as error:
        total = sum(map(len, given.values()))
        raise LimitExceededError(
            f"there is no memory for inputs of {total} bytes: {words_of(error)}", field="inputs"
        ) from None
    named, start = {}, 0
    for place, data in given.items():
        mark = hash(data).to_bytes(8, signed=True)  # whose key nobody outside of this process knows
        named[place] = Named(Part(memory, start, len(data)), mark)
        start = aligned(start + len(data))
    return named


def _text(given: Mapping[str, gp.InferParameter], name: str, path: str) -> str:
    kind = given[name].WhichOneof("parameter_choice") if name in given else None
    if kind != "string_param":
        raise InvalidFieldError(f"'{name}' of {path} is {kind or 'not given'}; it must be a string_param", field=path)
    return given[name].string_param


def _whole(given: Mapping[str, gp.InferParameter], name: str, path: str, default: int | None = None) -> int:
    kind = given[name].WhichOneof("parameter_choice") if name in given else None
    if kind is None and default is not None:
        return default
    if kind not in {"int64_param", "uint64_param"}:
        raise InvalidFieldError(f"'{name}' of {path} is {kind or 'not given'}; it must be a whole number", field=path)
    number: int = getattr(given[name], kind)
    if number < 0:
        raise InvalidFieldError(f"'{name}' of {path} is {number}; it must be 0 or more", field=path)
    return number
