"""How models and instances go: not while somebody uses them, unless that is what is asked for."""

from inferd.core.capacity import Capacity
from inferd.core.fleet import Fleet
from inferd.core.ids import InstanceId, LeaseId, ModelName
from inferd.core.leases import Leases
from inferd.core.model import Instance, Model
from inferd.core.task import SuspendReason, cancelled
from inferd.core.tasks import Tasks
from inferd.errors import InvalidFieldError, ModelBusyError


class Unloading:
    """Ends instances and models. One writer: the kernel machine.

    Args:
        fleet: Models and instances.
        tasks: Tasks.
        leases: Leases.
        capacity: Who waits for memory.
    """

    def __init__(self, fleet: Fleet, tasks: Tasks, leases: Leases, capacity: Capacity) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._leases = leases
        self._capacity = capacity
        self._going: dict[ModelName, None] = {}

    def unload(self, model: Model, now: float, *, force: bool, leased: bool = False) -> None:
        """Stop all instances of a model; with force, its tasks are cancelled.

        With `leased`, what is loaded with the memory of a lease goes, too: by who loaded it so.

        Raises:
            ModelBusyError: Leases hold it; or without force, tasks wait or run.
        """
        name = model.spec.name
        held = [*model.leases, *(i.lease_id for i in model.instances.values() if i.lease_id and not leased)]
        if held:
            raise _held_by(f"model {name!r}", held)
        running = [task_id for i in model.instances.values() for task_id in i.running]
        waiting = [*self._tasks.waiting(name)]
        if (running or waiting) and not force:
            raise ModelBusyError(
                f"model {name!r} has {len(running)} running and {len(waiting)} waiting tasks; "
                "wait for them, or unload with force to cancel them",
                metadata={"running": str(len(running)), "queued": str(len(waiting))},
            )
        outcome = cancelled(f"model {name!r} was unloaded with force")
        self._tasks.finish_all((*waiting, *running), outcome, now)
        self._stop_all(model, "the model was unloaded")

    def _stop_all(self, model: Model, why: str) -> None:
        for instance in model.instances.values():
            self._tell_rollout(model, instance, why)
        self._fleet.unload(model)

    def _tell_rollout(self, model: Model, instance: Instance, why: str) -> None:
        """If an instance is of a version on its way, this is why that comes no further."""
        message = f"version {instance.version} of model {model.spec.name!r} was stopped before it served: {why}"
        if instance.living:
            self._fleet.blame_rollout(instance, ModelBusyError(message))

    def unload_instance(self, model: Model, instance_id: InstanceId, now: float) -> None:
        """Stop an instance; its tasks go on elsewhere.

        Raises:
            InvalidFieldError: The model has no such instance.
            ModelBusyError: A lease holds it.
        """
        instance = model.instances.get(instance_id)
        if instance is None or not instance.living:
            known = ", ".join(i for i, each in model.instances.items() if each.living) or "none"
            message = f"model {model.spec.name!r} has no instance {instance_id!r}; it has {known}"
            raise InvalidFieldError(message, field="instance_id")
        held = [lease_id for lease_id in (*instance.holds, instance.lease_id) if lease_id]
        if held:
            raise _held_by(f"instance {instance_id!r}", held)
        running = tuple(instance.running)
        self._tell_rollout(model, instance, f"its instance {instance_id!r} was unloaded")
        self._fleet.stop(instance)
        self._tasks.interrupt(running, SuspendReason.UNLOADED, now)

    def remove(self, model: Model, now: float, *, force: bool, leased: bool = False) -> None:
        """Have a model take nothing new, and forget it once nothing is left of it; with force, its tasks are cancelled.

        `leased` is as of `unload`.

        Raises:
            ModelBusyError: With force: leases hold it.
        """
        name = model.spec.name
        if force:
            self.unload(model, now, force=True, leased=leased)
            living = [t for t, task in self._tasks.known.items() if task.spec.model == name and task.finished is None]
            self._tasks.finish_all(living, cancelled(f"model {name!r} was deleted with force"), now)
        model.going = True
        self._going[name] = None
        self._fleet.register.touch_model(model)

    def settle(self) -> list[ModelName]:
        """Forget the models that are to go and of which nothing is left; their names."""
        gone = []
        for name in tuple(self._going):
            model = self._fleet.models[name]
            leased = model.leases or any(instance.lease_id for instance in model.instances.values())
            if leased or self._tasks.census.of_model(name).living or self._capacity.wanted(name):
                continue
            self._stop_all(model, "the model is being deleted")
            if not model.instances:
                self.forget(model)
                gone.append(name)
        return gone

    def forget(self, model: Model) -> None:
        """Know a model no longer that nothing is left of: whatever is kept by its name goes with it.

        Raises:
            ModelBusyError: It has an instance, a task that has not ended, or a lease.
        """
        name = model.spec.name
        tasks = self._tasks.census.of_model(name).living
        if model.instances or model.asked or tasks or model.leases or self._capacity.wanted(name):
            counts = {"instances": len(model.instances), "tasks": tasks, "leases": len(model.leases)}
            raise ModelBusyError(
                f"model {name!r} has {', '.join(_counted(noun, count) for noun, count in counts.items())}; unload it, "
                "end its tasks and release its leases first, or delete it with drain or force",
                metadata={noun: str(count) for noun, count in counts.items()},
            )
        self._going.pop(name, None)
        for lease in self._leases.known.values():
            lease.models.pop(name, None)  # another one of that name is not loaded under it unasked
        self._fleet.forget(name)
        self._tasks.forget_model(name)


def _counted(nouns: str, count: int) -> str:
    return f"{count} {nouns.removesuffix('s') if count == 1 else nouns}"


def _held_by(what: str, lease_ids: list[LeaseId]) -> ModelBusyError:
    return ModelBusyError(
        f"{what} is held by {_counted('leases', len(lease_ids))}, {lease_ids[0]} among them; release them first",
        metadata={"leases": str(len(lease_ids)), "lease_id": lease_ids[0]},
    )
