"""The context of a trace, as W3C's Trace Context has it in `traceparent`: what a task is a part of.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
"""The key of metadata of a call, and of the label of a task that has a context of its own."""
LONGEST: Final = 256
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 0x01
_NO_VERSION: Final = "ff"
_FIRST_VERSION: Final = "00"

CALL: ContextVar[str] = ContextVar("CALL", default="")
"""What the call under way has said; "" for nothing."""


class TraceContext(NamedTuple):
    """A place in a trace."""

    trace_id: int
    span_id: int
    sampled: bool


def read_traceparent(text: str) -> TraceContext | None:
    """The context that a `traceparent` says; None for none, and for what is none: then a trace begins anew."""
    found = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    if found is None or found[1] == _NO_VERSION or (found[1] == _FIRST_VERSION and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    return TraceContext(trace_id, span_id, bool(int(found[4], 16) & _SAMPLED)) if trace_id and span_id else None
