"""Durations and timestamps between the wire and the kernel's seconds; see google/protobuf/duration.proto."""

import math
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from inferd.errors import InvalidFieldError
from inferd.runtime.clock import Clock

MOST_SECONDS = 315_576_000_000  # of a duration, to either side: ten thousand years
NANOS = 1_000_000_000
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 and 9999: no timestamp is outside


def read_seconds(span: Duration, field: str) -> float:
    """A duration from the wire in seconds; `field` is its path in the request.

    One that is longer than durations are (`MOST_SECONDS`) is beyond the bound of every field, which says so itself.

    Raises:
        InvalidFieldError: It is none: its nanos are out of range or have the other sign.
    """
    seconds, nanos = span.seconds, span.nanos
    if abs(nanos) >= NANOS or seconds * nanos < 0:
        message = f"{field}.nanos is {nanos} beside {seconds} seconds; it must be below {NANOS} and of the same sign"
        raise InvalidFieldError(message, field=field)
    return seconds + nanos / NANOS


def read_timestamp(moment: Timestamp, field: str) -> float:
    """A time from the wire as Unix time; `field` is its path in the request.

    Raises:
        InvalidFieldError: It is none: its nanos are out of range.
    """
    if not 0 <= moment.nanos < NANOS:
        raise InvalidFieldError(f"{field}.nanos is {moment.nanos}; it must be from 0 to {NANOS - 1}", field=field)
    return moment.seconds + moment.nanos / NANOS


def duration(seconds: float | None) -> Duration | None:
    """Seconds for the wire; what it cannot say becomes the nearest that it can."""
    if seconds is None or math.isnan(seconds):
        return None
    value = Duration()
    _set(value, seconds)
    return value


def write_duration(seconds: float | None, message: Any, field: str) -> None:
    """As `duration`, in its place in a message, which costs half as much; nothing where there is none."""
    if seconds is not None and not math.isnan(seconds):
        _set(getattr(message, field), seconds)


def _set(value: Duration, seconds: float) -> None:
    nanos = int(min(max(seconds, -MOST_SECONDS), MOST_SECONDS) * NANOS)
    if 0 < nanos < NANOS:  # as most
        value.nanos = nanos
    else:
        value.FromNanoseconds(nanos)
        value.SetInParent()


def timestamp(clock: Clock, instant: float | None) -> Timestamp | None:
    """An instant of the kernel's clock for the wire; what it cannot say becomes the nearest that it can."""
    if instant is None or math.isnan(instant):
        return None
    return unix_time(clock.wall(instant))


def unix_time(seconds: float) -> Timestamp:
    """A Unix time for the wire, as `timestamp`."""
    value = Timestamp()
    value.FromNanoseconds(int(min(max(seconds, FIRST_SECOND), LAST_SECOND) * NANOS))
    return value
