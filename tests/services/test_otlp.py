"""Traces of tasks on their way to a collector that speaks OTLP over HTTP."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from connection import Connection, read_all
from time_limits import LONG_S

from inferd.errors import InvalidFieldError
from inferd.testing.kernel import kernel_here

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="inferd[otel] is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DEADLINE_S = LONG_S
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PROMPT = "a word of the prompt"


class Collector(ThreadingHTTPServer):
    """Takes spans, or refuses them."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.status = 200
        self.asked = threading.Event()
        self.bodies: list[bytes] = []
        super().__init__(("127.0.0.1", 0), Taking)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Taking(BaseHTTPRequestHandler):
    """A request to a `Collector`."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200:
            request = ExportTraceServiceRequest.FromString(body)
            self.server.bodies.append(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.server.spans += scope.spans
        self.send_response(self.server.status)
        self.end_headers()
        self.server.asked.set()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


def said_by(span: Any) -> dict[str, Any]:
    """Attributes of a span."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_a_task_is_a_span_with_a_span_for_each_phase(tmp_path: Path) -> None:
    """It is a part of the client's trace, with its phases within it, none for a token, and nothing of what was said."""
    with collecting() as collector:
        otel = {"endpoint": collector.endpoint, "interval_s": 0.05}
        async with kernel_here(tmp_path, otel=otel) as kernel:
            connection = Connection(kernel, tmp_path)
            await connection.create()
            metadata = (("traceparent", f"00-{TRACE}-{SPAN}-01"),)
            await read_all(connection.chat(PROMPT, metadata=metadata))
            assert await asyncio.to_thread(collector.asked.wait, DEADLINE_S)
            await connection.channel.close()
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"chat fake", "queue", "load", "prefill", "decode"}
    whole = spans.pop("chat fake")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, SPAN)
    for part in spans.values():
        assert (part.trace_id, part.parent_span_id) == (whole.trace_id, whole.span_id)
        assert whole.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano
        assert part.end_time_unix_nano <= whole.end_time_unix_nano
    said = said_by(whole)
    assert (said["gen_ai.operation.name"], said["gen_ai.request.model"]) == ("chat", "fake")
    assert said["gen_ai.usage.output_tokens"] > 0
    assert said["inferd.state"] == "succeeded"
    assert not any(PROMPT.encode() in body for body in collector.bodies)


async def test_a_dead_collector_costs_a_counted_drop(tmp_path: Path) -> None:
    """Where nobody takes traces tasks go on as ever, what is beyond the queue is dropped, and all of it is counted."""
    otel = {"endpoint": "http://127.0.0.1:9", "interval_s": 0.01, "timeout_s": 0.2, "queued": 2, "batch": 1}
    async with kernel_here(tmp_path, otel=otel) as kernel:
        connection = Connection(kernel, tmp_path)
        await connection.create()
        for _ in range(8):
            await read_all(connection.endless(tokens=1))
        await connection.channel.close()
        registry = kernel.driver.metrics.registry
    page = registry.page().decode()  # the kernel has ended, and with it what waited
    dropped = float(page.split("\ninferd_spans_dropped_total ")[1].split("\n")[0])
    assert dropped >= 5 * 4  # those that found two before them; each with three phases at least


async def test_traces_need_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is to send traces and cannot says at its start what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(InvalidFieldError, match=r"inferd\[otel\]"):
        async with kernel_here(tmp_path, otel={"endpoint": "http://127.0.0.1:4318"}):
            pass
