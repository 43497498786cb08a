"""Who is told of tasks beside their clients: the log, and a collector of traces, where they are to be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from inferd.config import Settings
from inferd.runtime.driver import Driver
from inferd.runtime.front.bounds import Calls
from inferd.runtime.telemetry.otlp import Exporter
from inferd.runtime.telemetry.present import of_calls
from inferd.runtime.telemetry.task_lines import TaskLines
from inferd.runtime.telemetry.tracer import Tracer


@asynccontextmanager
async def observed(settings: Settings, driver: Driver, calls: Calls) -> AsyncIterator[None]:
    """Tell of the tasks of a driver, and of the calls of its clients, until the block ends.

    Raises:
        InvalidFieldError: Traces are to be sent, and what sends them is not installed.
    """
    driver.metrics.registry.read(partial(of_calls, calls.ended))
    watchers = driver.watchers
    if settings.logs.tells_tasks:
        watchers.enders.append(TaskLines(driver.views, settings.logs.tasks_per_s).ended)
    if not settings.otel.endpoint:
        yield
        return
    exporter = Exporter(settings.otel, driver.clock)
    tracer = Tracer(driver.views, driver.streams, driver.clock, sample=settings.otel.sample, give=exporter.put)
    watchers.seers.append(tracer.see)
    watchers.enders.append(tracer.ended)
    driver.metrics.tell_traces(exporter)
    try:
        yield
    finally:
        await asyncio.to_thread(exporter.close)
