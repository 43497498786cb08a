"""`inferd.v1.ModelService`."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

from inferd.core.model import Model
from inferd.core.policy import Policy, ResourceKind, Verb
from inferd.core.version import VersionState
from inferd.errors import InvalidFieldError
from inferd.model_names import NAME_RULE, TAKEN, TAKEN_RULE, is_hidden, is_name
from inferd.runtime.fetching import Fetch
from inferd.runtime.front import models as front
from inferd.runtime.front.access import Admission, Names
from inferd.runtime.front.blobs import Blobs
from inferd.runtime.front.optimization import Told
from inferd.runtime.front.optimizing import Optimizing
from inferd.runtime.front.versions import Other
from inferd.runtime.model_files import ModelFile, check_names
from inferd.services.calls import Call
from inferd.services.chunks import Chunks
from inferd.services.export_values import read_had, write_file, write_start
from inferd.services.extents import Extents
from inferd.services.model_values import (
    read_bounds,
    read_other,
    read_pinned,
    read_rules,
    read_traits,
    read_traits_change,
    write_fault,
    write_fetch,
    write_model,
    write_plan,
    write_rollout_plan,
    write_version,
)
from inferd.services.named import read_digest
from inferd.services.optimization_values import read_wanted, write_told
from inferd.services.pages import name_of, size_of, token_of
from inferd.services.rollout_values import kept_probe, read_probe
from inferd.services.sampling_values import read_sampling_defaults
from inferd.services.work_values import read_text, read_token_ids
from inferd_api.v1 import bundle_pb2 as bp
from inferd_api.v1 import model_pb2 as mp
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1.optimize_pb2 import OptimizeModelRequest
from inferd_api.v1.tensor_pb2 import ModelSignature

NAME_MODEL = Policy(
    Verb.CREATE, ResourceKind.MODEL
)  # what an alias needs: it is found where a model of its name would be
MOST_SETTING = 4096  # characters of a setting, its name, or a source


class Models:
    """Translates; see the proto for what each call means."""

    def __init__(
        self,
        models: front.Models,
        blobs: Blobs,
        optimizing: Optimizing,
        *,
        had_pieces_limit: int,
        prompt_limit_bytes: int,
        message_limit_bytes: int,
        extents: Extents,
    ) -> None:
        self._models = models
        self._blobs = blobs
        self._optimizing = optimizing
        self._had_pieces_limit = had_pieces_limit
        self._prompt_limit_bytes = prompt_limit_bytes
        self._chunks = Chunks(blobs, extents, message_limit_bytes=message_limit_bytes)

    async def CreateModel(self, request: ms.CreateModelRequest, call: Call) -> ms.CreateModelResponse:  # noqa: N802 - the wire's name
        """Make a model known."""
        _check(request.model, "model")
        _check_source(request.model.source, "model.source")
        self._check_named(call, request.model)
        model = await self._models.create(
            call.caller, source=request.model.source, **self._read(request.model, "model")
        )
        return ms.CreateModelResponse(model=self._write(model))

    async def UploadModel(self, _: Any, call: Call) -> None:  # noqa: N802 - the wire's name
        """Take the files of a model and make it known."""
        async with self._blobs.cut_short():
            start = await self._chunks.read(call, "nothing came")
            if start is None or start.WhichOneof("kind") != "start":
                raise InvalidFieldError("the first message has no start; say which files follow", field="start")
            wanted = start.start.model
            call.admission.check_models((wanted.name,))
            self._check_named(call, wanted)
            read = self._read(wanted, "start.model")
            files = read_upload(start.start)
            for file in files:
                async with self._blobs.giving(call.caller, file.digest, file.size_bytes) as giving:
                    await self._chunks.take(call, giving, partial(self._accepted, file.name))
                    await giving.finish()
            model = await self._models.upload(call.caller, files, **read)
            complete = ms.UploadModelComplete(model=self._write(model))
            await call.write(ms.UploadModelResponse(complete=complete))

    def _accepted(self, name: str, offset_bytes: int) -> ms.UploadModelResponse:
        accepted = ms.UploadModelAccepted(name=name, offset_bytes=offset_bytes, chunk_bytes=self._chunks.most_bytes)
        return ms.UploadModelResponse(accepted=accepted)

    async def GetModel(self, request: ms.GetModelRequest, call: Call) -> ms.GetModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Read a model."""
        model = await self._models.get(request.name)
        message = self._write(model)
        if model.traits.probe:
            message.probe.CopyFrom(kept_probe(model.traits.probe))
        return ms.GetModelResponse(model=message)

    async def ListModels(self, request: ms.ListModelsRequest, call: Call) -> ms.ListModelsResponse:  # noqa: N802 - the wire's name
        """List models by name: those of a page that the caller may read."""
        page = await self._models.list(after=name_of(request.page_token), size=size_of(request.page_size))
        return ms.ListModelsResponse(
            models=[
                self._write(model)
                for model in page.records
                if call.admission.sees(model.spec.name)
                and not is_hidden(model.spec.name)
                and dict(request.labels).items() <= model.traits.labels.items()
            ],
            next_page_token=token_of(page, lambda model: model.spec.name),
            faults=[
                write_fault(fault)
                for fault in self._models.declarations.all_faults
                if not request.page_token
                and (call.admission.sees(fault.name) if fault.name else call.admission.grant.whole)
            ],
        )

    async def LoadModel(self, request: ms.LoadModelRequest, call: Call) -> ms.LoadModelResponse:  # noqa: N802 - the wire's name
        """Load a model and wait for it; under a lease, one instance more."""
        return ms.LoadModelResponse(model=self._write(await self._models.load(request.name, call.caller)))

    async def PlanLoad(self, request: ms.PlanLoadRequest, call: Call) -> ms.PlanLoadResponse:  # noqa: N802 - the wire's name
        """What a load would take."""
        _check_settings(request.settings, "settings")
        plan = await self._models.plan(
            request.name,
            call.caller,
            sees=call.admission.reads,
            settings=request.settings,
            backend=request.backend,
            device=request.device,
        )
        return ms.PlanLoadResponse(plan=write_plan(plan))

    async def UnloadModel(self, request: ms.UnloadModelRequest, call: Call) -> ms.UnloadModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Unload a model and wait for it."""
        model, returned_bytes = await self._models.unload(
            request.name, force=request.force, instance_id=request.instance_id
        )
        message = self._write(model)
        return ms.UnloadModelResponse(
            model=message, returned_bytes=returned_bytes, kept_prefix_bytes=message.kept_prefix_bytes
        )

    async def UpdateModel(self, request: ms.UpdateModelRequest, call: Call) -> ms.UpdateModelResponse:  # noqa: N802 - the wire's name
        """Give a model another version."""
        _check_settings(request.settings, "settings")
        if request.source:
            _check_source(request.source, "source")
        other, change = read_other(request, self._models.versions.limits), read_traits_change(request)
        traits, may = self._models.traits, partial(_check_may, call.admission)
        await traits.check(request.name, change, may=may)
        async with self._models.fetched(request.name, other) as there:
            if request.validate_only:
                versions, sees = self._models.versions, call.admission.reads
                model, plan = await versions.plan(request.name, there, call.caller, sees=sees)
                return ms.UpdateModelResponse(model=self._write(model), plan=write_rollout_plan(plan, model))
            wanted = await self._with_probe(request, there)
            model = await self._models.update(request.name, wanted, change, call.caller, may=may)
        return ms.UpdateModelResponse(model=self._write(model))

    def _check_named(self, call: Call, wanted: mp.Model) -> None:
        _check_may(call.admission, self._models.traits.added(wanted.name, wanted.aliases))

    def _read(self, wanted: mp.Model, where: str) -> dict[str, Any]:
        """What is wanted of a model besides its source."""
        fewest, most = read_bounds(wanted)
        return {
            "name": wanted.name,
            "backend": wanted.backend,
            "device": wanted.device,
            "settings": dict(wanted.settings),
            "min_instances": fewest,
            "max_instances": most,
            "sampling": read_sampling_defaults(wanted.sampling_defaults),
            "traits": read_traits(wanted, where, self._models.versions.limits),
            "digest": read_pinned(wanted.pinned_digest, f"{where}.pinned_digest"),
            "rules": read_rules(wanted.placement, f"{where}.placement"),
        }

    async def _with_probe(self, request: ms.UpdateModelRequest, other: Other) -> Other:
        """An update with the model's own probe, where it says nothing of one, and names no version that is kept."""
        if other == Other() or request.HasField("probe") or request.version:
            return other
        if not (written := (await self._models.get(request.name)).traits.probe):
            return other
        probe = read_probe(kept_probe(written), self._models.versions.limits, request.name)
        return replace(other, probe=probe)

    async def OptimizeModel(self, request: OptimizeModelRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Try settings of a model, and tell which serve a target best."""

        async def tell(told: Told) -> None:
            await call.write(write_told(told))

        wanted = read_wanted(request, prompt_limit_bytes=self._prompt_limit_bytes)
        await self._optimizing.run(wanted, call.caller, tell, sees=call.admission.reads)

    async def ListModelVersions(self, request: ms.ListModelVersionsRequest, call: Call) -> ms.ListModelVersionsResponse:  # noqa: ARG002, N802 - the wire's name
        """List the versions of a model."""
        versions = await self._models.versions.list(request.name)
        serving = next(each for each in versions if each.state is VersionState.SERVING)
        return ms.ListModelVersionsResponse(versions=[write_version(each, self._models, serving) for each in versions])

    async def DeleteModel(self, request: ms.DeleteModelRequest, call: Call) -> ms.DeleteModelResponse:  # noqa: ARG002, N802 - the wire's name
        """Forget a model."""
        if request.drain and request.force:
            raise InvalidFieldError("drain waits for tasks and force ends them; leave one of them out", field="force")
        await self._models.delete(request.name, drain=request.drain, force=request.force)
        return ms.DeleteModelResponse()

    async def Tokenize(self, request: ms.TokenizeRequest, call: Call) -> ms.TokenizeResponse:  # noqa: N802 - the wire's name
        """Turn a text or a conversation into tokens."""
        return ms.TokenizeResponse(token_ids=await self._tokenize(request, call))

    async def CountTokens(self, request: ms.CountTokensRequest, call: Call) -> ms.CountTokensResponse:  # noqa: N802 - the wire's name
        """Count the tokens of a text or a conversation."""
        return ms.CountTokensResponse(tokens=len(await self._tokenize(request, call)))

    async def Detokenize(self, request: ms.DetokenizeRequest, call: Call) -> ms.DetokenizeResponse:  # noqa: N802 - the wire's name
        """Turn tokens into text."""
        given = read_token_ids(request, self._prompt_limit_bytes)
        answer = await self._models.detokenize(request.model, given, call.caller)
        writing = None if answer.writing is None else ms.ModelWriting(**answer.writing._asdict())
        return ms.DetokenizeResponse(text=answer.text, pieces=answer.pieces, writing=writing)

    async def _tokenize(self, request: ms.TokenizeRequest | ms.CountTokensRequest, call: Call) -> Sequence[int]:
        given = read_text(request, self._prompt_limit_bytes)
        try:
            return await self._models.tokenize(request.model, given, call.caller)
        except InvalidFieldError as error:  # a worker knows the input as a task's
            field = error.field.removeprefix("spec.")
            raise InvalidFieldError(error.message, metadata=error.metadata, field=field) from None

    async def GetModelSignature(self, request: ms.GetModelSignatureRequest, call: Call) -> ms.GetModelSignatureResponse:  # noqa: N802 - the wire's name
        """What a model of tensors takes and gives."""
        written = await self._models.signature(request.model, call.caller)
        return ms.GetModelSignatureResponse(signature=ModelSignature.FromString(written))

    async def ExportModel(self, request: bp.ExportModelRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Read a model with all its files."""
        exports, had = self._models.exports, read_had(request.had_pieces, self._had_pieces_limit)
        async with exports.cut_short(), exports.open(request.name, call.caller) as export:
            await call.write(write_start(export, self._write(export.model)))
            for file in export.files:
                await call.write(write_file(file))
            async with aclosing(exports.pieces(export.files, had)) as pieces:
                async for piece in pieces:
                    for at in range(0, len(piece), self._chunks.most_bytes):
                        await call.write(bp.ExportModelResponse(chunk=piece[at : at + self._chunks.most_bytes]))

    async def WatchModel(self, request: ms.WatchModelRequest, call: Call) -> None:  # noqa: N802 - the wire's name
        """Watch a model; what changes while a message is under way is merged into the next one."""
        told = None
        async with aclosing(self._models.watch(request.name, call.caller)) as changes:
            async for model in changes:
                if isinstance(model, Fetch):
                    message = mp.Model(name=request.name, source=model.source, fetch=write_fetch(model))
                    message.state = mp.MODEL_STATE_UNLOADED
                else:
                    message = self._write(model)
                if message != told:  # of some changes nothing is shown
                    await call.write(ms.WatchModelResponse(model=message))
                    told = message

    def _write(self, model: Model) -> mp.Model:
        return write_model(model, self._models)


def _check_may(admission: Admission, aliases: Iterable[str], owners: Names = ()) -> None:
    """Refuse aliases that are no names the caller may give to a model, or that it may not take from their owners.

    Raises:
        PermissionDeniedError: One is.
    """
    for alias in aliases:
        admission.check(NAME_MODEL, alias)
    admission.check_names(owners)


def read_upload(start: ms.UploadModelStart) -> list[ModelFile]:
    """The files of a model that is to be uploaded.

    Raises:
        InvalidFieldError: It is not one that can be, or its files are none.
    """
    if not start.HasField("model"):
        raise InvalidFieldError("start.model is missing; say what the model is called", field="start.model")
    if start.model.source:
        raise InvalidFieldError(
            f"start.model.source is {start.model.source[:80]!r}; leave it empty: it follows from the files",
            field="start.model.source",
        )
    _check(start.model, "start.model")
    check_names([each.name for each in start.files])
    return [_read_file(each, f"start.files[{number}]") for number, each in enumerate(start.files)]


def _read_file(file: ms.ModelFile, where: str) -> ModelFile:
    digest = read_digest(file.digest, f"{where}.digest")
    if not file.size_bytes:
        raise InvalidFieldError(f"{where}.size_bytes is 0; it must be 1 or more", field=f"{where}.size_bytes")
    return ModelFile(file.name, digest, file.size_bytes)


def _check_source(source: str, field: str) -> None:
    if not source:
        raise InvalidFieldError(f"{field} is empty; give the path of the model's file", field=field)
    if len(source) > MOST_SETTING:
        message = f"{field} has {len(source)} characters; at most {MOST_SETTING}"
        raise InvalidFieldError(message, field=field)


def _check(wanted: mp.Model, where: str) -> None:
    """Check what is said of a model besides its source."""
    if not is_name(wanted.name):
        raise InvalidFieldError(
            f"{where}.name is {wanted.name[:140]!r}; it must be {NAME_RULE}",
            field=f"{where}.name",
        )
    if wanted.name in TAKEN:
        raise InvalidFieldError(
            f"{where}.name is {wanted.name!r}; it must be {TAKEN_RULE}: choose another", field=f"{where}.name"
        )
    _check_settings(wanted.settings, f"{where}.settings")
    if wanted.adapters:
        raise InvalidFieldError(
            f"{where}.adapters names {len(wanted.adapters)} adapters; leave it out, and load them once the model is"
            " known (inferd adapters load)",
            field=f"{where}.adapters",
        )


def _check_settings(settings: Mapping[str, str], field: str) -> None:
    for key, value in settings.items():
        if len(key) > MOST_SETTING or len(value) > MOST_SETTING:
            message = (
                f"setting {key[:80]!r} has {len(key)} and {len(value)} characters; either has at most {MOST_SETTING}"
            )
            raise InvalidFieldError(message, field=field)
