"""The base of all that a call can raise; see `inferd_client.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class InferdError(Exception):
    """Base of every error of this package.

    Attributes:
        reason: Name in `inferd.v1.ErrorReason` without its prefix; "" when the status carried none.
        code: Name of the canonical gRPC status code, for example "NOT_FOUND".
        message: For people.
        metadata: Facts for programs, by name; `inferd.v1.ErrorReason` lists them.
        field: Path of the request's field that is wrong, else "".
        retry_after_s: When trying again makes sense, in seconds; else None.
    """

    reason = ""
    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.field = field
        self.retry_after_s = retry_after_s
