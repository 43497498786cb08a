"""Elements of tensors as the Open Inference Protocol has them: raw bytes, or lists by their types."""

import asyncio
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Final

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.plugin.tensor import ElementType, size_bytes
from inferd.services.inference.datatypes import DATATYPES, Datatype
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.v1 import tensor_pb2 as pb

LENGTH: Final = struct.Struct("<I")
"""Before each text."""
SLICE: Final = 65_536
"""Elements that are packed before others have their turn."""


async def read_tensor(
    given: gp.ModelInferRequest.InferInputTensor, raw: bytes | None, path: str, *, model: str, most_strings: int
) -> pb.Tensor:
    """An input as `inferd.v1` has it; others have their turn between the parts of a large one.

    Args:
        given: It.
        raw: Its elements; None where they are in its contents.
        path: Of it in the request.
        model: As the request names it.
        most_strings: Most texts, `limits.tensor_strings`.

    Raises:
        InvalidFieldError: Its type is none, or its elements are not as type and shape say.
        LimitExceededError: It has too many texts.
    """
    datatype, made = begin_tensor(given, path)
    if datatype.kind is ElementType.STRING:
        made.strings.values.extend(_texts(given, raw, path, model, most_strings))
        return made
    if raw is not None:
        check_size(given, datatype, len(raw), path, model)
        data = raw
    else:
        data = await _packed(given, datatype, path, model)
    if data:
        made.data = data
    return made


def begin_tensor(given: gp.ModelInferRequest.InferInputTensor, path: str) -> tuple[Datatype, pb.Tensor]:
    """The type of an input, and all of it but its elements.

    Raises:
        InvalidFieldError: There is no such type, or a size is below 0.
    """
    datatype = DATATYPES.get(given.datatype)
    if datatype is None:
        raise InvalidFieldError(
            f"invalid datatype {given.datatype[:80]!r} for input '{given.name[:80]}'; it must be one of"
            f" {', '.join(DATATYPES)}",
            field=f"{path}.datatype",
        )
    if (low := min(given.shape, default=0)) < 0:
        raise InvalidFieldError(f"{path}.shape has a size of {low}; each is 0 or more", field=f"{path}.shape")
    made = pb.Tensor(name=given.name, element_type=pb.ElementType.ValueType(datatype.kind.value), shape=given.shape)
    return datatype, made


def check_size(
    given: gp.ModelInferRequest.InferInputTensor, datatype: Datatype, size: int, path: str, model: str
) -> None:
    """Refuse bytes that are not as many as the shape says."""
    if size != (need := size_bytes(datatype.kind, given.shape)):
        raise InvalidFieldError(
            f"input byte size mismatch for input '{given.name[:80]}' for model '{model[:128]}'. Expected {need}, got"
            f" {size}: {given.datatype} of shape {list(given.shape)}",
            field=path,
        )


async def _packed(given: gp.ModelInferRequest.InferInputTensor, datatype: Datatype, path: str, model: str) -> bytes:
    """The bytes of typed contents, which are counted before any is packed."""
    if not datatype.contents:
        raise InvalidFieldError(
            f"input '{given.name[:80]}' is {given.datatype}, which has no typed contents; give raw_input_contents",
            field=f"{path}.contents",
        )
    values = _typed(given, datatype, path)
    packed = array(datatype.code)
    check_size(given, datatype, len(values) * packed.itemsize, path, model)
    try:
        for at in range(0, len(values), SLICE):
            if at:
                await asyncio.sleep(0)
            packed.extend(values[at : at + SLICE])
    except OverflowError:
        raise InvalidFieldError(
            f"{path}.contents.{datatype.contents} has a number that is no {given.datatype}", field=f"{path}.contents"
        ) from None
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _typed(given: gp.ModelInferRequest.InferInputTensor, datatype: Datatype, path: str) -> Sequence[Any]:
    values: Sequence[Any] = ()
    for field, value in given.contents.ListFields():
        if field.name != datatype.contents:
            raise InvalidFieldError(
                f"{path}.contents.{field.name} is given for {given.datatype}, whose elements are in"
                f" {datatype.contents or 'raw_input_contents'}",
                field=f"{path}.contents.{field.name}",
            )
        values = value
    return values


def _texts(
    given: gp.ModelInferRequest.InferInputTensor, raw: bytes | None, path: str, model: str, most_strings: int
) -> Iterable[str]:
    count = prod(given.shape)
    if count > most_strings:
        raise LimitExceededError(
            f"{path}.shape has {count} texts and limits.tensor_strings is {most_strings}",
            metadata={"bound": "limits.tensor_strings", "value": str(count), "limit": str(most_strings)},
            field=f"{path}.shape",
        )
    whose = f"for inference input '{given.name[:80]}' for model '{model[:128]}'"
    texts = _split(raw, path, count, whose) if raw is not None else _typed(given, DATATYPES["BYTES"], path)
    if len(texts) != count:
        words = f"expected {count} string elements {whose}, got {len(texts)}"
        if len(texts) > count:
            words = f"unexpected number of string elements {len(texts)} {whose}, expecting {count}"
        raise InvalidFieldError(f"{words}: shape is {list(given.shape)}", field=path)
    try:
        return [text.decode() for text in texts]
    except UnicodeDecodeError:
        raise InvalidFieldError(
            f"input '{given.name[:80]}' has an element that is no UTF-8; BYTES are texts here, give other bytes as"
            " UINT8",
            field=path,
        ) from None


def _split(raw: bytes, path: str, count: int, whose: str) -> list[bytes]:
    """The texts of raw bytes, no more than one beyond what there may be."""
    texts: list[bytes] = []
    at, size = 0, len(raw)
    while at < size and len(texts) <= count:
        start = at + LENGTH.size
        if start > size:
            raise InvalidFieldError(
                f"incomplete string length indicator {whose}, expecting {LENGTH.size} bytes but only {size - at} bytes"
                f" available: element {len(texts)} at byte {at}",
                field=path,
            )
        (length,) = LENGTH.unpack_from(raw, at)
        if start + length > size:
            raise InvalidFieldError(
                f"incomplete string data {whose}, expecting string of length {length} but only {size - start} bytes"
                f" available: element {len(texts)} at byte {at}; each text is behind its length in four bytes",
                field=path,
            )
        texts.append(raw[start : start + length])
        at = start + length
    return texts


def write_texts(texts: Iterable[str]) -> bytes:
    """Texts as raw bytes, each behind its length."""
    written = bytearray()
    for text in texts:
        data = text.encode()
        written += LENGTH.pack(len(data))
        written += data
    return bytes(written)
