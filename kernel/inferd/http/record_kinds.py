"""What the records of each kind say. Others than the gateway can leave blobs: what is none of these is no record."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

KIND: Final = "inferd.http"
"""The field of a record that has its kind."""
FILE: Final = "file"
BATCH: Final = "batch"
CANCEL: Final = "batch-cancel"
END: Final = "batch-end"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileId = Annotated[str, Field(pattern=r"^file-[0-9a-f]{64}$")]
Moment = Annotated[int, Field(ge=0, lt=2**40)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Record(_Said):
    kind: str = Field(alias=KIND)
    nonce: str


class _File(_Record):
    filename: str
    purpose: str
    bytes: Count
    content: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    created_at: Moment


class _Batch(_Record):
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    input_file_id: FileId
    metadata: dict[str, str]
    created_at: Moment


class _Cancel(_Record):
    batch: Hex


class _Counts(_Said):
    total: Count
    completed: Count
    failed: Count


class _Error(_Said):
    code: str
    message: str
    line: Count | None
    param: str | None


class _End(_Record):
    batch: Hex
    status: Literal["completed", "failed", "cancelled", "expired"]
    request_counts: _Counts | None = None
    errors: list[_Error] | None = None
    output_file_id: FileId | None = None
    error_file_id: FileId | None = None
    completed_at: Moment | None = None
    failed_at: Moment | None = None
    cancelled_at: Moment | None = None
    expired_at: Moment | None = None


KINDS: Final[dict[str, type[_Record]]] = {FILE: _File, BATCH: _Batch, CANCEL: _Cancel, END: _End}


def is_record(said: Any) -> bool:
    """Whether a value is what a record says."""
    kind = said.get(KIND) if isinstance(said, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        return False
    try:
        KINDS[kind].model_validate(said)
    except ValidationError:
        return False
    return True
