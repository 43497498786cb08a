"""Ids of tasks, leases, keys, quotas and runs of pipelines, of which the beginning is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from inferd.cli.output import CommandError
from inferd_client.errors import (
    FlagNotFoundError,
    KeyNotFoundError,
    LeaseNotFoundError,
    PipelineRunNotFoundError,
    QuotaNotFoundError,
    TaskNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Found = TypeVar("Found")
UNKNOWN: Final = (
    TaskNotFoundError,
    LeaseNotFoundError,
    KeyNotFoundError,
    QuotaNotFoundError,
    FlagNotFoundError,
    PipelineRunNotFoundError,
)
SHOWN = 4  # ids that begin alike


def by_prefix(call: Callable[[str], Found], given: str, ids: Iterable[str]) -> Found:
    """Call with an id, or where none is known of this name with the only one that begins so.

    Args:
        call: What is done to it.
        given: An id or the beginning of one.
        ids: All that there are; read only where it is needed.

    Raises:
        CommandError: Several begin so.
        InferdError: None does; or what `call` raises.
    """
    try:
        return call(given)
    except UNKNOWN as error:
        found = [each for each in ids if each.startswith(given)]
        if len(found) > 1:
            more = ", …" if len(found) > SHOWN else ""
            message = (
                f"{len(found)} ids begin with {given!r}: {', '.join(found[:SHOWN])}{more}; write more of the one meant"
            )
            raise CommandError(message, reason="USAGE") from None
        if not found:
            raise error from None
    return call(found[0])
