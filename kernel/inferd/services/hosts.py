"""`inferd.v1.HostService`."""

import os
import platform
from collections.abc import Sequence
from typing import Any

import grpc

from inferd import __version__
from inferd.plugin.backend import DeviceInfo, Setting
from inferd.plugin.registry import BackendReport, BackendState
from inferd.runtime.driver import Driver, resident_bytes
from inferd.runtime.placement import ENGINE_SETTINGS
from inferd.services.calls import page_of
from inferd.services.task_values import timestamp
from inferd_api.v1 import host_service_pb2 as hs
from inferd_api.v1 import host_service_pb2_grpc
from inferd_api.v1 import resources_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class Hosts(host_service_pb2_grpc.HostServiceServicer):
    """Translates; see the proto for what each call means."""

    def __init__(self, driver: Driver, reports: Sequence[BackendReport]) -> None:
        self._driver = driver
        self._reports = reports
        self._started = driver.clock.now()

    async def GetHost(self, request: hs.GetHostRequest, context: Context) -> hs.GetHostResponse:  # noqa: ARG002, N802 - the wire's name
        """Read the host."""
        ready = [r for r in self._reports if r.state is BackendState.READY]
        devices = {d.device_id: d for r in ready for d in r.devices}
        host = pb.Host(
            name=platform.node(),
            version=__version__,
            os=f"{platform.system()} {platform.release()}",
            devices=[_write_device(devices[name]) for name in sorted(devices)],
            pid=os.getpid(),
            memory_bytes=resident_bytes(os.getpid()),
            start_time=timestamp(self._driver.clock, self._started),
            queued_tasks=self._driver.machine.queued_tasks,
            running_tasks=self._driver.machine.running_tasks,
        )
        return hs.GetHostResponse(host=host)

    async def ListBackends(self, request: hs.ListBackendsRequest, context: Context) -> hs.ListBackendsResponse:  # noqa: ARG002, N802 - the wire's name
        """List the plugins that were found."""
        found = [(f"{r.name} {n}", r) for n, r in enumerate(self._reports)]  # a name can stand twice
        page, token = page_of(sorted(found, key=lambda item: item[0]), request.page_size, request.page_token)
        return hs.ListBackendsResponse(backends=[write_backend(r) for r in page], next_page_token=token)


def write_backend(report: BackendReport) -> pb.Backend:
    """A backend as discovery found it, for the wire."""
    spec = report.spec
    return pb.Backend(
        name=report.name,
        state=pb.BackendState.ValueType(report.state.value),
        why=report.why,
        fix=report.fix,
        package=report.package,
        description=spec.description if spec is not None else "",
        formats=spec.formats if spec is not None else (),
        devices=[_write_device(device) for device in report.devices],
        settings=[_write_setting(s) for s in (*spec.settings, *ENGINE_SETTINGS)] if spec is not None else (),
    )


def _write_device(device: DeviceInfo) -> pb.Device:
    return pb.Device(
        device_id=device.device_id,
        description=device.description,
        memory_bytes=device.memory_bytes,
        cores=device.cores,
    )


def _write_setting(setting: Setting) -> pb.BackendSetting:
    return pb.BackendSetting(
        name=setting.name,
        kind=setting.kind,
        default_value="" if setting.default is None else str(setting.default),
        description=setting.description,
    )
