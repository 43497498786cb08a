"""Models and instances for the wire."""

from inferd.core.model import Instance, Model
from inferd.runtime.driver import Driver
from inferd.services.status import status_of
from inferd.services.task_values import duration, timestamp
from inferd_api.v1 import resources_pb2 as pb


def write_model(model: Model, driver: Driver) -> pb.Model:
    """A model with its living instances."""
    spec = model.spec
    return pb.Model(
        name=spec.name,
        source=spec.source,
        backend=spec.backend,
        device=spec.device,
        settings=spec.settings,
        state=pb.ModelState.ValueType(model.state.value),
        backend_reason=spec.backend_reason,
        error=status_of(model.error) if model.error is not None else None,
        instances=[_write_instance(instance, model, driver) for instance in model.instances.values()],
        size_bytes=spec.size_bytes,
        create_time=timestamp(driver.clock, model.created),
    )


def _write_instance(instance: Instance, model: Model, driver: Driver) -> pb.Instance:
    worker = driver.supervisor.workers.get(instance.instance_id)
    facts = instance.facts
    ready = instance.ready
    return pb.Instance(
        instance_id=instance.instance_id,
        model=instance.model,
        state=pb.InstanceState.ValueType(instance.state.value),
        backend=model.spec.backend,
        device=model.spec.device,
        pid=worker.pid if worker is not None else 0,
        load_fraction=worker.load_fraction if worker is not None else 0.0,
        memory_bytes=worker.memory_bytes if worker is not None else 0,
        running_tasks=len(instance.running),
        max_tasks=facts.max_tasks if facts is not None else 0,
        context_tokens=facts.context_tokens if facts is not None else 0,
        description=facts.description if facts is not None else "",
        load_duration=duration(ready - instance.created) if ready is not None else None,
        error=status_of(instance.error) if instance.error is not None else None,
        start_time=timestamp(driver.clock, instance.created),
        log_path=str(worker.log_path) if worker is not None else "",
    )
