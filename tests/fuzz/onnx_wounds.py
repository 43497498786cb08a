"""Wounds of ONNX files: of bytes, which most readers notice, and of what a sound message says, which they do not."""

import random
from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NUMBERS = (0, 1, 2, 3, 7, 16, -1, -2, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63))
SMALL = (0, 1, 2, 3, 7, 16, 1000, (1 << 31) - 1)  # for fields of 32 bits
FLOATS = (0.0, -1.0, 1e-30, 1e30, float("inf"), float("nan"))
WHOLE = frozenset({FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64})
REAL = frozenset({FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE})


def wound_bytes(data: bytearray, rng: random.Random) -> None:
    """Damage a file in one place."""
    at = rng.randrange(len(data))
    size = min(1 << rng.randrange(6), len(data) - at)
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + size] = rng.randbytes(size)
        case 2:
            del data[at : at + size]
        case 3:
            data[at:at] = data[at : at + size]
        case 4:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        case _:
            other = rng.randrange(len(data))
            data[at : at + size] = data[other : other + size]


def wound_message(data: bytes, rng: random.Random, count: int) -> bytes:
    """A sound file in which some fields say something else."""
    model = onnx.ModelProto.FromString(data)
    texts = sorted({value for _, _, value in _scalars(model) if isinstance(value, str)})
    for _ in range(count):
        message, field, _ = rng.choice(list(_scalars(model)))
        _change(message, field, rng, texts)
    return model.SerializeToString()


def _scalars(message: Message) -> Iterator[tuple[Message, FieldDescriptor, Any]]:
    """Every field that is set, of a message and of those in it; the value of those that are no messages."""
    for field, value in message.ListFields():
        if field.message_type is None:
            yield message, field, value
            continue
        yield message, field, None
        for each in value if field.is_repeated else (value,):
            yield from _scalars(each)


def _change(message: Message, field: FieldDescriptor, rng: random.Random, texts: list[str]) -> None:
    if field.is_repeated:
        _change_list(getattr(message, field.name), field, rng, texts)
    elif field.message_type is not None:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _another(field, getattr(message, field.name), rng, texts))


def _change_list(values: Any, field: FieldDescriptor, rng: random.Random, texts: list[str]) -> None:
    """One less, one twice, or another one."""
    if not values:
        return
    place = rng.randrange(len(values))
    match rng.randrange(3):
        case 0:
            del values[place]
        case 1 if field.message_type is not None:
            values.add().CopyFrom(values[place])
        case 1:
            values.append(values[place])
        case _ if field.message_type is None:
            values[place] = _another(field, values[place], rng, texts)
        case _:
            values[place].CopyFrom(values[rng.randrange(len(values))])


def _another(field: FieldDescriptor, value: Any, rng: random.Random, texts: list[str]) -> Any:
    if field.cpp_type in REAL:
        return rng.choice(FLOATS)
    if field.cpp_type in WHOLE:
        return rng.choice([number for number in (*NUMBERS, value + 1, value - 1) if -(1 << 63) <= number < 1 << 63])
    if isinstance(value, str):
        return rng.choice(["", "x" * 300, *texts])
    if isinstance(value, bytes):
        return rng.choice([b"", value[:-1], value + b"\0", rng.randbytes(len(value))])
    return rng.choice([each.number for each in field.enum_type.values] if field.enum_type else SMALL)
