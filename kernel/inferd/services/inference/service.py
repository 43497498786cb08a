"""`inference.GRPCInferenceService`, the Open Inference Protocol with Triton's extensions."""

from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn

from inferd import __version__
from inferd.config import Limits
from inferd.core import task_events as te
from inferd.core.ids import ModelName
from inferd.core.model import Model
from inferd.errors import InferdError, InvalidFieldError, ModelNotFoundError, UnsupportedInputError, present
from inferd.repository.ensembles import Ensemble
from inferd.runtime.front.front import Front
from inferd.runtime.front.health import KERNEL
from inferd.runtime.front.regions import MOST_NAME, RegionNotFoundError, Regions
from inferd.runtime.repository_book import MOST_DEPTH
from inferd.services.calls import Call
from inferd.services.extents import Extents
from inferd.services.inference.agreement import completed, config_of, metadata_of
from inferd.services.inference.datatypes import NotOfferedError
from inferd.services.inference.ensembles import Course, run_ensemble
from inferd.services.inference.language import SIGNATURE
from inferd.services.inference.refusals import unknown
from inferd.services.inference.repositories import Numbering
from inferd.services.inference.repository_calls import RepositoryCalls
from inferd.services.inference.requests import refuse_in_ensembles, timeout_in
from inferd.services.inference.responses import check_size, write_config, write_metadata, write_statistics
from inferd.services.inference.runs import Run, Runs, newest, version_told, written
from inferd.services.inference.stream_ensembles import Ensembles
from inferd.services.inference.streams import InferStream
from inferd.services.inference.telling import Telling
from inferd.services.inference.told import Told
from inferd_api.inference import grpc_service_pb2 as gp
from inferd_api.inference import model_config_pb2 as cp
from inferd_api.v1 import tensor_pb2 as pb

EXTENSIONS: Final = (
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
SHARED: Final = "system_shared_memory"
PAGE: Final = 1000


class Inference:
    """Translates; see the proto for what each call means."""

    def __init__(
        self,
        front: Front,
        extents: Extents,
        regions: Regions,
        told: Told,
        *,
        limits: Limits,
        most_steps: int,
    ) -> None:
        self._most_steps = most_steps
        self._output_limit_bytes = limits.output_bytes
        self._tasks = front.tasks
        self._models = front.models
        self._health = front.health
        self._message_limit_bytes = limits.message_bytes
        self._regions = regions
        self._told = told
        self._numbering = Numbering(front.repository)
        self._repository = RepositoryCalls(front.repository, front.models, self._each)
        self._runs = Runs(
            front.tasks,
            front.models,
            extents,
            self._numbering,
            regions,
            most_strings=limits.tensor_strings,
            most_shared_bytes=limits.task_input_bytes,
            prompt_limit_bytes=limits.prompt_bytes,
        )

    # What there is.

    async def ServerLive(self, request: gp.ServerLiveRequest, call: Call) -> gp.ServerLiveResponse:  # noqa: ARG002, N802 - the wire's name
        """Whether the kernel answers: it does."""
        return gp.ServerLiveResponse(live=True)

    async def ServerReady(self, request: gp.ServerReadyRequest, call: Call) -> gp.ServerReadyResponse:  # noqa: ARG002, N802 - the wire's name
        """Whether the kernel takes tasks."""
        return gp.ServerReadyResponse(ready=bool(await self._health.read(KERNEL, sees=call.admission.reads)))

    async def ServerMetadata(self, request: gp.ServerMetadataRequest, call: Call) -> gp.ServerMetadataResponse:  # noqa: ARG002, N802 - the wire's name
        """What the kernel is."""
        extensions = (*EXTENSIONS, SHARED) if self._regions.offered else EXTENSIONS
        return gp.ServerMetadataResponse(name="inferd", version=__version__, extensions=extensions)

    async def ModelReady(self, request: gp.ModelReadyRequest, call: Call) -> gp.ModelReadyResponse:  # noqa: N802 - the wire's name
        """Whether a model takes tasks without loading first; one that is not known does not."""
        with suppress(ModelNotFoundError):
            name = await self._runs.check_version(request.name, request.version)
            meant = self._numbering.names(request.name, newest(request.version), name)
            sees = all(map(call.admission.reads, (request.name, *meant)))
            if (ensemble := self._numbering.ensemble(request.name)) is not None:
                return gp.ModelReadyResponse(ready=sees and not self._numbering.lacks(ensemble))
            serves = await self._health.read(ModelName(name), sees=lambda _: sees)
            return gp.ModelReadyResponse(ready=bool(request.name and serves))
        return gp.ModelReadyResponse(ready=False)

    async def ModelMetadata(self, request: gp.ModelMetadataRequest, call: Call) -> gp.ModelMetadataResponse:  # noqa: N802 - the wire's name
        """What a model takes and gives."""
        if self._numbering.ensemble(request.name) is not None:
            config = await self._ensemble_config(request.name, request.version, call)
            return metadata_of(config, self._numbering.versions(request.name))
        signature, model = await self._signature(request.name, request.version, call)
        versions = self._numbering.versions(request.name, model)
        if self._numbering.terms(request.name) is None:
            return write_metadata(signature, model, versions)
        return metadata_of(self._config(request.name, signature, model), versions)

    async def ModelConfig(self, request: gp.ModelConfigRequest, call: Call) -> gp.ModelConfigResponse:  # noqa: N802 - the wire's name
        """What a model takes and gives, and how it is served."""
        if self._numbering.ensemble(request.name) is not None:
            return gp.ModelConfigResponse(config=await self._ensemble_config(request.name, request.version, call))
        signature, model = await self._signature(request.name, request.version, call)
        return gp.ModelConfigResponse(config=self._config(request.name, signature, model))

    async def _ensemble_config(self, name: str, version: str, call: Call) -> cp.ModelConfig:
        await self._runs.find(name, version, call)
        return config_of(present(self._numbering.terms(name)), name)

    def _config(self, name: str, signature: pb.ModelSignature, model: Model) -> cp.ModelConfig:
        config, terms = write_config(signature, model), self._numbering.terms(name)
        config.name = name
        return config if terms is None else completed(terms, config)

    async def _signature(self, name: str, version: str, call: Call) -> tuple[pb.ModelSignature, Model]:
        found = await self._runs.find(name, version, call)
        try:
            signature = pb.ModelSignature.FromString(await self._models.signature(found, call.caller))
        except ModelNotFoundError as error:
            raise unknown(error, name) from None
        except UnsupportedInputError:
            signature = SIGNATURE
        return signature, await self._models.get(found)

    # What is run.

    async def ModelInfer(self, request: gp.ModelInferRequest, call: Call) -> gp.ModelInferResponse:  # noqa: N802 - the wire's name
        """Run a model once."""
        return await self._infer(request, call)

    async def _infer(
        self, request: gp.ModelInferRequest, call: Call, course: Course | None = None, depth: int = 0
    ) -> gp.ModelInferResponse:
        """Run a model once, which may be an ensemble, on the course of so many others."""
        if (ensemble := self._numbering.ensemble(request.model_name)) is not None:
            return await self._run_ensemble(ensemble, request, call, course or self._course(request, call), depth)
        run = await self._runs.begin(request, call)
        del request  # its elements stay with the core, for as long as that needs them
        try:
            async with run.held:
                return await self._once(run)
        except NotOfferedError:
            raise
        except InferdError as error:
            raise await self._runs.explained(error, run.request, call.caller) from None

    def _course(self, request: gp.ModelInferRequest, call: Call) -> Course:
        timeout_s, now = timeout_in(request.parameters), self._tasks.clock.now
        return Course(
            limit_bytes=self._output_limit_bytes,
            most_steps=self._most_steps,
            hold=partial(self._tasks.holding, call.caller.tenant),
            now=now,
            ends=None if timeout_s is None else now() + timeout_s,
        )

    async def _run_ensemble(
        self, ensemble: Ensemble, request: gp.ModelInferRequest, call: Call, course: Course, depth: int
    ) -> gp.ModelInferResponse:
        (number,) = self._numbering.versions(request.model_name)  # it may be unloaded meanwhile
        await self._runs.find(request.model_name, request.model_version, call)
        refuse_in_ensembles(request)
        if depth > MOST_DEPTH:
            raise InvalidFieldError(f"circular dependency between ensembles: {request.model_name}", field="model_name")
        response = await run_ensemble(
            ensemble, request, call, partial(self._infer, course=course, depth=depth + 1), course
        )
        response.model_version = number
        check_size(response.ByteSize(), self._message_limit_bytes)
        return response

    def _is_ensemble(self, name: str) -> bool:
        return self._numbering.ensemble(name) is not None

    async def _once(self, run: Run) -> gp.ModelInferResponse:
        if run.telling is not None:
            return await self._once_text(run, run.telling)
        response, version = None, 0
        async for batch in run.stream.follow(0, gathers=True):
            for each in batch:
                version = version_told(each.event, version)
                if not isinstance(each.event, te.TensorOutput):
                    continue
                if response is not None:
                    raise NotOfferedError(
                        "ModelInfer RPC doesn't support models with decoupled transaction policy: model"
                        f" '{run.request.model_name}' gives several sets of outputs; use ModelStreamInfer"
                    )
                response = written(run, each.event, version, limit_bytes=self._message_limit_bytes)
        return run.response(version) if response is None else response

    @staticmethod
    async def _once_text(run: Run, telling: Telling) -> gp.ModelInferResponse:
        """What a language model writes, at its end."""
        if telling.streams:
            raise NotOfferedError(
                f"ModelInfer RPC doesn't support models with decoupled transaction policy: model"
                f" '{run.request.model_name}' is asked to stream; use ModelStreamInfer, or leave `stream` out"
            )
        version = 0
        async for batch in run.stream.follow(0, gathers=True):
            for each in batch:
                version = version_told(each.event, version)
                telling.take(each.event)
        response = run.response(version)
        telling.write(response)
        return response

    async def ModelStreamInfer(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Run models, each message by itself."""
        ensembles = Ensembles(self._infer, self._is_ensemble, self._tasks, call)
        stream = InferStream(self._runs, self._tasks, call, ensembles, message_limit_bytes=self._message_limit_bytes)
        await stream.serve()

    async def ModelStatistics(self, request: gp.ModelStatisticsRequest, call: Call) -> gp.ModelStatisticsResponse:  # noqa: N802 - the wire's name
        """What was counted of a model, or of all that the caller may read."""
        if not request.name:
            return gp.ModelStatisticsResponse(model_stats=[self._counted(each) async for each in self._each(call)])
        name = await self._runs.find(request.name, request.version, call)
        if self._numbering.ensemble(name) is not None:  # its models are counted
            (number,) = self._numbering.versions(name)
            return gp.ModelStatisticsResponse(model_stats=[gp.ModelStatistics(name=name, version=number)])
        try:
            model = await self._models.get(name)
        except ModelNotFoundError as error:
            raise unknown(error, request.name) from None
        return gp.ModelStatisticsResponse(model_stats=[self._counted(model)])

    def _counted(self, model: Model) -> gp.ModelStatistics:
        written = write_statistics(model, self._models.counted(model.spec.name))
        written.name, written.version = self._numbering.told(model)
        return written

    # What is kept ready.

    async def RepositoryIndex(self, request: gp.RepositoryIndexRequest, call: Call) -> gp.RepositoryIndexResponse:  # noqa: N802 - the wire's name
        """List models by name: those that the caller may read."""
        return await self._repository.index(request, call)

    async def _each(self, call: Call) -> AsyncIterator[Model]:
        """Models by name: those that the caller may read."""
        after, more = None, True
        while more:
            page = await self._models.list(after=after, size=PAGE)
            for model in page.records:
                if call.admission.sees(model.spec.name):
                    yield model
            after, more = page.records[-1].spec.name if page.records else None, page.more

    async def RepositoryModelLoad(  # noqa: N802 - the wire's name
        self, request: gp.RepositoryModelLoadRequest, call: Call
    ) -> gp.RepositoryModelLoadResponse:
        """Load a model and wait for it."""
        return await self._repository.load(request, call)

    async def RepositoryModelUnload(  # noqa: N802 - the wire's name
        self, request: gp.RepositoryModelUnloadRequest, call: Call
    ) -> gp.RepositoryModelUnloadResponse:
        """Unload a model and wait for it."""
        return await self._repository.unload(request, call)

    # Memory that clients share.

    async def SystemSharedMemoryRegister(  # noqa: N802 - the wire's name
        self, request: gp.SystemSharedMemoryRegisterRequest, call: Call
    ) -> gp.SystemSharedMemoryRegisterResponse:
        """Make a region known."""
        tenant = self._runs.reach(call).check()
        self._regions.register(
            tenant,
            request.name,
            request.key,
            start=request.offset,
            size_bytes=request.byte_size,
            uid=call.admission.login.uid,
        )
        return gp.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryStatus(  # noqa: N802 - the wire's name
        self, request: gp.SystemSharedMemoryStatusRequest, call: Call
    ) -> gp.SystemSharedMemoryStatusResponse:
        """The regions of the caller's tenant, or one of them."""
        tenant = self._runs.reach(call).check()
        if request.name and request.name not in self._regions.list(tenant):
            raise RegionNotFoundError(
                f"Unable to find system shared memory region: '{request.name[:MOST_NAME]}'", field="name"
            )
        told = gp.SystemSharedMemoryStatusResponse()
        for name, region in self._regions.list(tenant).items():
            if request.name in {"", name}:
                into = told.regions[name]
                into.name, into.key, into.offset, into.byte_size = name, region.key, region.start, region.size_bytes
        return told

    async def SystemSharedMemoryUnregister(  # noqa: N802 - the wire's name
        self, request: gp.SystemSharedMemoryUnregisterRequest, call: Call
    ) -> gp.SystemSharedMemoryUnregisterResponse:
        """Forget a region, or all of the tenant."""
        self._regions.unregister(self._runs.reach(call).check(), request.name)
        return gp.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryRegister(self, request: Any, call: Call) -> NoReturn:  # noqa: ARG002, N802 - the wire's name
        """Refused."""
        raise NotOfferedError(CUDA)

    async def CudaSharedMemoryStatus(  # noqa: N802 - the wire's name
        self,
        request: gp.CudaSharedMemoryStatusRequest,
        call: Call,  # noqa: ARG002 - as of all
    ) -> gp.CudaSharedMemoryStatusResponse:
        """None is registered."""
        if request.name:
            raise RegionNotFoundError(
                f"Unable to find cuda shared memory region: '{request.name[:MOST_NAME]}'; {CUDA}", field="name"
            )
        return gp.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryUnregister(self, request: Any, call: Call) -> gp.CudaSharedMemoryUnregisterResponse:  # noqa: ARG002, N802 - the wire's name
        """There is nothing to forget: clients do so before they begin."""
        return gp.CudaSharedMemoryUnregisterResponse()

    # What is told of the kernel.

    async def TraceSetting(self, request: gp.TraceSettingRequest, call: Call) -> gp.TraceSettingResponse:  # noqa: ARG002, N802 - the wire's name
        """How requests are traced, which no call changes."""
        if request.model_name:
            try:
                await self._models.get(request.model_name)
            except ModelNotFoundError as error:
                raise unknown(error, request.model_name) from None
        return self._told.traces(request)

    async def LogSettings(self, request: gp.LogSettingsRequest, call: Call) -> gp.LogSettingsResponse:  # noqa: ARG002, N802 - the wire's name
        """What is logged, which no call changes."""
        return self._told.logs(request)


CUDA: Final = (
    "CUDA shared memory is not offered by this kernel; use system shared memory, send tensors in the request, or name"
    " an upload or a blob with inferd.v1.TaskService.RunTask"
)
