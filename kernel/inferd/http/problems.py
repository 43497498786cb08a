"""What went wrong, for who speaks HTTP: a status, and a body in the shape that the caller's library reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inferd_client.errors import InferdError

if TYPE_CHECKING:
    from collections.abc import Mapping

BY_CODE: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The status of a gRPC code; 500 for others."""
BY_REASON: Final[Mapping[str, int]] = {
    **dict.fromkeys(("MODEL_LOAD_FAILED", "BACKEND_UNAVAILABLE", "SANDBOX_INCOMPLETE", "POISON", "PROBE_FAILED"), 424),
    "MODERATED": 400,  # no try of the same makes it better
    "OUTPUT_INVALID": 422,  # clients of HTTP try a 409 again by themselves
    "EVENTS_DROPPED": 410,
    **dict.fromkeys(("NO_MEMORY", "DISK_FULL", "LEASE_UNAVAILABLE"), 503),
}
"""Where the code alone would have clients try again in vain, or not try again."""
TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
SERVER_ERROR: Final = 500
TOO_LARGE: Final = 413
OF_THE_HOST: Final = frozenset({"log"})
"""Facts of errors that are paths on the kernel's machine: who calls over HTTP cannot read there."""
PREFIXES: Final = ("spec.sampling.", "spec.chat.", "spec.")
"""What the paths of fields begin with that clients of HTTP do not have."""


class Refusal(Exception):  # noqa: N818 - it is what the caller is told, and no defect
    """The gateway refuses a request.

    Attributes:
        message: For people, with the fix.
        status: Of HTTP.
        code: For programs, as the reasons of the kernel.
        param: The field that it is about; "" for none.
        retry_after_s: When trying again makes sense, in seconds; None for never.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "INVALID_FIELD",
        param: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is told of an error; the fields are those of `Refusal`, and `facts` the metadata of the kernel's error."""

    message: str
    status: int
    code: str
    param: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those that go with it."""
        told = {}
        if self.retry_after_s is not None:
            told["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:  # noqa: PLR2004 - of RFC 9110
            told["www-authenticate"] = "Bearer"
        return told

    @property
    def kind(self) -> str:
        """Its `type` in OpenAI's words."""
        if self.status >= SERVER_ERROR:
            return "server_error"
        return TYPES.get(self.status, "invalid_request_error")

    @property
    def openai(self) -> dict[str, Any]:
        """Its body in OpenAI's shape."""
        told: dict[str, Any] = {
            "message": self.message,
            "type": self.kind,
            "param": self.param or None,
            "code": self.code,
        }
        if self.facts:
            told["metadata"] = dict(self.facts)
        return {"error": told}

    @property
    def ollama(self) -> dict[str, Any]:
        """Its body in Ollama's shape, with the code beside it."""
        return {"error": self.message, "code": self.code}


def problem_of(error: Exception) -> Problem | None:
    """What is told of an error; None for one that is a defect of the gateway."""
    if isinstance(error, Refusal):
        return Problem(
            message=error.message,
            status=error.status,
            code=error.code,
            param=error.param,
            retry_after_s=error.retry_after_s,
        )
    if isinstance(error, InferdError):
        return Problem(
            message=error.message,
            status=_status(error),
            code=error.reason or error.code,
            param=_param(error.field),
            facts={name: fact for name, fact in error.metadata.items() if name not in OF_THE_HOST},
            retry_after_s=error.retry_after_s,
        )
    return None


INTERNAL: Final = Problem(
    message="the gateway failed at this request; its log says where", status=SERVER_ERROR, code="INTERNAL"
)


def _status(error: InferdError) -> int:
    if error.reason == "LIMIT_EXCEEDED" and error.retry_after_s is None:
        return TOO_LARGE if error.metadata.get("bound", "").endswith("_bytes") else 400
    if error.reason in BY_REASON:
        return BY_REASON[error.reason]
    return BY_CODE.get(error.code, SERVER_ERROR)


def _param(path: str) -> str:
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path
