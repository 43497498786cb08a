"""Damaged requests of the Open Inference Protocol, as bytes: each follows from its number."""

import json
import random
from typing import Any

from inferd.services.inference.datatypes import DATATYPES
from inferd.services.inference.language import INPUTS
from inferd.services.inference.requests import OWN
from inferd.services.inference.saying import SAID_BY_NAME, USUAL
from inferd.services.inference.tensors import write_texts
from inferd_api.inference import grpc_service_pb2 as gp

MODELS = ("add", "accumulate", "types", "text")
REGION_BYTES = 4096
NUMBERS = (0, 1, -1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, -(2**31), 2**62, 2**63 - 1, -(2**63))
NAMES = ("", "x", "a", "b", "y", "sum", "before", "float", "\0", "x" * 1025, "ä\u202e", "../x", "text_input", "region")
TEXTS = (
    "",
    "la",
    "{}",
    "[",
    '{"n": 2}',
    '{"max_tokens": "x"}',
    "\ud7ff",
    "é" * 300,
    "[" * 5000,
    '{"temperature": 1e400}',
)
SHARED = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
Request = gp.ModelInferRequest


def good(chosen: random.Random) -> Request:
    """A request that its model takes."""
    model = chosen.choice(MODELS)
    request = Request(model_name=model, id=str(chosen.randint(0, 9)))
    rows = chosen.randint(1, 3)
    match model:
        case "add":
            _floats(request, "a", [rows, 2])
            _floats(request, "b", [rows, 2])
        case "accumulate":
            _floats(request, "x", [rows, 2])
            request.parameters["sequence_id"].int64_param = chosen.randint(1, 4)
            request.parameters["sequence_start"].bool_param = True
        case "types":
            _add(request, "int32", "INT32", [2], bytes(8))
            _add(request, "string", "BYTES", [2], write_texts(["é", "x"]))
            request.outputs.add(name="int32")
        case _:
            _add(request, "text_input", "BYTES", [1], write_texts(["la"]))
            _add(request, "max_tokens", "INT32", [1], (3).to_bytes(4, "little"))
    return request


def _floats(request: Request, name: str, shape: list[int]) -> None:
    _add(request, name, "FP32", shape, bytes(4 * shape[0] * shape[1]))


def _add(request: Request, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)


def _parameter(into: Any, chosen: random.Random) -> None:
    """A value of some kind."""
    match chosen.randrange(6):
        case 0:
            into.bool_param = chosen.random() < 0.5
        case 1:
            into.int64_param = chosen.choice(NUMBERS)
        case 2:
            into.uint64_param = chosen.choice((0, 1, 64, 2**63, 2**64 - 1))
        case 3:
            into.double_param = chosen.choice((0.0, -1.5, 1e308, float("nan"), float("inf")))
        case 4:
            into.string_param = chosen.choice((*NAMES, *TEXTS))
        case _:
            into.SetInParent()


def _share(tensor: Any, chosen: random.Random) -> None:
    """In the region, inside or not, or in none."""
    if chosen.random() < 0.8:
        tensor.parameters[SHARED[0]].string_param = "region"
        tensor.parameters[SHARED[1]].int64_param = chosen.choice(
            (0, 8, 16, 24, REGION_BYTES, REGION_BYTES + 1, *NUMBERS)
        )
        if chosen.random() < 0.5:
            tensor.parameters[SHARED[2]].int64_param = chosen.choice((0, 8, REGION_BYTES - 8, REGION_BYTES, *NUMBERS))
    else:
        _parameter(tensor.parameters[chosen.choice(SHARED)], chosen)


def _wound_input(request: Request, chosen: random.Random) -> None:
    place = chosen.randrange(len(request.inputs))
    tensor = request.inputs[place]
    match chosen.randrange(8):
        case 0:
            tensor.datatype = chosen.choice((*DATATYPES, "", "FP8", "\0"))
        case 1:
            tensor.shape.extend(chosen.choices(NUMBERS, k=chosen.choice((1, 1, 2, 40))))
        case 2:
            del tensor.shape[:]
        case 3:
            tensor.name = chosen.choice((*NAMES, *INPUTS))
        case 4:
            _contents(tensor, chosen)
        case 5:
            _share(tensor, chosen)
            if place < len(request.raw_input_contents) and chosen.random() < 0.8:
                del request.raw_input_contents[place]
        case 6:
            _parameter(tensor.parameters[chosen.choice((*SHARED, "classification", "x"))], chosen)
        case _:
            request.inputs.add().CopyFrom(tensor)


def _contents(tensor: Any, chosen: random.Random) -> None:
    """Typed contents, of its type or not."""
    contents = tensor.contents
    match chosen.randrange(6):
        case 0:
            contents.int_contents.extend(chosen.choices((0, -1, 2**31 - 1, -(2**31)), k=chosen.randint(0, 4)))
        case 1:
            contents.fp32_contents.extend(chosen.choices((0.0, float("nan"), 3e38), k=chosen.randint(0, 4)))
        case 2:
            contents.bytes_contents.extend(chosen.choices((b"", b"la", b"\xff\xfe"), k=chosen.randint(0, 4)))
        case 3:
            contents.uint64_contents.extend(chosen.choices((0, 2**64 - 1), k=chosen.randint(0, 4)))
        case 4:
            contents.bool_contents.append(True)
        case _:
            contents.SetInParent()


def _wound_raw(request: Request, chosen: random.Random) -> None:
    raws = request.raw_input_contents
    match chosen.randrange(4):
        case 0:
            raws[chosen.randrange(len(raws))] = chosen.randbytes(chosen.choice((0, 1, 3, 4, 8, 16, 1000)))
        case 1:
            raws.append(b"")
        case 2:
            del raws[chosen.randrange(len(raws)) :]
        case _:
            raws[chosen.randrange(len(raws))] = write_texts(chosen.choices(TEXTS, k=chosen.randint(0, 3)))


def _wound_output(request: Request, chosen: random.Random) -> None:
    output = request.outputs.add(name=chosen.choice((*NAMES, "sum", "total", "int32", "text_output", "finish_reason")))
    if chosen.random() < 0.5:
        _share(output, chosen)
    if chosen.random() < 0.02:
        request.outputs.extend([output] * 300)


def _wound_saying(request: Request, chosen: random.Random) -> None:
    """What a language model is told besides its text."""
    request.model_name = "text" if chosen.random() < 0.8 else request.model_name
    name = chosen.choice(tuple(INPUTS))
    if chosen.random() < 0.5:
        said = {
            chosen.choice((*sorted(SAID_BY_NAME), *USUAL, "x")): chosen.choice(
                (*NUMBERS, *TEXTS, 0.5, None, True, ["x"], {})
            )
        }
        _add(request, "sampling_parameters", "BYTES", [1], write_texts([json.dumps(said)]))
    else:
        datatype = INPUTS[name].datatype if chosen.random() < 0.8 else chosen.choice(tuple(DATATYPES))
        _add(request, name, datatype, [1], chosen.randbytes(chosen.choice((1, 4, 4, 8))))


def _wound_whole(request: Request, chosen: random.Random) -> None:
    match chosen.randrange(6):
        case 0:
            request.model_name = chosen.choice((*NAMES, *MODELS))
        case 1:
            request.model_version = chosen.choice(("1", "2", "-1", "x" * 100))
        case 2:
            request.id = chosen.choice(("", "x" * 2000, "ä"))
        case 3:
            names = (*sorted(OWN), "triton_x", "classification", *SHARED, "x", "", *sorted(SAID_BY_NAME))
            for _ in range(chosen.choice((1, 1, 2, 40))):
                _parameter(request.parameters[chosen.choice(names) + ("" if chosen.random() < 0.9 else "1")], chosen)
        case 4:
            del request.inputs[chosen.randrange(len(request.inputs)) :]
        case _:
            request.ClearField("raw_input_contents")


WOUNDS = (_wound_input, _wound_input, _wound_raw, _wound_output, _wound_saying, _wound_whole)


def wounded(number: int) -> bytes:
    """A request with some wounds; of one in eight the bytes themselves are damaged."""
    chosen = random.Random(number)
    request = good(chosen)
    for _ in range(chosen.choice((0, 1, 1, 1, 2, 3))):
        wound = chosen.choice(WOUNDS)
        if request.inputs and (request.raw_input_contents or wound is not _wound_raw):
            wound(request, chosen)
    data = bytearray(request.SerializeToString())
    if chosen.random() < 0.125 and data:
        for _ in range(chosen.randint(1, 4)):
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        if chosen.random() < 0.3:
            del data[chosen.randrange(len(data)) :]
    return bytes(data)
