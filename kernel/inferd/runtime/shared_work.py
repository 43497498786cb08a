"""Work of which large parts are in memories that go to its worker beside the frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inferd.runtime.blob_memories import BlobPart
from inferd.shared import LEAST_BYTES, Memory, aligned, can_share
from inferd_api.worker.v1 import task_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from inferd.shared import Part

    Read = Callable[[BlobPart], Awaitable[Part]]
    """Reads a part of a blob into a memory."""

SHA256 = "sha256:"


@dataclass(frozen=True, slots=True)
class SharedWork:
    """Work as the core carries it; a work without such parts is carried as it is.

    Attributes:
        work: It; its `shared` says what is where.
        memories: In the order in which it speaks of them; kept as long as the work.
        uploaded_bytes: How many bytes are in those of uploads and blobs.
        blobs: What of that is in blobs, by the number of the tensor.
    """

    work: task_pb2.Work
    memories: tuple[Memory, ...]
    uploaded_bytes: int = 0
    blobs: Mapping[int, BlobPart] = field(default_factory=dict)

    @classmethod
    def of(cls, work: task_pb2.Work) -> SharedWork | task_pb2.Work:
        """A work that was kept, what is large of it in a memory again: a frame has no room for it.

        Raises:
            OSError: The system has no memory.
        """
        if not work.HasField("infer"):  # quicker than to look for inputs where there are none
            return work
        data = {number: tensor.data for number, tensor in enumerate(work.infer.inputs) if tensor.data}
        if sum(map(len, data.values())) < LEAST_BYTES or not can_share():
            return work
        start = 0
        for number, elements in data.items():
            work.shared.add(tensor=number, start=start, size_bytes=len(elements))
            work.infer.inputs[number].ClearField("data")
            start = aligned(start + len(elements))
        return cls(work, (Memory.of(*data.values()),))

    def whole(self, *, names: bool = False) -> task_pb2.Work:
        """The work with all that is in memories, as it is kept; `names` of what is in blobs only where it is."""
        work = task_pb2.Work()
        work.CopyFrom(self.work)
        for each in self.work.shared:
            if names and (part := self.blobs.get(each.tensor)) is not None:
                blob = work.infer.inputs[each.tensor].blob
                blob.digest, blob.start, blob.size_bytes = SHA256 + part.digest, part.start, part.size_bytes
                continue
            elements = self.memories[each.memory].read(each.start, each.size_bytes)
            work.infer.inputs[each.tensor].data = elements
        del work.shared[:]
        return work


def allow_output(work: object, most_tokens: int) -> None:
    """Note what a kernel allows with what it accepts: the one after it may allow less."""
    written = work.work if isinstance(work, SharedWork) else work
    if isinstance(written, task_pb2.Work):
        written.allowed_output = most_tokens


async def with_blobs(work: SharedWork | task_pb2.Work, read: Read) -> SharedWork | task_pb2.Work:
    """A work that was kept, what is in blobs of it in memories again.

    Raises:
        InferdError: One is not there, or is damaged.
    """
    shared = work if isinstance(work, SharedWork) else SharedWork(work, ())
    memories, blobs = list(shared.memories), dict[int, BlobPart]()
    for number, tensor in enumerate(shared.work.infer.inputs):
        if tensor.HasField("blob"):
            blob = tensor.blob
            part = BlobPart(blob.digest.removeprefix(SHA256), blob.start, blob.size_bytes)
            given = await read(part)
            shared.work.shared.add(tensor=number, memory=len(memories), start=given.start, size_bytes=given.size_bytes)
            tensor.ClearField("blob")
            memories.append(given.memory)
            blobs[number] = part
    return SharedWork(shared.work, tuple(memories), blobs=blobs) if blobs else work
