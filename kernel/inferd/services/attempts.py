"""Logins that fail, counted for each peer: one that goes on failing is asked to wait, and no other peer is."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog

from inferd.errors import LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Callable

    from inferd.auth_settings import Auth

log = structlog.get_logger()


class Attempts:
    """Counts failed logins. A peer is a connection: programs of one host, or behind one address, do not share a count.

    What a guess costs is bounded by this, not whether it succeeds: a secret has 256 bits.

    Args:
        settings: The bounds.
        now: Seconds that never fall.
    """

    def __init__(self, settings: Auth, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def check(self, peer: str) -> None:
        """Refuse a peer that has failed too often; it may try again when its time is over.

        Raises:
            LimitExceededError: It has.
        """
        if not self._failed or (found := self._failed.get(peer)) is None:
            return
        count, began = found
        left_s = began + self._settings.failed_s - self._now()
        if left_s <= 0:
            del self._failed[peer]
        elif count >= self._settings.failed_logins:
            raise LimitExceededError(
                f"{count} logins have failed on this connection and auth.failed_logins is "
                f"{self._settings.failed_logins}; log in again in {left_s:.0f} s",
                metadata={
                    "bound": "auth.failed_logins",
                    "value": str(count),
                    "limit": str(self._settings.failed_logins),
                },
                retry_after_s=left_s,
            )

    def failed(self, peer: str) -> None:
        """A login of a peer has failed."""
        count, began = self._failed.get(peer, (0, self._now()))
        self._failed[peer] = (count + 1, began)
        if count + 1 == self._settings.failed_logins:
            log.warning("logins go on failing; this connection is asked to wait", peer=peer, failed=count + 1)
        if len(self._failed) > self._settings.failing_peers:
            self._failed.popitem(last=False)
