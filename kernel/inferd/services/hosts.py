"""`inferd.v1.HostService`."""

import asyncio
import os
import platform
from collections.abc import Mapping
from typing import Any

import grpc

from inferd import __version__
from inferd.core.broker import Account
from inferd.core.ids import DeviceId
from inferd.errors import InvalidFieldError
from inferd.plugin.backend import DeviceInfo, Setting
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.driver import Driver
from inferd.runtime.placement import ENGINE_SETTINGS
from inferd.runtime.plugins import Plugins
from inferd.runtime.worker_process import resident_bytes
from inferd.services.bounds import Bound
from inferd.services.model_values import write_instance
from inferd.services.pages import page_of
from inferd.services.times import read_seconds, timestamp
from inferd_api.v1 import host_pb2 as hp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import host_service_pb2_grpc
from inferd_api.v1 import priority_pb2 as pp

LEAST_INTERVAL_S, MOST_INTERVAL_S, DEFAULT_INTERVAL_S = 0.1, 60.0, 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class Hosts(host_service_pb2_grpc.HostServiceServicer):
    """Translates; see the proto for what each call means."""

    def __init__(
        self,
        driver: Driver,
        plugins: Plugins,
        *,
        unmeasured: Mapping[DeviceId, str],
        watchers_limit: int,
    ) -> None:
        self._driver = driver
        self._plugins = plugins
        self._unmeasured = unmeasured
        self._watchers = Bound("limits.host_watchers", watchers_limit, "streams that watch the host")
        self._started = driver.clock.now()

    async def GetHost(self, request: hs.GetHostRequest, context: Context) -> hs.GetHostResponse:  # noqa: ARG002, N802 - the wire's name
        """Read the host."""
        return hs.GetHostResponse(host=self._write_host())

    async def WatchHost(self, request: hs.WatchHostRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802 - the wire's name
        """Watch the host."""
        interval_s = read_seconds(request.interval, "interval") if request.HasField("interval") else DEFAULT_INTERVAL_S
        if not LEAST_INTERVAL_S <= interval_s <= MOST_INTERVAL_S:
            raise InvalidFieldError(
                f"interval is {interval_s:g} s; it must be from {LEAST_INTERVAL_S:g} s to {MOST_INTERVAL_S:g} s",
                field="interval",
            )
        with self._watchers.place():
            while True:
                instances = [
                    write_instance(instance, model, self._driver) for model, instance in self._driver.views.instances()
                ]
                await context.write(hs.WatchHostResponse(host=self._write_host(), instances=instances))
                async with self._driver.closing.cut_short():
                    await asyncio.sleep(interval_s)

    def _write_host(self) -> hp.Host:
        views = self._driver.views
        ready = [r for r in self._plugins.reports if r.state is BackendState.READY]
        devices = {d.device_id: d for r in ready for d in r.devices}
        accounts = views.devices
        return hp.Host(
            name=platform.node(),
            version=__version__,
            os=f"{platform.system()} {platform.release()}",
            devices=[
                _write_device(devices[name], accounts.get(DeviceId(name)), self._unmeasured.get(DeviceId(name), ""))
                for name in sorted(devices)
            ],
            pid=os.getpid(),
            memory_bytes=resident_bytes(os.getpid()),
            start_time=timestamp(self._driver.clock, self._started),
            queued_tasks=views.census.queued,
            running_tasks=views.census.running,
            loads=[
                hp.TenantLoad(
                    tenant=tenant,
                    priority=pp.Priority.ValueType(priority.value),
                    queued_tasks=queued,
                    running_tasks=running,
                )
                for (tenant, priority), (queued, running) in sorted(views.census.loads.items())
            ],
            tokens_per_second=self._driver.tokens_per_s(),
            leases=views.living_leases,
        )

    async def ListBackends(self, request: hs.ListBackendsRequest, context: Context) -> hs.ListBackendsResponse:  # noqa: ARG002, N802 - the wire's name
        """List the plugins that were found."""
        await self._plugins.refresh()
        found = [(f"{r.name} {n}", r) for n, r in enumerate(self._plugins.reports)]  # a name can stand twice
        page, token = page_of(sorted(found, key=lambda item: item[0]), request.page_size, request.page_token)
        return hs.ListBackendsResponse(backends=[write_backend(r) for r in page], next_page_token=token)


def write_backend(report: BackendReport) -> hp.Backend:
    """A backend as discovery found it, for the wire."""
    spec = report.spec
    return hp.Backend(
        name=report.name,
        state=hp.BackendState.ValueType(report.state.value),
        why=report.why,
        fix=report.fix,
        log_path=report.log_path,
        package=report.package,
        description=spec.description if spec is not None else "",
        formats=spec.formats if spec is not None else (),
        devices=[_write_device(device) for device in report.devices],
        settings=[_write_setting(s) for s in (*spec.settings, *ENGINE_SETTINGS)] if spec is not None else (),
    )


def _write_device(device: DeviceInfo, account: Account | None = None, unmeasured: str = "") -> hp.Device:
    written = hp.Device(
        device_id=device.device_id,
        description=device.description,
        memory_bytes=device.memory_bytes,
        cores=device.cores,
        unmeasured=unmeasured,
    )
    if account is not None:
        written.capacity_bytes = account.capacity_bytes
        written.instance_bytes = account.instance_bytes
        written.lease_bytes = account.lease_bytes
        written.foreign_bytes = account.foreign_bytes
        written.free_bytes = account.free_bytes
        written.leased_cores = account.leased_cores
    return written


def _write_setting(setting: Setting) -> hp.BackendSetting:
    return hp.BackendSetting(
        name=setting.name,
        kind=setting.kind,
        default_value="" if setting.default is None else str(setting.default),
        description=setting.description,
    )
