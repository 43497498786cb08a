"""`inferd lease keep`: leases of others, kept alive from a shell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

from inferd.cli.amounts import span
from inferd.cli.kernel import connected
from inferd.cli.output import CommandError, command_error
from inferd.cli.plain import plain
from inferd_client import InferdError
from inferd_client.errors import from_status
from inferd_client.holding import MOST_KEPT_ALIVE, PAUSE_S, RENEWALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inferd.cli.output import Output
    from inferd_api.v1.lease_service_pb2 import LeaseRenewal
    from inferd_client import Client

SHORTEST_PAUSE_S = 0.05
TRIED_AGAIN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "UNKNOWN", "INTERNAL"})
"""Codes of failures that another attempt may not have."""


def keep(
    output: Output, address: str, tenant: str, lease_ids: Sequence[str], *, ttl_s: float | None, once: bool
) -> None:
    """Keep leases alive, until Ctrl-C or until all of them have ended.

    A call that fails is tried again for as long as a lease may still hold, unless it is the first one.

    Raises:
        typer.Exit: One of them has ended, or is not known: exit code 1.
    """
    with connected(address, tenant) as client:
        keeping = Keeping(output, client, lease_ids, ttl_s=ttl_s)
        while True:
            keeping.renew(once=once)
            if once or not keeping.left:
                break
            time.sleep(keeping.pause_s)
    if keeping.ended:
        raise typer.Exit(1)


class Keeping:
    """Leases that are kept alive, and until when each certainly holds, on `time.monotonic`.

    Attributes:
        left: Those that hold, as far as is known.
        ended: Whether one of them does not any more.
        pause_s: How long to wait before they are kept alive again.
    """

    def __init__(self, output: Output, client: Client, lease_ids: Sequence[str], *, ttl_s: float | None) -> None:
        self._output = output
        self._client = client
        self._ttl_s = ttl_s
        self._failing = False
        self.left: dict[str, float | None] = dict.fromkeys(lease_ids)
        self.ended = False
        self.pause_s = PAUSE_S

    def renew(self, *, once: bool) -> None:
        """Keep all of them alive once more.

        Raises:
            InferdError: The first call failed, or none would do better.
        """
        pauses_s = []
        names = list(self.left)
        for start in range(0, len(names), MOST_KEPT_ALIVE):
            sent = time.monotonic()
            chunk = names[start : start + MOST_KEPT_ALIVE]
            try:
                renewals = self._client.keep_alive(chunk, ttl_s=self._ttl_s, timeout_s=self._patience_s(chunk))
            except InferdError as error:
                if once or error.code not in TRIED_AGAIN or any(self.left[name] is None for name in chunk):
                    raise
                self._give_up(chunk, error)
                pauses_s.append(PAUSE_S)
                continue
            self._failing = False
            pauses_s += [self._note(renewal, sent, once=once) for renewal in renewals]
        self.pause_s = max(SHORTEST_PAUSE_S, min(pauses_s, default=0.0))

    def _patience_s(self, chunk: Sequence[str]) -> float | None:
        """How long to wait for an answer: a kernel that hangs must leave time for another attempt."""
        sure = [until for name in chunk if (until := self.left[name]) is not None]
        return max(PAUSE_S, (min(sure) - time.monotonic()) / RENEWALS) if sure else None

    def _note(self, renewal: LeaseRenewal, sent: float, *, once: bool) -> float:
        """Take the answer about a lease and tell it; how long until it is to be kept alive again."""
        if renewal.HasField("error"):
            told = command_error(from_status(renewal.error))
            told.metadata.setdefault("lease_id", renewal.lease_id)
            self._output.error(told)
            self.ended = True
            self.left.pop(renewal.lease_id, None)
            return PAUSE_S
        remaining_s = renewal.remaining.ToNanoseconds() / 1e9
        if self._output.json:
            self._output.line(plain(renewal))
        elif once:
            self._output.text(f"{renewal.lease_id} holds for {span(remaining_s)}")
        self.left[renewal.lease_id] = sent + remaining_s
        return remaining_s / RENEWALS

    def _give_up(self, chunk: Sequence[str], error: InferdError) -> None:
        """Keep those that may still hold, and tell which do not."""
        if not self._failing:
            self._failing = True
            self._output.note(f"tried again: {error.message}")
        for name in chunk:
            if (self.left[name] or 0.0) <= time.monotonic():
                del self.left[name]
                self.ended = True
                message = f"lease {name} is lost: the kernel has not confirmed it in time ({error.message})"
                self._output.error(CommandError(message, reason="LEASE_LOST", metadata={"lease_id": name}))
