"""What a worker is, told apart by digests, so that the next kernel knows whether it would load just that."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from inferd.core.ids import LeaseId, ModelName
from inferd.errors import InvalidFieldError
from inferd.runtime.far.parcels import plain_words
from inferd.runtime.frames import load_frame
from inferd.runtime.placement import stat_files
from inferd_api.agent.v1 import agent_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inferd.core.ids import DeviceId, InstanceId
    from inferd.core.model import ModelSpec
    from inferd.core.views import Views
    from inferd_api.worker.v1 import load_pb2

MOST_PACKAGE = 200  # characters


class Identities:
    """Says what workers are by the models that are known.

    Args:
        views: What may be read of the core.
        limits: Bounds of all engines.
    """

    def __init__(self, views: Views, limits: load_pb2.EngineLimits) -> None:
        self._views = views
        self._limits = limits

    def of(self, instance_id: InstanceId, packages: Mapping[str, str]) -> wire.WorkerIdentity | None:
        """What the worker of an instance is to be; None where it is no instance's.

        Args:
            instance_id: The instance.
            packages: Of the backends of its host.
        """
        instance = self._views.find_instance(instance_id)
        if instance is None:
            return None
        spec = self._views.model(instance.model).versions[instance.version].spec
        identity = self._identity(spec, instance.device_ids, packages, instance.lease_id)
        identity.fencing_token = self._views.fencing_token_of(instance.lease_id)
        return identity

    def changed(self, names: Iterable[str]) -> set[str]:
        """Models whose files are not what they were when the models were made of them. Blocking.

        Files that are not on this host are as they were, as far as it knows.
        """
        found = set()
        for name in names:
            model = self._views.find_model(ModelName(name))
            if model is not None and not model.spec.tenant:
                with suppress(InvalidFieldError):
                    if stat_files(Path(model.spec.path))[1] != model.spec.file_version:
                        found.add(name)
        return found

    def differs(self, told: wire.WorkerIdentity, device_ids: Sequence[DeviceId], packages: Mapping[str, str]) -> str:
        """In what a worker is not what its model's would be; "" where it is just that, or there is no such model."""
        model = self._views.find_model(ModelName(told.model))
        if model is None:
            return ""
        try:
            found = self._identity(model.spec, device_ids, packages, LeaseId(told.lease_id))
        except ValueError as error:
            return f"its model cannot be loaded: {error}"
        if told.files != found.files:
            return "its model has other files now"
        if told.package != found.package:
            return f"its backend is of {plain_words(told.package)[:MOST_PACKAGE]!r}, and {found.package!r} is there now"
        if told.settings != found.settings:
            return "it was loaded with other settings, bounds or rights than its model's would be now"
        return ""

    def _identity(
        self, spec: ModelSpec, device_ids: Sequence[DeviceId], packages: Mapping[str, str], lease_id: LeaseId
    ) -> wire.WorkerIdentity:
        device_id, *beside = device_ids
        load = load_frame("", spec, self._limits, device_id=device_id, capacity_bytes=0, beside=beside).load
        content = spec.digest or f"{'' if spec.tenant else spec.path} {spec.file_version}"
        files = [content, *(f"{name} {digest}" for name, digest in sorted(load.setting_digests.items()))]
        for name in ("path", "device", "ranks", "content_digest", "setting_digests", "file_version"):
            load.ClearField(name)
        load.limits.sandbox.ClearField("withheld")  # files of a kernel, on whichever machine it is
        return wire.WorkerIdentity(
            model=spec.name,
            files=_digest("\n".join(files).encode("utf-8", "surrogateescape")),
            settings=_digest(load.SerializeToString(deterministic=True) + lease_id.encode("utf-8", "surrogateescape")),
            package=packages.get(spec.backend, ""),
            lease_id=lease_id,
        )


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
