"""The trace that a request is a part of: its tasks carry it to the kernel as a label, as their calls have none."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import Headers

TRACEPARENT: Final = "traceparent"
MOST_VALUE: Final = 256  # characters of a label
MOST_LABELS: Final = 16  # of a task

_SAID: ContextVar[str] = ContextVar("traceparent", default="")


def note_trace(headers: Headers) -> None:
    """Have the tasks of this request be a part of the trace that it names; the kernel judges whether that is one."""
    _SAID.set(headers.get(TRACEPARENT, "")[:MOST_VALUE])


def traced(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task of this request with its trace, unless it names one or has as many labels as may be."""
    labels = options.get("labels") or {}
    if not (said := _SAID.get()) or TRACEPARENT in labels or len(labels) >= MOST_LABELS:
        return dict(options)
    return {**options, "labels": {**labels, TRACEPARENT: said}}
