"""Tensors of the engine and of the wire: the worker's side of the translation."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from inferd.core.ids import Tenant
from inferd.engine.recipe.limits import RecipeLimits
from inferd.engine.tensor.request import Request, SequenceStep, TensorLimits
from inferd.errors import InvalidFieldError, UnsupportedInputError
from inferd.plugin import ElementType, Tensor
from inferd.plugin.tensor import BITS, NUMPY
from inferd.worker.frames import ended_message
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.worker.v1 import load_pb2, task_pb2
from inferd_api.worker.v1 import worker_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from inferd.engine.tensor.request import TensorResult
    from inferd.plugin import Batching, Signature, TensorInfo

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
        output_bytes=told.output_bytes,
    )


def read_recipe_limits(limits: load_pb2.EngineLimits) -> RecipeLimits:
    """The bounds of recipes; its own defaults where the kernel gives none."""
    own, told = RecipeLimits(), limits.tensor
    return RecipeLimits(image_pixels=told.image_pixels or own.image_pixels, audio_s=told.audio_s or own.audio_s)


def read_request(submit: task_pb2.Submit) -> Request:
    """A task for the engine.

    Raises:
        UnsupportedInputError: It is one for a language model.
        InvalidFieldError: An array cannot be made of a tensor.
    """
    work = submit.work
    if work.WhichOneof("kind") != "infer":
        kind = work.input.WhichOneof("kind") or "input"
        raise UnsupportedInputError(
            f"the model turns tensors into tensors and reads no {_WORDS.get(kind, kind)}; give spec.infer instead, as "
            "GetModelSignature tells",
            field=f"spec.{kind}",
        )
    given = work.infer
    inputs = {tensor.name: _read(tensor, f"spec.infer.inputs[{n}]") for n, tensor in enumerate(given.inputs)}
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


def _read(tensor: pb.Tensor, path: str) -> Tensor:
    kind, shape = ElementType(tensor.element_type), tuple(tensor.shape)
    try:
        array = _read_array(tensor, kind, shape)
    except (ValueError, MemoryError) as error:
        message = f"{path} of shape {list(shape)} cannot be an array: {error}"
        raise InvalidFieldError(message, field=f"{path}.shape") from None
    if kind is ElementType.BOOL and array.size and array.view(np.uint8).max() > 1:
        value = int(array.view(np.uint8).max())
        raise InvalidFieldError(f"{path}.data has a byte of {value}; those of BOOL are 0 or 1", field=f"{path}.data")
    return Tensor(element_type=kind, shape=shape, array=array)


def _read_array(tensor: pb.Tensor, kind: ElementType, shape: tuple[int, ...]) -> Any:
    if kind is ElementType.STRING:
        texts = np.empty(len(tensor.strings.values), object)
        texts[:] = tensor.strings.values
        return texts.reshape(shape)
    flat = np.frombuffer(tensor.data, NUMPY.get(kind, "u1"))
    return flat if BITS[kind] < 8 else flat.reshape(shape)  # noqa: PLR2004 - bits of a byte


def tensor_step_frames(result: TensorResult) -> Iterator[wire.WorkerFrame]:
    """What was computed at once, in as many frames as its size asks for; who ended is in the last one."""
    frame, size_bytes = wire.WorkerFrame(), 0
    frame.step.seconds = result.seconds
    frame.step.alone = result.alone or 0
    for handle, outputs in result.outputs:
        written = _write_outputs(outputs)
        if size_bytes and size_bytes + len(written) > FRAME_BYTES:
            yield frame
            frame, size_bytes = wire.WorkerFrame(), 0
        frame.step.tensors.add(handle=handle, outputs=written)
        size_bytes += len(written)
    frame.step.ended.extend(ended_message(ended) for ended in result.ended)
    yield frame


def _write_outputs(outputs: Mapping[str, Tensor]) -> bytes:
    written = pb.InferOutput()
    for name, tensor in outputs.items():
        into = written.outputs.add(name=name, element_type=_number(tensor.element_type), shape=tensor.shape)
        if tensor.element_type is ElementType.STRING:
            into.strings.values.extend([str(text) for text in tensor.array.flat])
        else:
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
