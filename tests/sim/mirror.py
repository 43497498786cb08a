"""Books kept beside the machine, from what it is told and what it asks for, to check it by."""

from collections.abc import Sequence

from change_book import ChangeBook
from device_book import DeviceBook
from host_book import HostBook
from lease_book import LIVING, LeaseBook
from placement_book import PlacementBook
from quota_book import QuotaBook
from rules import BrokenRuleError, Rule
from task_book import TaskBook
from task_entries import Place, Waiting
from version_book import VersionBook

from inferd.core import changes, commands, events
from inferd.core.census import NOTHING
from inferd.core.host import host_of
from inferd.core.ids import NO_LEASE, DeviceId, InstanceId, ModelName, TaskId
from inferd.core.lease import LeaseState, ModelClaim
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import Instance
from inferd.core.plan import LoadPlan
from inferd.core.resources import MemoryNeed
from inferd.core.task import SuspendReason, TaskSpec


class Mirror:
    """Checks each rule after each event. One writer: the simulation.

    It never looks at the machine's own books, but for what the driver shows to clients of a lease or of an instance,
    and for the broker's accounts, which must be equal to those here.
    """

    def __init__(self, machine: KernelMachine, limits: CoreLimits) -> None:
        self.machine = machine
        self.devices = DeviceBook()
        self.changes = ChangeBook()
        self.hosts = HostBook(self.devices)
        self._drain_s = limits.elastic.drain_s
        self.leases = LeaseBook(limits.leases, self.devices)
        self.tasks = TaskBook(limits.tasks)
        self.quotas = QuotaBook(limits.quotas)
        self._needs = dict[InstanceId, MemoryNeed]()  # of instances that wait for memory
        self.placements = PlacementBook(self.tasks, self.hosts, self.devices, machine)
        self.versions = VersionBook()
        self._event: events.Event = events.Tick()
        self._lost: list[InstanceId] = []  # with this event, with their host
        self._leaving = set[InstanceId]()  # as the machine says

    def learn(  # noqa: C901, PLR0912, PLR0915 - a table: a row for each event
        self, event: events.Event, now: float, asked: Sequence[commands.Reply]
    ) -> None:
        """The machine has taken an event; its commands have not been looked at, but for what they forget."""
        self._event = event
        match event:
            case events.HostLost() | events.HostLeft():
                self._lose(event)
            case events.HostFound() | events.HostJoined() | events.DrainHost() | events.ResumeHost():
                self.hosts.take(event)
            case events.ForeignMeasured():
                self.devices.foreign(event.device_id, event.foreign_bytes)
            case events.CreateModel():
                self.tasks.models.setdefault(event.spec.name, Waiting(event.spec))
                self.versions.serving.setdefault(event.spec.name, 1)
            case events.SubmitTask():
                self._submitted(event.spec, now, {c.task_id for c in asked if isinstance(c, changes.TaskForgotten)})
            case events.ResumeTask():
                self.tasks.resumed(event.task_id, now)
            case events.DetachTask():
                self.tasks.detached(event.task_id, now)
            case events.CreateLease():
                self.leases.created(self.machine.leases.known[event.spec.lease_id], now)
                self.quotas.claimed(event.spec)
            case events.KeepAlive():
                self.leases.kept_alive(event.lease_id, event.ttl_s, now)
            case events.WorkerExited() if event.instance_id in self.tasks.places:
                self.versions.lost(self.tasks.places[event.instance_id], event.error)
                self.leases.instance_stops(event.instance_id)
                self.devices.gone(event.instance_id)
                tried = self.versions.is_on_trial(self.tasks.places[event.instance_id])
                (self.tasks.lost if tried else self.tasks.dies)(event.instance_id)
            case events.InstanceRefused() if event.instance_id in self.tasks.places:
                self.versions.lost(self.tasks.places[event.instance_id], event.error)
            case events.TaskAlone():
                self.tasks.began_alone(event.task_id, event.attempt)
            case events.TaskPassed():
                self.tasks.passed(event.task_id, event.attempt)
            case events.InstanceLoaded() if event.instance_id in self.tasks.places:
                self.tasks.places[event.instance_id].facts = event.facts
                self.tasks.places[event.instance_id].ready_at = now
                self.tasks.touched[self.tasks.places[event.instance_id].model] = None
            case events.InstanceNeeds() if event.instance_id in self.tasks.places:
                self._needs[event.instance_id] = event.need
                place = self.tasks.places[event.instance_id]
                if not place.stopping:  # what one says that is to go is not heard
                    self.placements.measured[place.model, place.version, place.device_id] = event.need.total_bytes
            case events.ModelMeasured():
                version = self.versions.serving[event.name]
                self.placements.measured |= {
                    (event.name, version, d): need.total_bytes for d, need in event.needs.items()
                }
            case events.MemoryMeasured():
                told = self.machine.broker.reserved_bytes(event.instance_id)
                self.devices.measured(event.instance_id, min(told, event.memory_bytes))
            case _:
                pass

    def _submitted(self, spec: TaskSpec, now: float, forgotten: set[TaskId]) -> None:
        made = self.tasks.made_before(spec)
        if made in forgotten:
            made = None
        told = self.machine.views.submitted(spec).spec.task_id
        if told != (made or spec.task_id):
            raise BrokenRuleError(Rule.ONCE, f"{spec.task_id} is told to be {told}, its request made {made}")
        if made is not None:
            return
        self.tasks.submitted(spec, now)
        self.quotas.submitted(spec, now)
        if spec.lease_id:
            self.leases.known[spec.lease_id].tasks[spec.task_id] = None

    def obey(self, command: commands.Reply, now: float) -> None:  # noqa: C901, PLR0912 - a table: a row for each
        """Book a command or a change."""
        match command:
            case commands.StartWorker():
                self._start(command, now)
            case commands.StopWorker():
                self._stop(command.instance_id)
            case commands.AbandonWorker() if command.instance_id not in self._lost:  # it was started with this event
                self._lost.append(command.instance_id)
                self._lose_instance(command.instance_id)
            case commands.ProceedLoad():
                self._proceed(command.instance_id, now)
            case commands.HoldCapacity():
                self._hold(command)
            case commands.SendTask():
                self._check_token(command)
                home = self.tasks.places.get(command.instance_id)
                self.versions.check_sent(home, command)
                if home is not None:
                    task_id = command.spec.task_id
                    leased = bool(command.spec.lease_id) or self.placements.has_stand_in(home)
                    self.hosts.check_open(home.device_id, task_id, leased=leased)
                self._check_drain(command.instance_id, now)
                self.tasks.sent(command, now)
            case changes.TaskChanged(reason=SuspendReason() as reason):
                self.tasks.stopped(command.task_id, reason, now)
            case commands.DropTask():
                self.tasks.dropped(command)
            case changes.VersionChanged():
                self.versions.changed(command)
                self.tasks.touched[command.name] = None
            case changes.TaskChanged(end=changes.TaskEnd() as end):
                self.versions.check_end(command.task_id, end)
                spec = self.tasks.finished(command.task_id, end.outcome)
                if spec.lease_id:
                    self.leases.known[spec.lease_id].tasks.pop(spec.task_id, None)
            case commands.TellQueued():
                self._check_living(command.task_id)
            case changes.TaskForgotten():
                self.tasks.forgotten(command.task_id)
            case changes.LeaseChanged():
                self._tell_lease(command, now)
            case changes.LeaseForgotten():
                self.leases.forgotten(command.lease_id)
            case _:
                pass
        self.changes.take(command)
        self.quotas.take(command, now)

    def settle(self, event: events.Event, now: float) -> None:
        """Book what an event ends with; its commands have been booked."""
        match event:
            case events.CancelTask():
                entry = self.tasks.known.get(event.task_id)
                if entry is not None and entry.living:
                    raise BrokenRuleError(Rule.ONE_END, f"{event.task_id} goes on after it was cancelled")
            case events.MemoryMeasured() if (place := self.tasks.places.get(event.instance_id)) is not None:
                if not place.stopping:
                    self.devices.check_measured(event.instance_id, event.memory_bytes)
            case events.WorkerExited() if event.instance_id in self.tasks.places:
                self._go(event.instance_id)
            case events.HostLost() | events.HostLeft():
                self._settle_lost(event)
            case events.InstanceNeeds() if (need := self._needs.get(event.instance_id)) is not None:
                place = self.tasks.places[event.instance_id]
                if place.lease_id or place.stopping:
                    del self._needs[event.instance_id]
                else:
                    self.placements.check_waiting(place)
                    self.leases.instance_waits(place, need.total_bytes, now)
            case _:
                pass

    def _lose(self, event: events.HostLost | events.HostLeft) -> None:
        """A host is lost with all that is there; one that was lost before has nothing."""
        self.hosts.take(event)
        self._lost = [i for i, place in self.tasks.places.items() if host_of(place.device_id) == event.host_id]
        for instance_id in self._lost:
            self._lose_instance(instance_id)

    def _lose_instance(self, instance_id: InstanceId) -> None:
        self.leases.instance_stops(instance_id)
        self.devices.gone(instance_id)
        self.tasks.lost(instance_id)

    def _settle_lost(self, event: events.HostLost | events.HostLeft) -> None:
        for instance_id in self._lost:
            self._go(instance_id)
        self.leases.check_lost(self.hosts.devices_of(event.host_id))
        if isinstance(event, events.HostLeft):
            self.hosts.forget(event.host_id)
        self._lost.clear()

    def _go(self, instance_id: InstanceId) -> None:
        self._leave_line(instance_id)
        self.devices.gone(instance_id)  # what was due may have given it something before it was noticed to be gone
        self.tasks.gone(instance_id)

    def check(self, now: float) -> None:
        """What must hold between any two events, for all that the last one concerned."""
        for device_id in self.devices.touched:
            self.leases.touched[f"memory {device_id}"] = self.leases.touched[f"cores {device_id}"] = None
            self._check_passing(device_id)
        self.leases.check(now, self.machine.next_alarm())
        self.devices.check(self.machine.broker)
        instances = self.machine.fleet.instances.values()
        self._leaving = {i.instance_id for i in instances if i.leaving}
        self.tasks.draining = {i.instance_id: None for i in instances if i.draining or not self._takes_tasks(i)}
        self.versions.check(self._event, self.machine)
        self.versions.look(self.machine)
        for place in filter(self.placements.must_go, self.tasks.places.values()):
            if not self.leases.holds_part(place.model):
                raise BrokenRuleError(Rule.EMPTY, f"{place.instance_id} has nothing to do on {place.device_id}")
        self.tasks.check(now)
        self.quotas.check(now)
        self.changes.check()

    def _takes_tasks(self, instance: Instance) -> bool:
        ready = self.hosts.is_ready(instance.device_id) and not instance.leaving
        return ready and instance.version == self.versions.serving[instance.model]

    def check_placement(self, name: ModelName, plan: LoadPlan, done: tuple[commands.Reply, ...]) -> None:
        """A model is loaded on the device that the plan just before it said."""
        started = [c.device_id for c in done if isinstance(c, commands.StartWorker) and c.spec.name == name]
        if started[:1] != [plan.device_id]:
            text = f"{name} is loaded on {started}, the plan said {plan.device_id}: {plan.device_reason}"
            raise BrokenRuleError(Rule.PLAN, text)

    def check_plan(self, plan: LoadPlan, place: Place, done: tuple[commands.Reply, ...]) -> None:
        """A load that is first in its line does what the plan just before it said."""
        if any(isinstance(c, commands.StartWorker) and c.spec.name == place.model for c in done):
            return  # it does better elsewhere
        at_once = plan.need.total_bytes <= plan.free_bytes  # else it waits for those that are evicted or stop already
        proceeded = commands.ProceedLoad(place.instance_id) in done
        asked = (c.instance_id for c in done if isinstance(c, commands.StopWorker))
        stopped = tuple(i for i in asked if self.tasks.places[i].device_id == place.device_id)  # others for other ones
        refused = not plan.fits and place.instance_id in stopped
        if proceeded != at_once or (stopped != (plan.evicted if plan.fits else ()) and not refused):
            raise BrokenRuleError(Rule.PLAN, f"{plan.reason}; proceeded: {proceeded}, stopped: {stopped}")

    def check_served(self) -> None:
        """All is quiet, and what could be done is done: only what a model that cannot be loaded owes may wait."""
        waiting = [t for t, entry in self.tasks.known.items() if entry.living and self._could_run(entry.spec.model)]
        if waiting:
            raise BrokenRuleError(Rule.IDLE, f"{len(waiting)} tasks wait for nothing: {waiting[:3]}")

    def _could_run(self, name: ModelName) -> bool:
        """Whether no instance that must stay could be in the way of a model."""
        devices = set(self.tasks.models[name].spec.devices)
        floors = [m.spec for m in self.tasks.models.values() if m.spec.min_instances]
        return not any(devices & {*spec.devices} and spec.name != name for spec in floors)

    def check_over(self, now: float) -> None:
        """All has ended: nothing is held, nothing living is left."""
        self.changes.check_over(self.machine)
        self.quotas.check_over(self.machine, now)
        living = [t for t, entry in self.tasks.known.items() if entry.living]
        if living or self.tasks.accepted != sum(self.tasks.ends.values()):
            raise BrokenRuleError(Rule.ONE_END, f"{len(living)} accepted tasks never ended: {living[:3]}")
        held = [lease_id for lease_id, held in self.leases.known.items() if held.state in LIVING]
        if held or self.tasks.places:
            raise BrokenRuleError(Rule.GIVEN_BACK, f"left: leases {held[:3]}, instances {[*self.tasks.places][:3]}")
        for device_id, account in self.machine.broker.devices.items():
            taken = (account.instance_bytes, account.lease_bytes, account.leased_cores, account.stopping_bytes)
            if any(taken) or account.expected_bytes or account.idle or account.idle_bytes:
                raise BrokenRuleError(Rule.GIVEN_BACK, f"{taken} of {device_id} is still held")
        census = self.machine.tasks.census
        if census.loads or census.all != NOTHING:
            raise BrokenRuleError(Rule.GIVEN_BACK, f"{census.all} is counted, and by tenant {census.loads}")

    # Commands.

    def _start(self, command: commands.StartWorker, now: float) -> None:
        instance_id, spec = command.instance_id, command.spec
        if instance_id in self.tasks.places:
            raise BrokenRuleError(Rule.INSTANCES, f"instance {instance_id} was started twice")
        instance = self.machine.fleet.instances.get(instance_id)  # None where its host is lost with the same event
        lease_id = NO_LEASE if instance is None else instance.lease_id
        model = self.tasks.models[spec.name]
        version = self.versions.serving[spec.name] if instance is None else instance.version
        place = Place(instance_id, spec.name, command.device_id, lease_id, now, version)
        if instance is not None:
            self.hosts.check_open(command.device_id, instance_id, leased=bool(lease_id))
            self.placements.check_place(place)
        self.tasks.places[instance_id] = model.places[instance_id] = place
        counted = (p for p in model.places.values() if not p.lease_id and not p.stopping and p.version == version)
        counted = (p for p in counted if self.hosts.is_ready(p.device_id) and p.instance_id not in self._leaving)
        shared = len([*counted])
        most = max(1, spec.max_instances) if version == self.versions.serving[spec.name] else 1
        if shared > most:
            text = f"{spec.name} has {shared} instances of version {version}, at most {most}"
            raise BrokenRuleError(Rule.INSTANCES, text)

    def _stop(self, instance_id: InstanceId) -> None:
        place = self.tasks.places[instance_id]
        if (place.running and not self._empties(instance_id)) or place.holds:
            text = f"{instance_id} is stopped with {len(place.running)} tasks and {len(place.holds)} leases"
            raise BrokenRuleError(Rule.EVICTION, text)
        was_ready, place.stopping = place.ready, True
        self.leases.instance_stops(instance_id)
        model = self.tasks.models[place.model]
        self.tasks.touched[place.model] = None
        left = sum(p.ready and not p.lease_id for p in model.places.values())
        ordered = isinstance(self._event, events.UnloadModel | events.Shutdown)
        ordered |= not self.hosts.is_ready(place.device_id) or instance_id in self._leaving
        ordered |= not self.versions.serves(place) or self.machine.fleet.models[place.model].gives_way
        if was_ready and not place.lease_id and not ordered and left < model.spec.min_instances:
            raise BrokenRuleError(Rule.EVICTION, f"{place.model} has {left} instances left of its minimum")

    def _empties(self, instance_id: InstanceId) -> bool:
        """Whether an instance is unloaded by itself: its tasks go on elsewhere."""
        return isinstance(self._event, events.UnloadModel) and self._event.instance_id == instance_id

    def _proceed(self, instance_id: InstanceId, now: float) -> None:
        place = self.tasks.places[instance_id]
        need = self._needs.get(instance_id)
        if need is None:
            raise BrokenRuleError(Rule.BOOKS, f"{instance_id} loads without a need")
        self.hosts.check_open(place.device_id, instance_id, leased=bool(place.lease_id))
        self.devices.take(instance_id, place.device_id, need.total_bytes, place.lease_id, now)
        self._leave_line(instance_id)

    def _hold(self, command: commands.HoldCapacity) -> None:
        held = self.leases.known[command.lease_id]
        active = held.state is LeaseState.ACTIVE
        if command.fencing_token != held.token or (not active and (command.sequences or command.kv_tokens)):
            raise BrokenRuleError(Rule.FENCING, f"{command} for a lease {held.state.name} with token {held.token}")
        self.tasks.held(command, active=active)

    def _check_token(self, command: commands.SendTask) -> None:
        lease_id = command.spec.lease_id
        held = self.leases.known.get(lease_id)
        if lease_id and (held is None or held.state is not LeaseState.ACTIVE):
            raise BrokenRuleError(Rule.ENDED, f"{command.spec.task_id} is sent under {lease_id}, which has ended")
        if command.fencing_token != (held.token if held is not None else 0):
            raise BrokenRuleError(Rule.FENCING, f"{command.spec.task_id} is sent with token {command.fencing_token}")

    def _check_drain(self, instance_id: InstanceId, now: float) -> None:
        """No new task goes to one that is to drain, while those that do are not enough for the first in line."""
        place = self.tasks.places[instance_id]
        waits, device = self.leases.first_of(place.device_id), self.devices.devices[place.device_id]
        if waits is None or not self._is_to_drain(place, waits[0], now):
            return
        if isinstance(self._event, events.InstanceNeeds) and self._event.instance_id in self._needs:
            return  # that one waits from now on, and may stand before the others
        since, wanted = waits
        spare = device.memory_bytes - device.held_bytes - device.leased_bytes - device.foreign_bytes
        due = going = spare
        for other_id, held in self.devices.holdings.items():
            other = self.tasks.places[other_id]
            if held.device_id != place.device_id or held.lease_id:
                continue
            known = self.machine.fleet.instances[other_id]
            goes = other.stopping or known.draining or (known.leaving and not other.holds)
            if goes or not (other.running or other.holds):
                going += held.size_bytes
            if goes or self._is_to_drain(other, since, now):
                due += held.size_bytes
        if going < wanted <= due:
            text = f"{instance_id} takes a task at {now}, and one waits for its memory since {since}"
            raise BrokenRuleError(Rule.DRAIN, text)

    def _is_to_drain(self, place: Place, since: float, now: float) -> bool:
        """Whether an instance is to drain for one that waits since then, should it be in the way."""
        held = self.devices.holdings.get(place.instance_id)
        if held is None or held.lease_id or place.holds or place.model in self.versions.trying:
            return False
        if self.tasks.models[place.model].spec.min_instances:
            return False
        if held.since <= since and now < max(since, place.ready_at or now) + self._drain_s:
            return False
        suspended = any(self.tasks.known[task_id].suspended for task_id in place.running)
        return not suspended and not self.leases.holds_part(place.model)

    def _check_passing(self, device_id: DeviceId) -> None:
        """No load that fits what is free waits behind one that cannot go, whatever ends by itself."""
        free_bytes, waiting = (
            self.devices.devices[device_id].free_bytes,
            self.leases.waiting.get(f"memory {device_id}", {}),
        )
        if not 1 < len(waiting) <= 16:
            return
        on_it = [
            p for p in self.tasks.places.values() if p.device_id == device_id and p.instance_id in self.devices.holdings
        ]
        if any(p.stopping or not (p.running or p.holds or p.lease_id) for p in on_it):
            return  # the first may be about to go
        head = min(waiting, key=lambda key: waiting[key])
        needs = {p: self._needs[p.instance_id].total_bytes for p in self._waiting_on(device_id)}
        for place, need_bytes in needs.items():
            stays = self.tasks.models[place.model].spec.min_instances > 0
            if not stays and need_bytes <= free_bytes < self.leases.want(head, device_id).size_bytes:
                raise BrokenRuleError(Rule.IDLE, f"{place.instance_id} fits {device_id} and waits behind {head}")

    def _waiting_on(self, device_id: DeviceId) -> list[Place]:
        places = (self.tasks.places[i] for i in self._needs if i in self.tasks.places)
        return [p for p in places if p.device_id == device_id and not p.stopping and not p.lease_id]

    def _check_living(self, task_id: TaskId) -> None:
        entry = self.tasks.known.get(task_id)
        if entry is None or not entry.living:
            raise BrokenRuleError(Rule.ONE_END, f"{task_id} waits after its end")

    def _tell_lease(self, command: changes.LeaseChanged, now: float) -> None:
        released = isinstance(self._event, events.Shutdown) or (
            isinstance(self._event, events.ReleaseLease) and self._event.lease_id == command.lease_id
        )
        left = isinstance(self._event, events.HostLost | events.HostLeft)
        claimed = self.leases.known[command.lease_id].shares()
        lost = left and any(not self.hosts.is_ready(device_id) for device_id in claimed)
        claims = self.leases.known[command.lease_id].spec.claims
        lost |= any(isinstance(c, ModelClaim) and self._is_stranded(c.model) for c in claims)
        self.leases.told(command.lease_id, now, released=released, lost=lost)

    def _is_stranded(self, name: ModelName) -> bool:
        """Whether a host leaves with all that a model may use, of what is left."""
        event, known = self._event, self.devices.devices
        left = event.host_id if isinstance(event, events.HostLeft) else None
        return all(d not in known or host_of(d) == left for d in self.tasks.models[name].spec.devices)

    # Lines.

    def _leave_line(self, instance_id: InstanceId) -> None:
        if self._needs.pop(instance_id, None) is not None:
            self.leases.instance_left(instance_id, self.tasks.places[instance_id].device_id)
