"""Work of which large parts are in memories that go to its worker beside the frame."""

from dataclasses import dataclass

from inferd.shared import LEAST_BYTES, Memory, aligned, can_share
from inferd_api.worker.v1 import task_pb2


@dataclass(frozen=True, slots=True)
class SharedWork:
    """Work as the core carries it; a work without such parts is carried as it is.

    Attributes:
        work: It; its `shared` says what is where.
        memories: In the order in which it speaks of them; kept as long as the work.
        uploaded_bytes: How many bytes are in those of uploads.
    """

    work: task_pb2.Work
    memories: tuple[Memory, ...]
    uploaded_bytes: int = 0

    @classmethod
    def of(cls, work: task_pb2.Work) -> "SharedWork | task_pb2.Work":
        """A work that was kept, what is large of it in a memory again: a frame has no room for it.

        Raises:
            OSError: The system has no memory.
        """
        data = {number: tensor.data for number, tensor in enumerate(work.infer.inputs) if tensor.data}
        if sum(map(len, data.values())) < LEAST_BYTES or not can_share():
            return work
        start = 0
        for number, elements in data.items():
            work.shared.add(tensor=number, start=start, size_bytes=len(elements))
            work.infer.inputs[number].ClearField("data")
            start = aligned(start + len(elements))
        return cls(work, (Memory.of(*data.values()),))

    def whole(self) -> task_pb2.Work:
        """The work with all that is in memories, as it is kept."""
        work = task_pb2.Work()
        work.CopyFrom(self.work)
        for each in self.work.shared:
            elements = self.memories[each.memory].read(each.start, each.size_bytes)
            work.infer.inputs[each.tensor].data = elements
        del work.shared[:]
        return work
