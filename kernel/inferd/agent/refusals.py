"""After which answers of a kernel an agent does not try again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import structlog

if TYPE_CHECKING:
    from inferd_client import InferdError

REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Of what helps no trying again."""
ENDED = frozenset({"revoked", "expired"})
"""How a key has ended for good, as a kernel tells who has it."""

log = structlog.get_logger()


class Refusals:
    """Judges what kernels answer to one agent.

    A kernel that does not know the key of a host that was attached may have begun with the wrong store, pepper or
    backup, and be followed by the right one: then it is tried again, and only the time of its workers ends.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._taken = self._unknown = False

    def end(self, *, taken: bool = False) -> None:
        """There is none any more; a kernel has `taken` the host, or did not answer."""
        self._since, self._unknown, self._taken = None, self._unknown and not taken, self._taken or taken

    def judge(self, code: grpc.StatusCode, failure: InferdError) -> None:
        """Whether to try again.

        Raises:
            InferdError: No.
        """
        if code not in REFUSED:
            self.end()
            return
        if code is grpc.StatusCode.UNAUTHENTICATED and self._taken and failure.metadata.get("cause") not in ENDED:
            if not self._unknown:
                log.warning(
                    "the kernel does not know this host any more: it is tried again, workers stay for hosts.grace_s",
                    why=failure.message,
                )
            self._unknown = True
            return
        if failure.retry_after_s is None:
            raise failure
        now = asyncio.get_running_loop().time()
        self._since = now if self._since is None else self._since
        if now - self._since > 2 * failure.retry_after_s:  # whoever has the name is alive
            raise failure
