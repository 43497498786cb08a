"""`grpc.health.v1`: the kernel under "", each service under its name, each model under "model:NAME".

Of a model that the caller may not read is told what is told of none. "store" tells whether what is to be kept can be;
it is not known where nothing is kept.
"""

from collections.abc import Collection
from contextlib import aclosing

from grpc_health.v1 import health_pb2 as hp

from inferd.core.ids import ModelName
from inferd.errors import ModelNotFoundError
from inferd.runtime.front import health as front
from inferd.runtime.store_state import STORE
from inferd.services.calls import Call

MODEL_PREFIX, STORE_NAME = "model:", "store"
UNKNOWN, SERVING, NOT_SERVING = (
    hp.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVICE_UNKNOWN", "SERVING", "NOT_SERVING")
)


class Health:
    """Translates; what is asked of a name that is nobody's is told in the same words, whatever others have."""

    def __init__(self, health: front.Health, services: Collection[str]) -> None:
        self._health = health
        self._services = services

    async def Check(self, request: hp.HealthCheckRequest, call: Call) -> hp.HealthCheckResponse:  # noqa: N802 - the wire's name
        """The health of a service; NOT_FOUND for an unknown one."""
        serves = await self._health.read(self._subject(request.service), sees=call.admission.reads)
        if serves is None:
            raise ModelNotFoundError(f"no service {request.service!r}", field="service")
        return hp.HealthCheckResponse(status=_status(serves))

    async def Watch(self, request: hp.HealthCheckRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """The health of a service and each change of it."""
        subject, sees = self._subject(request.service), call.admission.reads
        async with aclosing(self._health.watch(subject, call.caller, sees=sees)) as changes:
            async for serves in changes:
                await call.write(hp.HealthCheckResponse(status=_status(serves)))

    def _subject(self, service: str) -> ModelName | None:
        """Whose health is meant: the kernel's for each service, a model's, or nobody's."""
        if not service or service in self._services:
            return front.KERNEL
        if service == STORE_NAME:
            return STORE
        if service.startswith(MODEL_PREFIX) and service != MODEL_PREFIX:
            return ModelName(service.removeprefix(MODEL_PREFIX))
        return front.NOBODY


def _status(serves: bool | None) -> int:  # noqa: FBT001 - a state of three
    if serves is None:
        return int(UNKNOWN)
    return int(SERVING if serves else NOT_SERVING)
