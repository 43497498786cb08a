"""A new version answers its probe, one prompt after the other, before it takes any task; see `core.probe`.

What it is asked is no task of anybody: it is sent to the one instance of the version that is READY, which has nothing
else to do, and what comes back is judged here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inferd.core import commands
from inferd.core.alarms import Alarms
from inferd.core.ids import ModelName, TaskId
from inferd.core.model import InstanceState
from inferd.core.probe import PROBE_TENANT, Miss, find_miss, probe_failed
from inferd.core.task import TaskSpec

if TYPE_CHECKING:
    from inferd.core.ids import InstanceId
    from inferd.core.model import Instance, Model
    from inferd.core.probe import Probe
    from inferd.core.rollout_events import ProbeAnswered
    from inferd.core.version import Rollout


class Proof:
    """How far a version has come with its probe.

    Attributes:
        probe: What it has to answer.
        instance_id: Who answers.
        asked: How many prompts were asked; the last of them is not answered yet.
        over: Whether all were answered, each as it must be.
    """

    __slots__ = ("asked", "instance_id", "over", "probe")

    def __init__(self, probe: Probe, instance_id: InstanceId) -> None:
        self.probe = probe
        self.instance_id = instance_id
        self.asked = 0
        self.over = False


class Proofs:
    """Has versions answer their probes. One writer: `Rollouts`.

    Args:
        most_s: How long a version may take for all of its answers, in seconds.
        out: Where is told what is to be done.

    Attributes:
        alarms: Of versions that are late, by model.
    """

    def __init__(self, most_s: float, out: list[commands.Reply]) -> None:
        self._most_s = most_s
        self._out = out
        self.alarms = Alarms[ModelName]()

    def begin(self, model: Model, rollout: Rollout, instance: Instance, now: float) -> None:
        """An instance of a version that has a probe is READY: it is asked the first prompt."""
        if (probe := rollout.probe) is None:
            return
        rollout.proof = Proof(probe, instance.instance_id)
        self.alarms.set(model.spec.name, now + self._most_s)
        self._ask(model, rollout, rollout.proof)

    def _ask(self, model: Model, rollout: Rollout, proof: Proof) -> None:
        prompt = proof.probe.prompts[proof.asked]
        proof.asked += 1
        spec = TaskSpec(
            task_id=_task_id(rollout, proof),
            tenant=PROBE_TENANT,
            model=model.spec.name,
            demand=prompt.demand,
            work=prompt.work,
        )
        self._out.append(commands.AskProbe(proof.instance_id, spec))

    def answered(self, model: Model, event: ProbeAnswered) -> None:
        """A prompt was answered: the next one is asked, or the version has FAILED, or has proved itself."""
        rollout = model.rollout
        if rollout is None or (proof := rollout.proof) is None or proof.over:
            return
        if (event.instance_id, event.task_id) != (proof.instance_id, _task_id(rollout, proof)):
            return
        prompt = proof.probe.prompts[proof.asked - 1]
        if (miss := find_miss(prompt, event.answer)) is not None:
            rollout.version.error = probe_failed(model.spec.name, rollout.version, proof.asked, miss)
        elif proof.asked < len(proof.probe.prompts):
            self._ask(model, rollout, proof)
        else:
            proof.over = True
            self.alarms.cancel(model.spec.name)

    def late(self, model: Model) -> None:
        """A version took too long."""
        if (rollout := model.rollout) is not None and (proof := rollout.proof) is not None and not proof.over:
            found = f"{proof.asked - 1} of {len(proof.probe.prompts)} answers"
            miss = Miss("probe_s", f"all answers within {self._most_s:g} s (rollouts.probe_s)", found)
            rollout.version.error = probe_failed(model.spec.name, rollout.version, proof.asked, miss)

    def end(self, model: Model) -> None:
        """The version serves, or has FAILED."""
        self.alarms.cancel(model.spec.name)


def answers(model: Model, proof: Proof) -> bool:
    """Whether the instance that answers the probe still does."""
    instance = model.instances.get(proof.instance_id)
    return instance is not None and instance.state is InstanceState.READY


def _task_id(rollout: Rollout, proof: Proof) -> TaskId:
    return TaskId(f"probe {rollout.version.number}.{proof.asked}")
