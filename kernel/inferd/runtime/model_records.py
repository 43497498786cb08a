"""Models as they are kept: what serves, and the versions behind it once there is more than the first.

A model of one version is written as kernels before versions wrote it, so that they read it still.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from inferd.core.adapter import Adapter
from inferd.core.restored import RestoredVersion
from inferd.core.traits import NO_TRAITS, Traits
from inferd.core.version import VersionState
from inferd.runtime.kept_events import read_error, read_json, write_error
from inferd.runtime.kept_records import read_spec, write_spec
from inferd.runtime.kept_times import instant_of, read_shift, wall_of, write_stamp

if TYPE_CHECKING:
    from inferd.core.model import Model, ModelSpec
    from inferd.core.version import Version
    from inferd.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model of a kernel before this one; it had only the version that served where `versions` are none.

    Attributes:
        going: It was to be forgotten once nothing was left of it.
    """

    spec: ModelSpec
    versions: tuple[RestoredVersion, ...] = ()
    traits: Traits = NO_TRAITS
    going: bool = False


def write_model(model: Model, clock: Clock) -> bytes:
    """A model that is kept."""
    written = write_spec(model.spec)
    if model.version_count > 1:
        written["versions"] = [_write_version(version, clock) for version in model.versions.values()]
        written["stamp"] = write_stamp(clock)
    if model.traits != NO_TRAITS:  # else as kernels before traits wrote it
        written["traits"] = {**asdict(model.traits), "labels": dict(model.traits.labels)}
        if not model.traits.adapters:  # else as kernels before adapters wrote it
            del written["traits"]["adapters"]
    if model.going:
        written["going"] = True
    return json.dumps(written, separators=(",", ":")).encode()


def _write_version(version: Version, clock: Clock) -> dict[str, Any]:
    return {
        "number": version.number,
        "spec": write_spec(version.spec),
        "state": (VersionState.ROLLING if version.state.under_way else version.state).value,  # older kernels know it
        "by": version.by,
        "created": wall_of(version.created, clock),
        "served": wall_of(version.served, clock),
        "error": write_error(version.error),
    }


def read_model(value: bytes, clock: Clock) -> KeptModel:
    """A model that was kept."""
    written = read_json(value)
    versions, shift_s = written.pop("versions", []), read_shift(written, clock)
    written.pop("stamp", None)
    traits, going = _read_traits(written.pop("traits", {})), written.pop("going", False)
    versions = tuple(_read_version(each, clock, shift_s) for each in versions)
    return KeptModel(read_spec(written), versions, traits, going)


def _read_traits(written: dict[str, Any]) -> Traits:
    adapters = tuple(Adapter(**each) for each in written.get("adapters", ()))
    return Traits(**{**written, "aliases": tuple(written.get("aliases", ())), "adapters": adapters})


def _read_version(written: dict[str, Any], clock: Clock, shift_s: float) -> RestoredVersion:
    return RestoredVersion(
        number=written["number"],
        spec=read_spec(written["spec"]),
        state=VersionState(written["state"]),
        by=written["by"],
        created=clock.instant(written["created"]) + shift_s,
        served=instant_of(written["served"], clock, shift_s),
        error=read_error(written["error"]),
    )
