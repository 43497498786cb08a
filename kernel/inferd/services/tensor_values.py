"""Tensors from the wire: held against their own shapes and types before anything of them is taken."""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from math import prod
from types import MappingProxyType
from typing import Final, NamedTuple

from inferd.errors import InvalidFieldError, LimitExceededError, words_of
from inferd.plugin.tensor import ElementType, size_bytes
from inferd.runtime.blob_memories import BlobPart
from inferd.services.named import Named
from inferd.shared import LEAST_BYTES, Memory, Part, aligned, can_share
from inferd_api.v1 import task_pb2 as tp
from inferd_api.v1 import tensor_pb2 as pb
from inferd_api.worker.v1 import task_pb2 as wp

AT: Final = "spec.infer"
_ALL_OUTPUTS: Final = pb.InferInput()
_OTHERS: Final = {
    "sampling": "chooses tokens, and tensors have none",
    "embedding": "makes a vector of a text; ask for an output of the model instead",
}


def check_infer(spec: tp.TaskSpec) -> dict[int, bytes]:
    """Refuse a task of tensors that contradicts itself; the `data` of its inputs by their places, read once.

    Raises:
        InvalidFieldError: A tensor does not have what its type and shape say, two have one name, or the task has
            something that tasks of tensors do not have. The message has the path of the field and both numbers.
    """
    for name, why in _OTHERS.items():
        if spec.HasField(name):  # type: ignore[arg-type] # its names, as a list of texts
            raise InvalidFieldError(
                f"spec.{name} stands beside spec.infer; it {why}; leave it out", field=f"spec.{name}"
            )
    if spec.adapter:
        raise InvalidFieldError(
            "spec.adapter stands beside spec.infer; it changes a language model, and this is none; leave it out",
            field="spec.adapter",
        )
    _check_names([tensor.name for tensor in spec.infer.inputs], "inputs")
    _check_names(spec.infer.outputs, "outputs")
    inputs = spec.infer.inputs
    given = {number: tensor.data for number, tensor in enumerate(inputs) if tensor.WhichOneof("elements") == "data"}
    for number, tensor in enumerate(inputs):
        _check_tensor(tensor, len(given.get(number, b"")), f"{AT}.inputs[{number}]")
    return given


class Written(NamedTuple):
    """Inputs as they go to a worker.

    Attributes:
        work: All of them but what is in `memories`.
        memories: What is large.
        digest: Equal for the same inputs and wanted outputs, of whatever sequence.
        size_bytes: How many bytes are held for them: of the message, and all of each memory.
        uploaded_bytes: How many of those are in the memories of uploads and blobs.
        blobs: What of those is in blobs, by the places of the inputs.
    """

    work: wp.Work
    memories: tuple[Memory, ...]
    digest: bytes
    size_bytes: int
    uploaded_bytes: int = 0
    blobs: Mapping[int, BlobPart] = MappingProxyType({})


def write_infer(
    given: pb.InferInput, data: Mapping[int, bytes], named: Mapping[int, Named], *, lasting: bool
) -> Written:
    """The inputs for the worker, those that are large in memories; `data` is of those that have it in the message.

    `lasting` is whether the digest is to be the same with a kernel after this one.

    Raises:
        LimitExceededError: The system has no memory.
    """
    kept, copied = _split(named) if named else ({}, {})
    parts, marks = _share({**data, **copied}, lasting=lasting)
    parts |= {number: each.part for number, each in kept.items()}
    marks |= {number: each.digest for number, each in kept.items()}
    if not parts and not copied:
        digest, size_bytes = _digest([*given.inputs, _asked(given)], {})
        return Written(wp.Work(infer=given), (), digest, size_bytes)
    work = wp.Work()
    work.infer.outputs.extend(given.outputs)
    if given.HasField("sequence"):
        work.infer.sequence.CopyFrom(given.sequence)
    memories: dict[int, Memory] = {}  # by their ids: several tensors may be in one
    for number, tensor in enumerate(given.inputs):
        into = work.infer.inputs.add(name=tensor.name, element_type=tensor.element_type, shape=tensor.shape)
        if number not in parts:
            if number in copied:
                into.data = copied[number]
            else:
                into.CopyFrom(tensor)
            continue
        part = parts[number]
        memories.setdefault(id(part.memory), part.memory)
        work.shared.add(
            tensor=number,
            memory=list(memories).index(id(part.memory)),
            start=part.start,
            size_bytes=part.size_bytes,
        )
    digest, size_bytes = _digest([*work.infer.inputs, _asked(given)], marks)
    size_bytes += sum(memory.held_bytes for memory in memories.values())
    uploaded = {id(each.part.memory): each.part.memory.held_bytes for each in kept.values()}
    blobs = {number: each.blob for number, each in kept.items() if each.blob is not None}
    return Written(work, tuple(memories.values()), digest, size_bytes, sum(uploaded.values()), blobs)


def _asked(given: pb.InferInput) -> pb.InferInput:
    """The outputs that are wanted, in whatever order."""
    return pb.InferInput(outputs=sorted(given.outputs)) if given.outputs else _ALL_OUTPUTS


def _split(named: Mapping[int, Named]) -> tuple[dict[int, Named], dict[int, bytes]]:
    """What stays in the memories of uploads, and what is copied: little of an upload must not hold all of it."""
    taken: Counter[int] = Counter()
    for each in named.values():
        taken[id(each.part.memory)] += each.part.size_bytes
    kept, copied = {}, {}
    for number, each in named.items():
        if taken[id(each.part.memory)] < LEAST_BYTES:
            copied[number] = each.part.read()
        else:
            kept[number] = each
    return kept, copied


def _share(large: Mapping[int, bytes], *, lasting: bool) -> tuple[dict[int, Part], dict[int, bytes]]:
    """The elements of tensors that are large together, copied into one memory, and what is equal for equal ones.

    A cryptographic digest of a MiB takes longer than all else that is done with it, so only what lasts has one. The
    hash of the interpreter has a key of this process, which nobody else knows.
    """
    if sum(map(len, large.values())) < LEAST_BYTES or not can_share():
        return {}, {}
    try:
        memory = Memory.of(*large.values())
    except OSError as error:
        message = f"there is no memory for inputs of {sum(map(len, large.values()))} bytes: {words_of(error)}"
        raise LimitExceededError(message, field=f"{AT}.inputs") from None
    parts, start = {}, 0
    for number, data in large.items():
        parts[number] = Part(memory, start, len(data))
        start = aligned(start + len(data))
    if lasting:
        return parts, {number: sha256(data).digest() for number, data in large.items()}
    return parts, {number: hash(data).to_bytes(8, signed=True) for number, data in large.items()}


def _digest(messages: list[pb.Tensor | pb.InferInput], marks: Mapping[int, bytes]) -> tuple[bytes, int]:
    """Of messages, and of what stands for parts that are not in them; and how many bytes they have on the wire.

    Both at once: to count the bytes of a message, it is written as well.
    """
    digest, size_bytes = sha256(b"infer"), 0
    for number, message in enumerate(messages):
        written = message.SerializeToString(deterministic=True)
        for each in (written, marks.get(number, b"")):
            digest.update(len(each).to_bytes(8))
            digest.update(each)
        size_bytes += len(written)
    return digest.digest(), size_bytes


def _check_names(names: list[str] | object, field: str) -> None:
    seen = set()
    for number, name in enumerate(names):  # type: ignore[var-annotated, arg-type] # protobuf's lists
        path = f"{AT}.{field}[{number}]" + (".name" if field == "inputs" else "")
        if not name:
            raise InvalidFieldError(f"{path} is empty; it must be given", field=path)
        if name in seen:
            what = field.removesuffix("s")  # as clients of Triton look for it
            raise InvalidFieldError(
                f"{what} '{name[:80]}' already exists in request: {path}; name each once", field=path
            )
        seen.add(name)


def _check_tensor(tensor: pb.Tensor, data_bytes: int, path: str) -> None:
    try:
        element_type = ElementType(tensor.element_type)
    except ValueError:
        raise InvalidFieldError(
            f"{path}.element_type is {tensor.element_type}; it must be from 1 to {max(ElementType)}, see ElementType",
            field=f"{path}.element_type",
        ) from None
    if wrong := [size for size in tensor.shape if size < 0]:
        raise InvalidFieldError(f"{path}.shape has a size of {wrong[0]}; each must be 0 or more", field=f"{path}.shape")
    if element_type is ElementType.STRING:
        have, need, what, field = len(tensor.strings.values), prod(tensor.shape), "texts", "strings"
    else:
        have, need, what, field = data_bytes, size_bytes(element_type, tensor.shape), "bytes", "data"
    if tensor.WhichOneof("elements") == "uploaded" and field == "data":
        have, field = tensor.uploaded.size_bytes, "uploaded.size_bytes"
    elif tensor.WhichOneof("elements") == "blob" and field == "data":
        have, field = tensor.blob.size_bytes, "blob.size_bytes"
    elif tensor.WhichOneof("elements") not in (None, field):
        other = tensor.WhichOneof("elements")
        raise InvalidFieldError(
            f"{path}.{other} is given for type {element_type.name}, whose elements are in {field}",
            field=f"{path}.{other}",
        )
    if have != need:
        raise InvalidFieldError(
            f"{path}.{field} has {have} {what}; type {element_type.name} and shape {list(tensor.shape)} need {need}",
            field=f"{path}.{field}",
        )
