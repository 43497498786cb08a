"""Models with all their files, as the wire has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from inferd.errors import InvalidFieldError, LimitExceededError
from inferd.runtime.front import exports
from inferd_api.v1 import bundle_pb2 as bp

if TYPE_CHECKING:
    from inferd.runtime.front.exports import Export, ExportedFile
    from inferd_api.v1 import model_pb2 as mp

DIGEST_BYTES: Final = 32


def read_had(had: bytes, most: int) -> frozenset[bytes]:
    """The digests of pieces that a caller has.

    Raises:
        InvalidFieldError: They are none.
        LimitExceededError: They are more than `most`.
    """
    if len(had) % DIGEST_BYTES:
        raise InvalidFieldError(
            f"had_pieces has {len(had)} bytes; digests have {DIGEST_BYTES} each, one behind another",
            field="had_pieces",
        )
    if (pieces := len(had) // DIGEST_BYTES) > most:
        raise LimitExceededError(
            f"had_pieces has {pieces} digests and bundles.had_pieces is {most}; leave some out: they come again",
            metadata={"bound": "bundles.had_pieces", "value": str(pieces), "limit": str(most)},
            field="had_pieces",
        )
    return frozenset(had[at : at + DIGEST_BYTES] for at in range(0, len(had), DIGEST_BYTES))


def write_start(export: Export, model: mp.Model) -> bp.ExportModelResponse:
    """The first message."""
    start = bp.ExportModelStart(
        model=model, files=len(export.files), piece_bytes=exports.PIECE_BYTES, path_settings=export.path_settings
    )
    return bp.ExportModelResponse(start=start)


def write_file(file: ExportedFile) -> bp.ExportModelResponse:
    """The message of a file."""
    written = bp.ExportedFile(
        name=file.name,
        digest=f"sha256:{file.digest}",
        size_bytes=file.size_bytes,
        piece_digests=b"".join(file.pieces),
        setting=file.setting,
    )
    return bp.ExportModelResponse(file=written)
