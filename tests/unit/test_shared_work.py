"""Work and outputs of which large parts are in memories, as they are kept and taken up again."""

from inferd.core.task_events import TensorOutput
from inferd.runtime.event_log import Numbered
from inferd.runtime.kept_events import read_entries, write_entries
from inferd.runtime.shared_work import SharedWork
from inferd.shared import LEAST_BYTES, Memory, Part
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.worker.v1 import task_pb2


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
