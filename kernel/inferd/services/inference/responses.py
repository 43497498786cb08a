"""Outputs and signatures in the words of the Open Inference Protocol."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from inferd.core.model import Model
from inferd.core.task_events import TensorOutput
from inferd.errors import LimitExceededError
from inferd.runtime.metrics import Counted
from inferd.services.inference.datatypes import DATATYPES, name_of
from inferd.services.inference.language import SIGNATURE
from inferd.services.inference.shared_tensors import Place
from inferd.services.inference.tensors import write_texts
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.v1 import tensor_pb2 as pb

NO_PLACES: Final[Mapping[str, Place]] = MappingProxyType({})
FREE = -1
"""The size of a free dimension."""


def check_size(size_bytes: int, limit_bytes: int) -> None:
    """Refuse outputs that are more than a message may have.

    Raises:
        LimitExceededError: They are.
    """
    if size_bytes > limit_bytes:
        raise LimitExceededError(
            f"the outputs have {size_bytes} bytes and limits.message_bytes is {limit_bytes}; ask for fewer, or use"
            " inferd.v1.TaskService.RunTask, which tells them in parts",
            metadata={"bound": "limits.message_bytes", "value": str(size_bytes), "limit": str(limit_bytes)},
        )


def write_outputs(
    output: TensorOutput, into: gp.ModelInferResponse, *, limit_bytes: int, places: Mapping[str, Place] = NO_PLACES
) -> None:
    """A set of tensors, their elements as raw bytes.

    Args:
        output: It; none of it is read where it is too large.
        into: The response.
        limit_bytes: Largest message, `limits.message_bytes`.
        places: Where outputs are put in shared memory, by their names; they are empty in the response.

    Raises:
        LimitExceededError: It has more bytes than a message may have.
        NotOfferedError: One is of a type that the protocol does not know.
        InvalidFieldError: One has no room in shared memory.
    """
    check_size(output.size_bytes - (_put_bytes(output, places) if places else 0), limit_bytes)
    elsewhere = dict(output.elements)
    for place, tensor in enumerate(pb.InferOutput.FromString(output.written).outputs):
        datatype = name_of(tensor.element_type, tensor.name)
        told = into.outputs.add(name=tensor.name, datatype=datatype, shape=tensor.shape)
        if place in elsewhere:
            raw = elsewhere[place].read()
        elif tensor.element_type == pb.ELEMENT_TYPE_STRING:
            raw = write_texts(tensor.strings.values)
        else:
            raw = tensor.data
        if (shared := places.get(tensor.name)) is not None:
            shared.write(raw, tensor.name, told)
            raw = b""
        into.raw_output_contents.append(raw)


def _put_bytes(output: TensorOutput, places: Mapping[str, Place]) -> int:
    """How many of the large bytes are put in shared memory."""
    names = [each.name for each in pb.InferOutput.FromString(output.written).outputs]
    return sum(each.size_bytes for place, each in output.elements if names[place] in places)


def shape_of(info: pb.TensorInfo) -> list[int]:
    """The sizes of a tensor, -1 for free ones, and for one whose rank is free."""
    if info.any_rank:
        return [FREE]
    return [each.size if each.WhichOneof("kind") == "size" else FREE for each in info.shape]


def write_metadata(signature: pb.ModelSignature, model: Model, versions: Iterable[str]) -> gp.ModelMetadataResponse:
    """What a model takes and gives."""
    return gp.ModelMetadataResponse(
        name=model.spec.name,
        versions=versions,
        platform=model.spec.format,
        inputs=[_told(each) for each in signature.inputs],
        outputs=[_told(each) for each in signature.outputs],
    )


def _told(info: pb.TensorInfo) -> gp.ModelMetadataResponse.TensorMetadata:
    datatype = name_of(info.element_type, info.name)
    return gp.ModelMetadataResponse.TensorMetadata(name=info.name, datatype=datatype, shape=shape_of(info))


def write_config(signature: pb.ModelSignature, model: Model) -> cp.ModelConfig:
    """The same, and how it is served; sizes are without the first one where the model batches."""
    batches = signature.most_batch > 1
    config = cp.ModelConfig(
        name=model.spec.name,
        platform=model.spec.format,
        backend=model.spec.backend,
        max_batch_size=signature.most_batch if batches else 0,
    )
    for info in signature.inputs:
        config.input.add(
            name=info.name, data_type=_config_type(info), dims=_dims(info, batches), optional=info.optional
        )
    for info in signature.outputs:
        config.output.add(name=info.name, data_type=_config_type(info), dims=_dims(info, batches))
    if signature is SIGNATURE:
        config.model_transaction_policy.decoupled = True
    types = {info.name: _config_type(info) for info in signature.inputs}
    if signature.states:
        for state in signature.states:
            config.sequence_batching.state.add(
                input_name=state.input_name,
                output_name=state.output_name,
                data_type=types.get(state.input_name, cp.TYPE_INVALID),
                dims=state.start_shape,
            )
    elif batches:
        batching = signature.batching
        config.dynamic_batching.preferred_batch_size.extend(batching.preferred_batches)
        config.dynamic_batching.max_queue_delay_microseconds = batching.delay.ToMicroseconds()
    return config


def _config_type(info: pb.TensorInfo) -> cp.DataType.ValueType:
    return DATATYPES[name_of(info.element_type, info.name)].config


def _dims(info: pb.TensorInfo, batches: bool) -> list[int]:  # noqa: FBT001 - of the model
    shape = shape_of(info)
    return shape[1:] if batches and not info.any_rank else shape


def write_statistics(model: Model, counted: Counted | None) -> gp.ModelStatistics:
    """What was counted of a model; nothing where it shares its figures with others."""
    written = gp.ModelStatistics(name=model.spec.name, version=str(model.serving.number))
    if counted is not None:
        written.inference_count, written.execution_count = counted.succeeded, counted.steps
        stats = written.inference_stats
        stats.success.count, stats.success.ns = counted.succeeded, round(counted.succeeded_s * 1e9)
        stats.fail.count, stats.fail.ns = counted.failed, round(counted.failed_s * 1e9)
        stats.queue.count, stats.queue.ns = counted.sent, round(counted.waited_s * 1e9)
    return written
