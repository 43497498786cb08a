"""Sends traces to a collector, by OpenTelemetry's own library, in a thread of its own.

Nobody waits for the collector: what it does not take in time is dropped and counted, and so is what would wait behind
that. The library is loaded where traces are wanted (`inferd[otel]`), and not before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

import structlog

from inferd import __version__
from inferd.core.task import TaskState
from inferd.errors import InvalidFieldError
from inferd.runtime.telemetry.table import PROVIDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from inferd.runtime.clock import Clock
    from inferd.runtime.telemetry.tracer import Phase, TaskTrace
    from inferd.telemetry_settings import Otel

NANOS = 1_000_000_000
PATH = "/v1/traces"
FAREWELL_S = 2.0  # that the end of the kernel waits for what is left

log = structlog.get_logger()


class Exporter:
    """A bounded queue of traces, and the thread that sends them. Any thread may put.

    Args:
        settings: Where, and the bounds.
        clock: Of the instants of traces.

    Attributes:
        sent: Spans that the collector took.
        dropped: Spans that it did not take, or that did not fit into the queue.

    Raises:
        InvalidFieldError: OpenTelemetry's library is not installed.
    """

    def __init__(self, settings: Otel, clock: Clock) -> None:
        self.sent = self.dropped = 0
        self._settings = settings
        self._spans = Spans(clock)
        self._export = _exporter(settings)
        self._queue: deque[TaskTrace] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, trace: TaskTrace) -> None:
        """Take the trace of a task that has ended; where too many wait it is dropped."""
        if len(self._queue) >= self._settings.queued:
            self.dropped += spans_of(trace)
            return
        self._queue.append(trace)
        if len(self._queue) >= self._settings.batch:
            self._wake.set()

    def close(self) -> None:
        """Send what is left, if that is soon done."""
        self._closing = True
        self._wake.set()
        self._thread.join(FAREWELL_S)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._settings.interval_s)
            self._wake.clear()
            while self._queue and self._send():
                pass
            if self._failing and not self._closing:  # what came meanwhile is to make no haste
                self._wake.wait(self._settings.interval_s)

    def _send(self) -> bool:
        """Send a batch; whether the collector took it."""
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._settings.batch))]
        spans = [span for trace in batch for span in self._spans.of(trace)]
        why = "it took none"
        try:
            taken = self._export(spans)
        except Exception as error:  # noqa: BLE001 - an edge to a library, and to the network behind it
            taken, why = False, type(error).__name__
        if taken:
            self.sent += len(spans)
        else:
            self.dropped += len(spans)
        if taken is self._failing:
            self._failing = not taken
            if taken:
                log.info("the collector takes traces again", endpoint=self._settings.endpoint, dropped=self.dropped)
            else:
                log.warning("the collector takes no traces", endpoint=self._settings.endpoint, why=why)
        return taken


def spans_of(trace: TaskTrace) -> int:
    """How many spans a trace has here."""
    return 1 + len(trace.phases)


class Spans:
    """Makes spans of traces.

    Args:
        clock: Of their instants.
    """

    def __init__(self, clock: Clock) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - comes with an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - what comes here is to be sent

        made: list[ReadableSpan] = []

        class Ended(SpanProcessor):
            def on_end(self, span: ReadableSpan) -> None:
                made.append(span)

        resource = Resource.create({"service.name": "inferd", "service.version": __version__})
        provider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(Ended())
        self._tracer = provider.get_tracer("inferd", __version__)
        self._api = trace
        self._made = made
        self._clock = clock

    def of(self, trace: TaskTrace) -> Iterator[Any]:
        """The spans of a task: itself, then its phases."""
        api, finished, end = self._api, trace.finished, trace.end
        if finished is None or end is None:
            return
        ended = end.finished
        context = None
        if (parent := trace.parent) is not None:
            flags = api.TraceFlags(api.TraceFlags.SAMPLED)
            above = api.SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
            context = api.set_span_in_context(api.NonRecordingSpan(above))
        whole = self._tracer.start_span(
            f"{trace.spec.operation or 'task'} {trace.spec.model}",
            context=context,
            kind=api.SpanKind.SERVER,
            attributes=_facts(trace),
            start_time=self._nanos(trace.created),
        )
        if finished.outcome.state is TaskState.FAILED:
            whole.set_status(api.StatusCode.ERROR)
        within = api.set_span_in_context(whole)
        for phase in trace.phases:
            part = self._tracer.start_span(
                phase.name,
                context=within,
                attributes=_phase_facts(phase),
                start_time=self._nanos(phase.begin),
            )
            part.end(self._nanos(phase.end))
        whole.end(self._nanos(ended))
        yield from self._made
        self._made.clear()

    def _nanos(self, instant: float) -> int:
        return int(self._clock.wall(instant) * NANOS)


def _facts(trace: TaskTrace) -> Mapping[str, Any]:
    """Attributes of a task, by OpenTelemetry's names where it has some: no content, no tenant, no labels."""
    spec, finished = trace.spec, trace.finished
    facts: dict[str, Any] = {
        "gen_ai.operation.name": spec.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": spec.model,
        "inferd.task_id": spec.task_id,
        "inferd.priority": spec.priority.name.lower(),
        "inferd.attempts": trace.attempt,
    }
    if trace.left_out:
        facts["inferd.phases_left_out"] = trace.left_out
    if finished is None:
        return facts
    outcome, receipt = finished.outcome, finished.receipt
    facts |= {
        "gen_ai.usage.input_tokens": outcome.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": outcome.usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": outcome.usage.cached_tokens,
        "gen_ai.response.finish_reasons": [outcome.reason.name.lower()],
        "inferd.state": outcome.state.name.lower(),
        "inferd.version": receipt.version,
        "inferd.backend": receipt.backend,
        "inferd.device": receipt.device,
    }
    if outcome.error is not None:  # its words may be those of a task
        facts["error.type"] = outcome.error.reason
    if receipt.device_s is not None:
        facts["inferd.device_s"] = receipt.device_s
    return facts


def _phase_facts(phase: Phase) -> Mapping[str, Any]:
    named = {"inferd.attempt": phase.attempt, "inferd.instance": phase.instance, "inferd.reason": phase.reason}
    return {name: value for name, value in named.items() if value}


def _exporter(settings: Otel) -> Callable[[Sequence[Any]], bool]:
    """Sends spans; whether the collector took them."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415
    except ImportError:
        raise InvalidFieldError(
            'otel.endpoint is set and OpenTelemetry is not installed: pip install "inferd[otel]", or leave it out',
            field="otel.endpoint",
        ) from None
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # else a line each time that it tries again
    exporter = OTLPSpanExporter(endpoint=settings.endpoint.rstrip("/") + PATH, timeout=settings.timeout_s)
    return lambda spans: exporter.export(spans) is SpanExportResult.SUCCESS
