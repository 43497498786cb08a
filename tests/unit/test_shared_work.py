"""Work and outputs of which large parts are in memories, as they are kept and taken up again."""

import ctypes
import os

import pytest

from inferd.core.task_events import TensorOutput
from inferd.runtime.event_log import Numbered
from inferd.runtime.frames import read_tensors
from inferd.runtime.kept_events import read_entries, write_entries
from inferd.runtime.shared_work import SharedWork
from inferd.services.named import Named
from inferd.services.work_values import read_work
from inferd.shared import LEAST_BYTES, MARGIN_BYTES, Memory, MemoryRefusedError, Part
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.worker.v1 import step_pb2, task_pb2

KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h


def test_work_is_kept_whole() -> None:
    """What is in memories is kept with the rest, and is in a memory again when it is taken up: frames are smaller."""
    inputs = [
        pb.Tensor(name=n, element_type=2, shape=[len(d)], data=d) for n, d in (("a", b"1" * LEAST_BYTES), ("b", b"2"))
    ]
    work = task_pb2.Work(infer=pb.InferInput(inputs=inputs, outputs=["y"]))
    kept = work.SerializeToString(deterministic=True)
    shared = SharedWork.of(work)
    assert isinstance(shared, SharedWork)
    assert shared.work.ByteSize() < 200
    assert [shared.memories[0].read(each.start, each.size_bytes)[:1] for each in shared.work.shared] == [b"1", b"2"]
    assert shared.whole().SerializeToString(deterministic=True) == kept
    small = task_pb2.Work(infer=pb.InferInput(inputs=inputs[1:]))
    assert SharedWork.of(small) is small


def test_outputs_are_kept_whole() -> None:
    """Elements of a set that are in a memory are kept with it, and read as they were."""
    entry = Numbered(3, TensorOutput(b"head", ((1, Part(Memory.of(b"elements"), 2, 5)),)))
    (back,) = read_entries(write_entries([entry]))
    assert isinstance(back, Numbered)
    assert isinstance(back.event, TensorOutput)
    ((place, elements),) = back.event.elements
    assert (back.sequence, back.event.written, place, back.event.size_bytes) == (3, b"head", 1, 9)
    assert (elements.read(), elements.read(1), elements.read(1, 2)) == (b"ement", b"ment", b"me")
    assert read_entries(write_entries([Numbered(1, TensorOutput(b"x"))])) == [Numbered(1, TensorOutput(b"x"))]


def _reading(memory: Memory, *sizes: int) -> tuple[tp.TaskSpec, dict[int, Named]]:
    """A task of parts of an upload."""
    inputs = [pb.Tensor(name=str(n), element_type=2, shape=[size]) for n, size in enumerate(sizes)]
    for tensor in inputs:
        tensor.uploaded.upload_id, tensor.uploaded.size_bytes = "u", tensor.shape[0]
    named = {n: Named(Part(memory, 0, size), b"digest") for n, size in enumerate(sizes)}
    return tp.TaskSpec(model="m", infer=pb.InferInput(inputs=inputs)), named


def test_what_a_task_holds_of_an_upload_is_counted() -> None:
    """A task counts all of each upload whose memory it keeps, once; of one of which it takes little it keeps none."""
    memory = Memory.of(b"1" * (8 * LEAST_BYTES), b"2")
    spec, named = _reading(memory, LEAST_BYTES, LEAST_BYTES, 4)
    work, demand = read_work(spec, 1, named)
    assert isinstance(work, SharedWork)
    assert work.memories == (memory,)
    assert memory.size_bytes <= work.uploaded_bytes < memory.size_bytes + 4096
    assert memory.size_bytes <= demand.memory_bytes < memory.size_bytes + 8000
    spec, named = _reading(memory, 4, 3)
    little, demand = read_work(spec, 1, named)
    assert isinstance(little, task_pb2.Work)
    assert [tensor.data for tensor in little.infer.inputs] == [b"1111", b"111"]
    assert demand.memory_bytes < 2000
    many = Memory.of(b"1" * LEAST_BYTES)
    others = {n: Named(Part(m, 0, LEAST_BYTES - 1), b"d") for n, m in enumerate((memory, many))}
    spec, _ = _reading(memory, LEAST_BYTES - 1, LEAST_BYTES - 1)
    work, demand = read_work(spec, 1, others)
    assert isinstance(work, SharedWork)
    (copied,) = work.memories  # no frame has room for them
    assert copied not in (memory, many)
    assert (work.uploaded_bytes, demand.memory_bytes < 2 * LEAST_BYTES + 8000) == (0, True)


@pytest.mark.parametrize(("size_bytes", "told"), [(4 * LEAST_BYTES, LEAST_BYTES), (64, 4), (2 * LEAST_BYTES, 4)])
def test_outputs_in_a_memory_that_is_larger_than_they(size_bytes: int, told: int) -> None:
    """A worker's memory that has much more than its set needs, or hardly anything, is refused with the numbers."""
    memory = Memory.of(b"1" * size_bytes)
    given = step_pb2.TensorOutput(handle=1)
    given.shared.add(size_bytes=told)
    with pytest.raises(MemoryRefusedError, match=f"memory 0, which has {size_bytes}"):
        read_tensors(given, (memory,), 32 << 20)


def test_a_memory_that_takes_much_beyond_its_end() -> None:
    """A sealed memory to which the system has given much beyond its size is refused."""
    memory = Memory.make(64)
    system = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_int(memory.fileno()), ctypes.c_int(KEEP_SIZE), ctypes.c_int64(0)]
    assert system.fallocate(*arguments, ctypes.c_int64(2 * MARGIN_BYTES)) == 0
    memory.seal()
    with pytest.raises(MemoryRefusedError, match=f"takes {2 * MARGIN_BYTES} bytes of the system and has 64"):
        Memory.received(os.dup(memory.fileno()))
