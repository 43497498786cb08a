"""Other versions of models, while tasks run. `ModelVersions` and `AsyncModelVersions` differ in `await` only."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from inferd_api.v1.model_service_pb2 import ListModelVersionsRequest, UpdateModelRequest
from inferd_api.v1.model_service_pb2_grpc import ModelServiceStub
from inferd_client.channel import AsyncConnection, Connection
from inferd_client.options import strict
from inferd_client.values import setting_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inferd_api.v1.model_pb2 import Model, ModelVersion, PlacementRules
    from inferd_api.v1.model_service_pb2 import RolloutPlan
    from inferd_api.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from inferd_api.v1.rollout_pb2 import Canary, Probe
    from inferd_api.v1.sampling_pb2 import SamplingDefaults
    from inferd_client.values import Setting


@strict
class ModelVersions(Connection):
    """The versions of models, of a synchronous client."""

    @cached_property
    def _versions(self) -> ModelServiceStub:
        return ModelServiceStub(self._channel)

    def update_model(
        self,
        name: str,
        *,
        source: str = "",
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        version: int | None = None,
        probe: Probe | None = None,
        labels: Mapping[str, str] | None = None,
        add_aliases: Sequence[str] = (),
        remove_aliases: Sequence[str] = (),
        pin: bool | None = None,
        warm: bool | None = None,
        canary: Canary | None = None,
        digest: str = "",
        placement: PlacementRules | None = None,
        timeout_s: float | None = None,
    ) -> Model:
        """Give a model another version; returns when that takes its new tasks. What is left out stays.

        Running tasks end on the version that they run on. A rollout goes on when its caller gives up waiting.

        Args:
            name: Of the model.
            source: A new file, an absolute path, `file:///…` or `blob:sha256:…`.
            backend: Another one, without the settings and the device of the one before.
            device: Another one.
            settings: Those that are to be otherwise; an empty text takes one away, so that its default holds.
            min_instances: As for `create_model`.
            max_instances: As for `create_model`.
            sampling_defaults: In place of all that were given before.
            version: Roll out this version again, which is kept; nothing above is changed besides.
            probe: What the new version has to answer, and how, before it takes any task; it stays with the model for
                those after it, and one without prompts takes it away. Default: the model's, without `version`.
            labels: Those that are to be otherwise; an empty text takes one away.
            add_aliases: Names that stand for it from now on, wherever they stood before.
            remove_aliases: Those of its aliases that are to stand for nothing.
            pin: As for `create_model`.
            warm: As for `create_model`.
            canary: By which steps it comes to take the tasks, and what must hold meanwhile; this returns behind the
                last of them. Default: all tasks at once.
            placement: As for `create_model`, in place of all that was said before; an empty one takes it away.
            digest: As for `create_model`; what was pinned before holds for the files that it was pinned for.
            timeout_s: How long to wait, in seconds; default: as long as it takes.

        Raises:
            InferdError: ModelNotFoundError; ModelBusyError while another version is on its way; NoMemoryError,
                ModelLoadError, ProbeFailedError, CanaryFailedError or WorkerDiedError when it could not be rolled out:
                then the model is as it was; InvalidFieldError, BackendNotFoundError, BackendUnavailableError,
                LimitExceededError.
        """
        request = _request(
            *(name, source, backend, device, settings, min_instances, max_instances, sampling_defaults),
            *(version, probe, canary),
        )
        request.MergeFrom(
            UpdateModelRequest(
                labels=labels,
                add_aliases=add_aliases,
                remove_aliases=remove_aliases,
                pin=pin,
                warm=warm,
                pinned_digest=digest,
                placement=placement,
            )
        )
        return self._wait(self._versions.UpdateModel, request, timeout_s).model

    def plan_update(
        self,
        name: str,
        *,
        source: str = "",
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        version: int | None = None,
        probe: Probe | None = None,
        canary: Canary | None = None,
        placement: PlacementRules | None = None,
        timeout_s: float | None = None,
    ) -> RolloutPlan:
        """How `update_model` would go: beside the old version, after it has drained, or not at all; nothing changes.

        Raises:
            InferdError: ModelNotFoundError, InvalidFieldError, BackendNotFoundError, BackendUnavailableError,
                ModelLoadError.
        """
        request = _request(
            *(name, source, backend, device, settings, min_instances, max_instances, sampling_defaults),
            *(version, probe, canary),
        )
        request.MergeFrom(UpdateModelRequest(placement=placement, validate_only=True))
        return self._wait(self._versions.UpdateModel, request, timeout_s).plan

    def list_model_versions(self, name: str) -> list[ModelVersion]:
        """The versions of a model that are kept, the latest first. Raises ModelNotFoundError."""
        return list(self._call(self._versions.ListModelVersions, ListModelVersionsRequest(name=name)).versions)


@strict
class AsyncModelVersions(AsyncConnection):
    """The versions of models, of an asynchronous client; each method is as its namesake in `ModelVersions`."""

    @cached_property
    def _versions(self) -> ModelServiceAsyncStub:
        return ModelServiceStub(self._channel)

    async def update_model(
        self,
        name: str,
        *,
        source: str = "",
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        version: int | None = None,
        probe: Probe | None = None,
        labels: Mapping[str, str] | None = None,
        add_aliases: Sequence[str] = (),
        remove_aliases: Sequence[str] = (),
        pin: bool | None = None,
        warm: bool | None = None,
        canary: Canary | None = None,
        digest: str = "",
        placement: PlacementRules | None = None,
        timeout_s: float | None = None,
    ) -> Model:
        """Give a model another version; returns when that takes its new tasks. As `update_model` of `ModelVersions`."""
        request = _request(
            *(name, source, backend, device, settings, min_instances, max_instances, sampling_defaults),
            *(version, probe, canary),
        )
        request.MergeFrom(
            UpdateModelRequest(
                labels=labels,
                add_aliases=add_aliases,
                remove_aliases=remove_aliases,
                pin=pin,
                warm=warm,
                pinned_digest=digest,
                placement=placement,
            )
        )
        return (await self._wait(self._versions.UpdateModel, request, timeout_s)).model

    async def plan_update(
        self,
        name: str,
        *,
        source: str = "",
        backend: str = "",
        device: str = "",
        settings: Mapping[str, Setting] | None = None,
        min_instances: int | None = None,
        max_instances: int | None = None,
        sampling_defaults: SamplingDefaults | None = None,
        version: int | None = None,
        probe: Probe | None = None,
        canary: Canary | None = None,
        placement: PlacementRules | None = None,
        timeout_s: float | None = None,
    ) -> RolloutPlan:
        """How `update_model` would go; nothing changes. As `plan_update` of `ModelVersions`."""
        request = _request(
            *(name, source, backend, device, settings, min_instances, max_instances, sampling_defaults),
            *(version, probe, canary),
        )
        request.MergeFrom(UpdateModelRequest(placement=placement, validate_only=True))
        return (await self._wait(self._versions.UpdateModel, request, timeout_s)).plan

    async def list_model_versions(self, name: str) -> list[ModelVersion]:
        """The versions of a model that are kept, the latest first. Raises ModelNotFoundError."""
        return list((await self._call(self._versions.ListModelVersions, ListModelVersionsRequest(name=name))).versions)


def _request(  # noqa: PLR0917 - as the methods, of each its keyword
    name: str,
    source: str,
    backend: str,
    device: str,
    settings: Mapping[str, Setting] | None,
    min_instances: int | None,
    max_instances: int | None,
    sampling_defaults: SamplingDefaults | None,
    version: int | None,
    probe: Probe | None,
    canary: Canary | None,
) -> UpdateModelRequest:
    if version is not None and version < 1:
        raise ValueError(f"version is {version}; versions count from 1")
    return UpdateModelRequest(
        name=name,
        source=source,
        backend=backend,
        device=device,
        settings=setting_texts(settings),
        min_instances=min_instances,
        max_instances=max_instances,
        sampling_defaults=sampling_defaults,
        version=version or 0,
        probe=probe,
        canary=canary,
    )
