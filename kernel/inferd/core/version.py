"""Versions of a model: what its name stands for, one after the other, and how a new one takes the place of the old.

A model is a name; a version is what the name stands for: a source, a backend, settings. A version never changes, and an
instance holds one. One version of a model is SERVING: it takes the new tasks, and the model's own state is that of its
instances. `UpdateModel` makes a version and rolls it out; an update to one that is kept rolls that out again.

- The new version is ROLLING while an instance of it comes up beside the old, which goes on as if nothing were. Where
  there is no room for both, but is for one, the instances of the old one on that device take no new tasks from when it
  is known what the new one needs: they end those they have and go, and new tasks wait.
- Once that instance is READY the new version is SERVING and the old one RETIRED, with one event. Tasks that run finish
  where they are: the old instances take none any more, but those of leases that hold a part of them, and go.
- If it was given a probe, that instance answers it first, and the version is PROVING meanwhile: it takes no task before
  each answer is as it must be (`core.probe`).
- If it is to come by steps, it is in CANARY then: a rising share of the new tasks is for it, and it fails if it is
  worse than the steps allow (`core.canary`), or if its worker dies. Whatever it runs then goes on with the old version,
  and so does a task at which its backend raises.
- Whatever hinders it makes the new version FAILED, with the error, and nothing else: the old one serves on, or again.
  No task ends for it.

From then on the new version is on trial, until it has done its first task, for a while at most. If a worker of it dies
meanwhile, or its backend raises, the version before is SERVING again with that event, and the new one FAILED: its tasks
go on with the one before, and none is blamed. Instances of that which have nothing to do stay for it, but give way to
whoever needs their memory.

A kernel that ends meanwhile leaves the old version to the next one, and tells of the new one that it FAILED.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from inferd.core.canary import MOST_PACES
from inferd.core.resources import MemoryNeed
from inferd.core.sampling_defaults import NO_DEFAULTS, SamplingDefaults

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferd.core.canary import Canary, Pace, Steps
    from inferd.core.ids import DeviceId
    from inferd.core.lifecycle import Table
    from inferd.core.model import ModelSpec
    from inferd.core.probe import Probe
    from inferd.core.proofs import Proof
    from inferd.errors import InferdError

MOST_NEEDS = 256  # devices of which it is remembered what a version needs there


class VersionState(Enum):
    """Where a version stands; the values are those of `inferd.v1.VersionState`."""

    ROLLING = 1
    SERVING = 2
    RETIRED = 3
    FAILED = 4
    PROVING = 5
    CANARY = 6

    @property
    def under_way(self) -> bool:
        """Whether it is on its way to serve."""
        return self in {VersionState.ROLLING, VersionState.PROVING, VersionState.CANARY}


class VersionChange(Enum):
    """What can happen to a version."""

    ROLL = 1  # it is rolled out again
    SERVE = 2  # it takes the new tasks
    RETIRE = 3  # another one does
    FAIL = 4
    RETURN = 5  # the one behind it has failed on its trial
    PROVE = 6  # it answers its probe
    TRY = 7  # a share of the new tasks is for it


VERSION_TABLE: Table[VersionState, VersionChange] = {
    VersionState.ROLLING: {
        VersionChange.PROVE: VersionState.PROVING,
        VersionChange.TRY: VersionState.CANARY,
        VersionChange.SERVE: VersionState.SERVING,
        VersionChange.FAIL: VersionState.FAILED,
    },
    VersionState.PROVING: {
        VersionChange.TRY: VersionState.CANARY,
        VersionChange.SERVE: VersionState.SERVING,
        VersionChange.FAIL: VersionState.FAILED,
    },
    VersionState.CANARY: {
        VersionChange.SERVE: VersionState.SERVING,
        VersionChange.FAIL: VersionState.FAILED,
    },
    VersionState.SERVING: {
        VersionChange.RETIRE: VersionState.RETIRED,
        VersionChange.FAIL: VersionState.FAILED,
    },
    VersionState.RETIRED: {
        VersionChange.ROLL: VersionState.ROLLING,
        VersionChange.RETURN: VersionState.SERVING,
    },
    VersionState.FAILED: {VersionChange.ROLL: VersionState.ROLLING},
}


@dataclass(slots=True, kw_only=True)
class Version:
    """The core's record of one version of a model. One writer: the kernel machine.

    Attributes:
        number: From 1, rising with each one of the model.
        spec: What it is; but for its bounds of instances and of waiting tasks, which are the model's, it never changes.
        by: Who asked for it, for people; "" where nobody did.
        created: When it was made, on the kernel's clock in seconds.
        served: When it last became SERVING; None for never.
        error: Why it is FAILED.
        needs: What it needs, by device; the one that was measured last is the last.
        file_sampling: Defaults of its tasks that its file names; known from its first load on.
        paces: How fast its last tasks came that ended well.
        steps: How far it came by steps when it was rolled out last; None where it was not.
    """

    number: int
    spec: ModelSpec
    state: VersionState = VersionState.ROLLING
    by: str = ""
    created: float
    served: float | None = None
    error: InferdError | None = None
    needs: dict[DeviceId, MemoryNeed] = field(default_factory=dict)
    file_sampling: SamplingDefaults = NO_DEFAULTS
    paces: deque[Pace] = field(default_factory=lambda: deque(maxlen=MOST_PACES))
    steps: Steps | None = None

    def need_on(self, device_id: DeviceId) -> MemoryNeed:
        """What it needs on a device, or elsewhere; before anything was measured, as much as its file has."""
        if device_id in self.needs:
            return self.needs[device_id]
        return next(reversed(self.needs.values()), MemoryNeed(weights_bytes=self.spec.size_bytes))

    def measured(self, needs: Mapping[DeviceId, MemoryNeed]) -> None:
        """It needs so much."""
        for device_id, need in needs.items():
            self.needs.pop(device_id, None)
            self.needs[device_id] = need
        while len(self.needs) > MOST_NEEDS:  # of very many hosts the last ones tell as much
            del self.needs[next(iter(self.needs))]


@dataclass(slots=True, kw_only=True)
class Rollout:
    """A version of a model that is on its way to serve. One writer: the kernel machine.

    Attributes:
        version: It.
        by: Who asked for it, for people.
        began: When, on the kernel's clock in seconds.
        drains: Whether the old version's instances have to go before the new one fits.
        probe: What it has to answer before it takes a task; None for nothing.
        proof: How far it has come with that; None where it has not begun.
        canary: By which steps it comes to serve; None for at once.
    """

    version: Version
    by: str
    began: float
    drains: bool = False
    probe: Probe | None = None
    proof: Proof | None = None
    canary: Canary | None = None

    @property
    def steps(self) -> Steps | None:
        """How far the version has come by steps; None where no task is for it yet."""
        return self.version.steps if self.version.state is VersionState.CANARY else None
