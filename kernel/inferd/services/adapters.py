"""`inferd.v1.AdapterService`."""

from inferd.core.adapter import Adapter
from inferd.core.model import Model
from inferd.errors import InvalidFieldError
from inferd.runtime.front.adapters import ModelAdapters
from inferd.services.calls import Call
from inferd.services.status import status_of
from inferd_api.v1 import adapter_service_pb2 as asp

MOST_PATH = 4096


class Adapters:
    """Translates; see the proto for what each call means."""

    def __init__(self, adapters: ModelAdapters) -> None:
        self._adapters = adapters

    async def LoadAdapter(self, request: asp.LoadAdapterRequest, call: Call) -> asp.LoadAdapterResponse:  # noqa: N802 - the wire's name
        """Make an adapter of a model known."""
        if not 0 < len(request.path) <= MOST_PATH:
            message = f"path has {len(request.path)} characters; it must have 1 to {MOST_PATH}"
            raise InvalidFieldError(message, field="path")
        model, adapter = await self._adapters.load(
            call.caller, request.model, request.name, request.path, digest=request.digest, replace=request.replace
        )
        return asp.LoadAdapterResponse(adapter=self._write(model, adapter))

    async def UnloadAdapter(self, request: asp.UnloadAdapterRequest, call: Call) -> asp.UnloadAdapterResponse:  # noqa: ARG002, N802 - the wire's name
        """Take an adapter from a model."""
        await self._adapters.unload(request.model, request.name)
        return asp.UnloadAdapterResponse()

    async def ListAdapters(self, request: asp.ListAdaptersRequest, call: Call) -> asp.ListAdaptersResponse:  # noqa: ARG002, N802 - the wire's name
        """List the adapters of a model."""
        found = await self._adapters.list(request.model)
        return asp.ListAdaptersResponse(adapters=[self._write(model, adapter) for model, adapter in found])

    def _write(self, model: Model, adapter: Adapter) -> asp.Adapter:
        told, state = self._adapters.of(model, adapter)
        written = asp.Adapter(
            name=adapter.name,
            model=model.spec.name,
            path=adapter.path,
            digest=adapter.digest,
            size_bytes=adapter.size_bytes,
            rank=told.rank,
            targets=told.targets,
            memory_bytes=told.memory_bytes,
            state=asp.AdapterState.ValueType(state.value),
        )
        if told.error is not None:
            written.error.CopyFrom(status_of(told.error))
        return written
