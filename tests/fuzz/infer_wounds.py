"""Damaged requests for tasks of tensors, as bytes: each follows from its number."""

import random
from collections.abc import Sequence
from typing import Any

from inferd.plugin.tensor import ElementType, size_bytes
from inferd_api.v1 import task_service_pb2 as ts
from inferd_api.v1 import tensor_pb2 as pb

MODELS = ("add", "accumulate", "types")
NUMBERS = (0, 1, -1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, -(2**31), 2**62, 2**63 - 1, -(2**63))
SIZES = (0, 1, 7, 63, 64, 65, 2**31, 2**32, 2**63, 2**64 - 1)
UPLOAD_BYTES = 64
NAMES = ("", "x", "a", "b", "y", "sum", "before", "float", "\0", "x" * 1025, "ä\u202e", "../x", "count")


def good(chosen: random.Random) -> ts.RunTaskRequest:
    """A request that its model takes."""
    request = ts.RunTaskRequest()
    spec = request.spec
    spec.model = chosen.choice(MODELS)
    rows = chosen.randint(1, 3)
    match spec.model:
        case "add":
            inputs = [_floats("a", [rows, 2]), _floats("b", [rows, 2])]
        case "accumulate":
            inputs = [_floats("x", [rows, 2])]
            spec.infer.sequence.CopyFrom(pb.InferSequence(id=f"s{chosen.randint(0, 3)}", start=True))
        case _:
            inputs = [_any(chosen, kind) for kind in chosen.sample(list(ElementType), 2)]
            spec.infer.outputs.extend(tensor.name for tensor in inputs)
    spec.infer.inputs.extend(inputs)
    return request


def _floats(name: str, shape: list[int]) -> pb.Tensor:
    return pb.Tensor(name=name, element_type=1, shape=shape, data=bytes(size_bytes(ElementType.FLOAT, shape)))


def _any(chosen: random.Random, kind: ElementType) -> pb.Tensor:
    shape = [chosen.randint(0, 3) for _ in range(chosen.randint(0, 3))]
    tensor = pb.Tensor(name=kind.name.lower(), element_type=kind.value, shape=shape)
    if kind is ElementType.STRING:
        count = 1
        for size in shape:
            count *= size
        tensor.strings.values.extend(chosen.choice(NAMES) for _ in range(count))
    else:
        tensor.data = chosen.randbytes(size_bytes(kind, shape))
    return tensor


def _wound_type(tensor: Any, chosen: random.Random) -> None:
    tensor.element_type = chosen.choice((*range(-1, 28), 2**31 - 1, -(2**31)))


def _wound_shape(tensor: Any, chosen: random.Random) -> None:
    place = chosen.randint(0, len(tensor.shape))
    if chosen.random() < 0.5 and place < len(tensor.shape):
        tensor.shape[place] = chosen.choice(NUMBERS)
    else:
        tensor.shape.extend(chosen.choices(NUMBERS, k=chosen.choice((1, 1, 2, 40))))


def _wound_length(tensor: Any, chosen: random.Random) -> None:
    tensor.data = chosen.randbytes(chosen.choice((0, 1, 3, 4, 5, 8, 16, 1000)))


def _wound_strings(tensor: Any, chosen: random.Random) -> None:
    tensor.strings.values.extend(chosen.choices(NAMES, k=chosen.randint(0, 5)))


def _wound_name(tensor: Any, chosen: random.Random) -> None:
    tensor.name = chosen.choice(NAMES)


def _wound_upload(tensor: Any, chosen: random.Random) -> None:
    """Elements in an upload: overlapping others, beyond its end, of another size, or in none that there is."""
    size = len(tensor.data) if chosen.random() < 0.7 else chosen.choice(SIZES)
    start = chosen.randint(0, UPLOAD_BYTES) if chosen.random() < 0.7 else chosen.choice(SIZES)
    name = chosen.choice(("0", "0", "0", "1", "2", "none", ""))  # of the upload, see `wounded`
    tensor.uploaded.CopyFrom(pb.UploadedElements(upload_id=name, start=start, size_bytes=size))


WOUNDS = (_wound_upload, _wound_type, _wound_shape, _wound_length, _wound_strings, _wound_name)


def wounded(number: int, uploads: Sequence[str] = ()) -> bytes:
    """A request with some wounds, which names these uploads; of one in eight the bytes themselves are damaged."""
    chosen = random.Random(number)
    request = good(chosen)
    given = request.spec.infer
    for _ in range(chosen.choice((0, 1, 1, 1, 2, 3))):
        if given.inputs and chosen.random() < 0.8:
            chosen.choice(WOUNDS)(chosen.choice(given.inputs), chosen)
        else:
            _wound_whole(request, chosen)
    for tensor in given.inputs:
        if tensor.HasField("uploaded") and tensor.uploaded.upload_id.isdecimal() and uploads:
            tensor.uploaded.upload_id = uploads[int(tensor.uploaded.upload_id)]
    data = bytearray(request.SerializeToString())
    if chosen.random() < 0.125 and data:
        for _ in range(chosen.randint(1, 4)):
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        if chosen.random() < 0.3:
            del data[chosen.randrange(len(data)) :]
    return bytes(data)


def _wound_whole(request: ts.RunTaskRequest, chosen: random.Random) -> None:
    spec, given = request.spec, request.spec.infer
    match chosen.randrange(8):
        case 0:
            given.inputs.add().CopyFrom(chosen.choice(given.inputs) if given.inputs else pb.Tensor())
        case 1:
            del given.inputs[chosen.randrange(len(given.inputs)) if given.inputs else 0 :]
        case 2:
            given.outputs.extend(chosen.choices(NAMES, k=chosen.choice((1, 2, 300))))
        case 3:
            given.sequence.id = chosen.choice(NAMES)
            given.sequence.start, given.sequence.end = chosen.random() < 0.5, chosen.random() < 0.5
        case 4:
            spec.sampling.top_k = 3
        case 5:
            spec.embedding.SetInParent()
        case 6:
            spec.model = chosen.choice(("text", "none", "", *MODELS))
        case _:
            spec.adapter = chosen.choice(NAMES)
