"""`grpc.health.v1`: the kernel under "", each service under its name, each model under "model:NAME"."""

from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2 as hp
from grpc_health.v1 import health_pb2_grpc

from inferd.core.ids import ModelName
from inferd.core.model import ModelState
from inferd.errors import InferdError
from inferd.runtime.driver import Driver
from inferd.runtime.shelf import Shelf
from inferd.services.bounds import Bound

MODEL_PREFIX = "model:"

Context = grpc.aio.ServicerContext[Any, Any]
Serving = hp.HealthCheckResponse.ServingStatus


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # the package ships no types
    """Derives health from the state of the kernel. A model is SERVING when it takes tasks without loading first."""

    def __init__(self, driver: Driver, shelf: Shelf, services: tuple[str, ...], *, watchers_limit: int) -> None:
        self._driver = driver
        self._shelf = shelf
        self._services = services
        self._watchers = Bound("limits.health_watchers", watchers_limit, "streams that watch health")

    async def Check(self, request: hp.HealthCheckRequest, context: Context) -> hp.HealthCheckResponse:  # noqa: N802 - the wire's name
        """The health of a service; NOT_FOUND for an unknown one."""
        await self._look_for(request.service)
        status = self._health(request.service)
        if status == Serving.Value("SERVICE_UNKNOWN"):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return hp.HealthCheckResponse(status=status)

    async def Watch(self, request: hp.HealthCheckRequest, context: Context) -> None:  # noqa: N802 - the wire's name
        """The health of a service and each change of it."""
        name = ModelName(request.service.removeprefix(MODEL_PREFIX))  # of another service, only the end is told
        with self._watchers.place(), self._driver.watchers.models.watch(name) as changed:
            await self._look_for(request.service)
            told = None
            while True:
                seen = changed.version
                status = self._health(request.service)
                if status != told:
                    await context.write(hp.HealthCheckResponse(status=status))
                    told = status
                if self._driver.closed:
                    return
                await changed.wait(seen)

    async def _look_for(self, service: str) -> None:
        if service.startswith(MODEL_PREFIX):
            with suppress(InferdError):  # one that cannot be used is not known either
                await self._shelf.look_for(service.removeprefix(MODEL_PREFIX))

    def _health(self, service: str) -> int:
        if not service or service in self._services:
            return int(Serving.Value("NOT_SERVING" if self._driver.closed else "SERVING"))
        model = self._driver.views.find_model(ModelName(service.removeprefix(MODEL_PREFIX)))
        if not service.startswith(MODEL_PREFIX) or model is None:
            return int(Serving.Value("SERVICE_UNKNOWN"))
        return int(Serving.Value("SERVING" if model.state is ModelState.READY else "NOT_SERVING"))
