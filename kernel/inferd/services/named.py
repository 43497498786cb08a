"""Elements that the tensors of a task name instead of bringing them."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from inferd.errors import InferdError, InvalidFieldError

if TYPE_CHECKING:
    from inferd.runtime.blob_memories import BlobPart
    from inferd.runtime.front.blobs import Blobs
    from inferd.runtime.front.caller import Caller
    from inferd.shared import Part
    from inferd_api.v1 import tensor_pb2 as pb

DIGEST_FORM: Final = re.compile(r"sha256:([0-9a-f]{64})")


class Named(NamedTuple):
    """Elements that a tensor names.

    Attributes:
        part: They.
        digest: Equal for the same part of equal uploads, or of a blob.
        blob: Which of a blob it is; None for one of an upload.
    """

    part: Part
    digest: bytes
    blob: BlobPart | None = None


async def read_named(blobs: Blobs, caller: Caller, given: pb.InferInput) -> dict[int, Named]:
    """What the inputs name in blobs, by their places.

    Raises:
        InvalidFieldError: A digest is none, or a blob ends before.
        InferdError: A blob is not there, or cannot be read; they are too large.
    """
    found: dict[int, Named] = {}
    total_bytes = sum(each.blob.size_bytes for each in given.inputs if each.HasField("blob"))
    for place, each in enumerate(given.inputs):
        if not each.HasField("blob"):
            continue
        path, blob = f"spec.infer.inputs[{place}].blob", each.blob
        try:
            digest = read_digest(blob.digest, "digest")
            kept, part = await blobs.part(
                caller, digest, start=blob.start, size_bytes=blob.size_bytes, total_bytes=total_bytes
            )
        except InferdError as error:
            error.field = f"{path}.{(error.field or 'digest').replace('offset_bytes', 'start')}"
            raise
        mark = b"".join([bytes.fromhex(digest), blob.start.to_bytes(8), blob.size_bytes.to_bytes(8)])
        found[place] = Named(part, sha256(mark).digest(), kept)
    return found


def read_digest(digest: str, field: str) -> str:
    """The hexadecimal digits of a digest.

    Raises:
        InvalidFieldError: It is none.
    """
    if (found := DIGEST_FORM.fullmatch(digest)) is None:
        raise InvalidFieldError(
            f"{field} is {digest[:80]!r}; it must be sha256: and 64 hexadecimal digits in lower case", field=field
        )
    return found[1]
