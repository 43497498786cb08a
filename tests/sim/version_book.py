"""Which versions of models serve, reckoned from what was told, and what nobody may be ended for."""

from dataclasses import dataclass, field

from rules import BrokenRuleError, Rule
from task_entries import Place

from inferd.core import changes, events
from inferd.core.commands import SendTask
from inferd.core.ids import ModelName
from inferd.core.machine import KernelMachine
from inferd.core.version import VersionState
from inferd.errors import InferdError


@dataclass(slots=True)
class VersionBook:
    """The versions that serve, by model. One writer: the mirror."""

    serving: dict[ModelName, int] = field(default_factory=dict)
    trying: dict[ModelName, int] = field(default_factory=dict)  # versions that come by steps
    _trials: dict[ModelName, int] = field(default_factory=dict)  # versions that have yet to prove themselves
    _blamed: list[InferdError] = field(default_factory=list)

    def look(self, machine: KernelMachine) -> None:
        """Which versions are on trial when the next event comes."""
        models = machine.fleet.models.items()
        self._trials = {name: model.serving.number for name, model in models if model.before is not None}
        self._trials |= self.trying

    def is_on_trial(self, place: Place) -> bool:
        """Whether an instance that takes tasks is of a version that is on trial: no task is to blame for its end."""
        on_trial = self._trials.get(place.model) == place.version
        return on_trial and place.ready and not place.lease_id

    def changed(self, change: changes.VersionChanged) -> None:
        """A version has come to another state."""
        if self.trying.get(change.name) == change.number:
            del self.trying[change.name]
        if change.state is VersionState.CANARY:
            self.trying[change.name] = change.number
        if change.state is VersionState.SERVING:
            self.serving[change.name] = change.number

    def serves(self, place: Place) -> bool:
        """Whether an instance is of the version that serves."""
        return place.version == self.serving[place.model]

    def lost(self, place: Place | None, error: InferdError) -> None:
        """An instance is lost, or cannot be loaded: if its version does not serve, it concerns its lease at most."""
        if place is not None and not place.lease_id and not self.serves(place):
            self._blamed.append(error)

    def check_sent(self, home: Place | None, command: SendTask) -> None:
        """A task goes to the version that serves, a new one also to one that comes by steps, or where its lease is."""
        if home is None or command.spec.lease_id or self.serves(home):
            return
        if self.trying.get(home.model) != home.version or command.attempt > 1:
            text = f"{command.spec.task_id} goes to version {home.version}, and {self.serving[home.model]} serves"
            raise BrokenRuleError(Rule.VERSION, text)

    def check_end(self, task_id: str, end: changes.TaskEnd) -> None:
        """A task does not end for a version that does not serve."""
        if any(end.outcome.error is error for error in self._blamed):
            raise BrokenRuleError(Rule.ROLLOUT, f"{task_id} ended for {end.outcome.error}")

    def check(self, event: events.Event, machine: KernelMachine) -> None:
        """One version of each model that may have been given another with this event serves."""
        if not isinstance(event, events.UpdateModel | events.InstanceLoaded):
            return
        models = machine.fleet.models
        for name in (event.name,) if isinstance(event, events.UpdateModel) else models:
            serving = [n for n, version in models[name].versions.items() if version.state is VersionState.SERVING]
            if serving != [self.serving[name]]:
                raise BrokenRuleError(Rule.VERSION, f"of {name} versions {serving} serve, not {self.serving[name]}")
