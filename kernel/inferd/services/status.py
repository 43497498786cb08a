"""The one translation of errors into `google.rpc.Status`."""

from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from inferd.errors import InferdError
from inferd.services.insight import told
from inferd.services.times import duration

DOMAIN = "inferd"
# An error travels in trailing metadata, its message twice, once percent-encoded; clients refuse more than 8 KiB.
MESSAGE_BYTES = 1000
DESCRIPTION_BYTES = 200
FACT_BYTES = 400
FACTS_BYTES = 1200


def status_of(error: InferdError, model: str | None = None) -> status_pb2.Status:
    """The status of an error, of a model where that is known, as its caller may know it.

    It has `ErrorInfo` always, `BadRequest`, `RetryInfo` and `QuotaFailure` where they apply.
    """
    error = told(error, model)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_facts(error))
    description = clip(error.message, DESCRIPTION_BYTES)
    details: list[Any] = [info]
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(error.field, DESCRIPTION_BYTES), description=description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after_s is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after_s)))
    if error.code == "RESOURCE_EXHAUSTED":
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=description)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=clip(error.message, MESSAGE_BYTES))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def clip(text: str, limit_bytes: int) -> str:
    """The text, or as much of its beginning as fits, with a mark where it was cut."""
    data = text.encode()
    if len(data) <= limit_bytes:
        return text
    return data[: limit_bytes - len("…".encode())].decode(errors="ignore") + "…"


def _facts(error: InferdError) -> dict[str, str]:
    facts: dict[str, str] = {}
    left_bytes = FACTS_BYTES
    for name, value in error.metadata.items():
        facts[name] = clip(value, max(3, min(FACT_BYTES, left_bytes)))
        left_bytes -= len(facts[name].encode())
    return facts
