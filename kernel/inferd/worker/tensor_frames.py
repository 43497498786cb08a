"""Tensors of the engine and of the wire: the worker's side of the translation."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from inferd.core.ids import Tenant
from inferd.engine.recipe.limits import RecipeLimits
from inferd.engine.tensor.request import Request, SequenceStep, TensorLimits
from inferd.engine.token.output import Ended
from inferd.errors import InferdError, InvalidFieldError, LimitExceededError, UnsupportedInputError, words_of
from inferd.plugin import ElementType, Tensor
from inferd.plugin.tensor import BITS, NUMPY
from inferd.shared import LEAST_BYTES, MOST_AT_ONCE, Memory, aligned, can_share
from inferd.worker.frames import ended_message
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.worker.v1 import load_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from inferd.engine.tensor.request import TensorResult
    from inferd.plugin import Batching, Signature, TensorInfo
    from inferd_api.worker.v1 import memory_pb2

FRAME_BYTES: Final = 1 << 20
"""Outputs that go into one frame; one set of them that has more goes alone."""


def read_tensor_limits(limits: load_pb2.EngineLimits) -> TensorLimits:
    """The bounds of the engine; its own defaults where the kernel gives none."""
    own = TensorLimits()
    if not limits.HasField("tensor"):
        return own
    told = limits.tensor
    return TensorLimits(
        batch_rows=told.batch_rows,
        batch_delay_s=told.batch_delay_s,
        sequences=told.sequences,
        sequences_per_tenant=told.sequences_per_tenant,
        sequence_bytes=told.sequence_bytes or own.sequence_bytes,
        all_sequences_bytes=told.all_sequences_bytes or own.all_sequences_bytes,
        sequence_idle_s=told.sequence_idle_s,
        output_bytes=told.output_bytes if can_share() else min(told.output_bytes, told.text_bytes or told.output_bytes),
        text_bytes=told.text_bytes or told.output_bytes,
    )


def read_recipe_limits(limits: load_pb2.EngineLimits) -> RecipeLimits:
    """The bounds of recipes; its own defaults where the kernel gives none."""
    own, told = RecipeLimits(), limits.tensor
    return RecipeLimits(image_pixels=told.image_pixels or own.image_pixels, audio_s=told.audio_s or own.audio_s)


def read_request(submit: task_pb2.Submit, memories: Sequence[Memory] = (), *, lacking: str = "") -> Request:
    """A task for the engine, which reads the memories in their place.

    Args:
        submit: It.
        memories: What parts of it are in.
        lacking: What the model would need to read text, as a sentence; "" where that is not known.

    Raises:
        UnsupportedInputError: It is one for a language model.
        InvalidFieldError: An array cannot be made of a tensor.
    """
    work = submit.work
    if work.WhichOneof("kind") != "infer":
        kind = work.input.WhichOneof("kind") or "input"
        raise UnsupportedInputError(
            f"the model turns tensors into tensors and reads no {_WORDS.get(kind, kind)}; give spec.infer instead, as "
            f"GetModelSignature tells{lacking}",
            field=f"spec.{kind}",
            metadata={"instead": "spec.infer"},
        )
    given = work.infer
    elements = _map(work.shared, memories)
    inputs = {
        tensor.name: _read(tensor, f"spec.infer.inputs[{n}]", elements.get(n)) for n, tensor in enumerate(given.inputs)
    }
    return Request(
        handle=submit.handle,
        task_id=submit.task_id,
        inputs=inputs,
        outputs=tuple(given.outputs),
        sequence=_read_sequence(given, Tenant(submit.tenant)),
        priority=submit.priority,
        lease_id=submit.lease_id,
        fencing_token=submit.fencing_token,
        told=submit.continuation.outputs,
        alone=submit.alone,
        moved=submit.moved,
    )


_WORDS: Final = {"prompt": "text", "chat": "conversation", "tokens": "token ids"}


def _read_sequence(given: pb.InferInput, tenant: Tenant) -> SequenceStep | None:
    if not given.HasField("sequence"):
        return None
    told = given.sequence
    return SequenceStep(tenant=tenant, name=told.id, start=told.start, end=told.end)


def _map(shared: Iterable[memory_pb2.SharedElements], memories: Sequence[Memory]) -> dict[int, memoryview]:
    """The elements that are in memories, by the places of their tensors."""
    elements, maps = {}, {}
    for each in shared:
        memory = memories[each.memory]
        memory.check(each.start, each.size_bytes)
        if each.memory not in maps:
            maps[each.memory] = memoryview(memory.map())
        elements[each.tensor] = maps[each.memory][each.start : each.start + each.size_bytes]
    return elements


def _read(tensor: pb.Tensor, path: str, elements: memoryview | None) -> Tensor:
    kind, shape = ElementType(tensor.element_type), tuple(tensor.shape)
    try:
        array = _read_array(tensor, kind, shape, elements)
    except (ValueError, MemoryError) as error:
        message = f"{path} of shape {list(shape)} cannot be an array: {error}"
        raise InvalidFieldError(message, field=f"{path}.shape") from None
    if kind is ElementType.BOOL and array.size and array.view(np.uint8).max() > 1:
        value = int(array.view(np.uint8).max())
        raise InvalidFieldError(f"{path}.data has a byte of {value}; those of BOOL are 0 or 1", field=f"{path}.data")
    return Tensor(element_type=kind, shape=shape, array=array)


def _read_array(tensor: pb.Tensor, kind: ElementType, shape: tuple[int, ...], elements: memoryview | None) -> Any:
    if kind is ElementType.STRING:
        texts = np.empty(len(tensor.strings.values), object)
        texts[:] = tensor.strings.values
        return texts.reshape(shape)
    flat = np.frombuffer(tensor.data if elements is None else elements, NUMPY.get(kind, "u1"))
    return flat if BITS[kind] < 8 else flat.reshape(shape)  # noqa: PLR2004 - bits of a byte


def tensor_step_frames(result: TensorResult) -> Iterator[tuple[wire.WorkerFrame, list[Memory]]]:
    """What was computed at once, in as many frames as its size asks for, with memories; who ended is in the last."""
    frame, size_bytes, memories = wire.WorkerFrame(), 0, list[Memory]()
    frame.step.seconds = result.seconds
    frame.step.alone = result.alone or 0
    refused: dict[int, InferdError] = {}
    for handle, outputs in result.outputs:
        try:
            shared = share(outputs)
        except LimitExceededError as error:
            refused[handle] = error
            continue
        written = _write_outputs(outputs, {} if shared is None else shared.places)
        if size_bytes and (size_bytes + len(written) > FRAME_BYTES or len(memories) == MOST_AT_ONCE):
            yield frame, memories
            frame, size_bytes, memories = wire.WorkerFrame(), 0, []
        told = frame.step.tensors.add(handle=handle, outputs=written)
        size_bytes += len(written)
        if shared is not None:
            for tensor, (start, size) in shared.places.items():
                told.shared.add(tensor=tensor, memory=len(memories) + shared.number, start=start, size_bytes=size)
            memories.append(shared.memory)
    known = {ended.handle for ended in result.ended}
    ended = [Ended(handle=each.handle, error=refused.get(each.handle, each.error)) for each in result.ended]
    ended += [Ended(handle=handle, error=error) for handle, error in refused.items() if handle not in known]
    frame.step.ended.extend(map(ended_message, ended))
    yield frame, memories


class Shared(NamedTuple):
    """The large ones of a set, in one memory: of each, by its place in the set, where it begins and its bytes."""

    memory: Memory
    places: dict[int, tuple[int, int]]
    number: int = 0  # of the memory, beside others


def share(outputs: Mapping[str, Tensor]) -> Shared | None:
    """All but the texts, where they are large together; None where they are not, or this system has no such memory.

    Raises:
        LimitExceededError: There is no memory for them now.
    """
    arrays = {n: t.array for n, t in enumerate(outputs.values()) if t.element_type is not ElementType.STRING}
    if sum(array.nbytes for array in arrays.values()) < LEAST_BYTES or not can_share():
        return None
    flat = {n: np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for n, array in arrays.items()}
    places, end = {}, 0
    for number, part in flat.items():
        places[number] = (end, part.nbytes)
        end = aligned(end + part.nbytes)
    try:
        return Shared(Memory.of(*flat.values()), places)
    except OSError as error:
        raise LimitExceededError(f"there is no memory for outputs of {end} bytes: {words_of(error)}") from None


def _write_outputs(outputs: Mapping[str, Tensor], elsewhere: Container[int]) -> bytes:
    written = pb.InferOutput()
    for number, (name, tensor) in enumerate(outputs.items()):
        into = written.outputs.add(name=name, element_type=_number(tensor.element_type), shape=tensor.shape)
        if tensor.element_type is ElementType.STRING:
            into.strings.values.extend([str(text) for text in tensor.array.flat])
        elif number not in elsewhere:
            into.data = tensor.array.tobytes()
    return written.SerializeToString()


def write_signature(signature: Signature, *, most_batch: int, delay_s: float) -> bytes:
    """What a model takes and gives, as the kernel carries it to clients.

    Args:
        signature: It.
        most_batch: Rows that are computed as one, within the bounds of the configuration.
        delay_s: How long a request waits for others, in seconds.
    """
    written = pb.ModelSignature(
        inputs=[_write_info(info) for info in signature.inputs],
        outputs=[_write_info(info) for info in signature.outputs],
        most_batch=most_batch,
        threads=signature.threads,
        states=[
            pb.TensorState(input_name=s.input_name, output_name=s.output_name, start_shape=s.start_shape)
            for s in signature.states
        ],
    )
    if most_batch > 1:
        written.batching.CopyFrom(_write_batching(signature.batching, most_batch, delay_s))
    return written.SerializeToString()


def _write_batching(batching: Batching, most_batch: int, delay_s: float) -> pb.TensorBatching:
    written = pb.TensorBatching(
        preferred_batches=[size for size in batching.preferred if size <= most_batch],
        padding_times=batching.filled_times,
    )
    written.delay.FromTimedelta(timedelta(seconds=delay_s))
    for padding in batching.paddings:
        into = written.paddings.add()
        for fill in padding.fills:
            place = into.fills.add(input_name=fill.input_name, dimension=fill.dimension)
            if isinstance(fill.value, str):
                place.text = fill.value
            elif isinstance(fill.value, int) and -(1 << 63) <= fill.value < 1 << 63:
                place.whole = fill.value
            else:
                place.number = fill.value
        for cut in padding.cuts:
            into.cuts.add(output_name=cut.output_name, dimension=cut.dimension)
    return written


def _write_info(info: TensorInfo) -> pb.TensorInfo:
    return pb.TensorInfo(
        name=info.name,
        element_type=_number(info.element_type),
        shape=[_write_dimension(size) for size in info.shape or ()],
        any_rank=info.shape is None,
        optional=info.optional,
        description=info.description,
    )


def _write_dimension(size: int | str) -> pb.Dimension:
    if isinstance(size, str):
        return pb.Dimension(name=size) if size else pb.Dimension()
    return pb.Dimension(size=size)


def _number(kind: ElementType) -> pb.ElementType.ValueType:
    return pb.ElementType.ValueType(kind.value)
