"""Models and instances for the wire."""

from collections.abc import Iterable
from dataclasses import replace
from string import hexdigits

from inferd.core.host import check_selector
from inferd.core.model import Instance, Model
from inferd.core.placement_rules import ANYWHERE, PlacementRules, PlacementStrategy
from inferd.core.plan import LoadPlan
from inferd.core.resources import MemoryNeed
from inferd.core.rollouts import RolloutLimits, RolloutWay
from inferd.core.traits import NO_TRAITS, Traits, TraitsChange
from inferd.core.version import Version
from inferd.errors import InvalidFieldError
from inferd.model_declarations import Fault
from inferd.model_names import NAME_RULE, is_name
from inferd.runtime.fetching import Fetch
from inferd.runtime.front.models import Models
from inferd.runtime.front.versions import Other, RolloutPlan
from inferd.sampling import ENGINE_DEFAULTS
from inferd.sandbox.state import State
from inferd.services.insight import inside
from inferd.services.named import read_digest
from inferd.services.rollout_values import read_canary, read_probe, write_probe, write_progress
from inferd.services.sampling_values import read_sampling_defaults, write_sampling_defaults
from inferd.services.status import status_of
from inferd.services.task_values import check_labels
from inferd.services.times import duration, timestamp
from inferd_api.v1 import model_pb2 as pb
from inferd_api.v1 import model_service_pb2 as ms
from inferd_api.v1 import sandbox_pb2
from inferd_api.v1.fetch_pb2 import Fetch as Fetching

MOST_INSTANCES = 64
SHA256_DIGITS = 64
TRAITS = frozenset({"labels", "add_aliases", "remove_aliases", "pin", "warm"})
BESIDE_VERSION = {
    "name",
    "version",
    "validate_only",
    "probe",
    "canary",
    *TRAITS,
}  # of an update to a version that is kept


def read_bounds(model: pb.Model) -> tuple[int, int]:
    """Fewest and most instances of a model.

    Raises:
        InvalidFieldError: One is out of its range, or the fewest are more than the most.
    """
    fewest = model.min_instances
    most = model.max_instances if model.HasField("max_instances") else 1
    if not 1 <= most <= MOST_INSTANCES:
        message = f"max_instances is {most}; it must be from 1 to {MOST_INSTANCES}"
        raise InvalidFieldError(message, field="model.max_instances")
    if fewest > most:
        raise InvalidFieldError(
            f"min_instances is {fewest} and max_instances is {most}; the first must be at most the second",
            field="model.min_instances",
        )
    return fewest, most


def read_other(request: ms.UpdateModelRequest, limits: RolloutLimits) -> Other:
    """What is to be otherwise of a model.

    Raises:
        InvalidFieldError: A bound is out of its range, or something else is given beside a version.
    """
    probe = read_probe(request.probe, limits, request.name) if request.probe.prompts else None
    canary = read_canary(request.canary, limits) if request.HasField("canary") else None
    if request.version:
        besides = {field.name for field, _ in request.ListFields()} - BESIDE_VERSION
        if besides:
            fields = ", ".join(sorted(besides))
            raise InvalidFieldError(
                f"version is {request.version}, which is rolled out as it was, and there is {fields} beside it; leave"
                " one of them out",
                field="version",
            )
        return Other(number=request.version, probe=probe, canary=canary)
    most = request.max_instances
    if request.HasField("max_instances") and not 1 <= most <= MOST_INSTANCES:
        message = f"max_instances is {most}; it must be from 1 to {MOST_INSTANCES}"
        raise InvalidFieldError(message, field="max_instances")
    return Other(
        source=request.source,
        backend=request.backend,
        device=request.device,
        settings=dict(request.settings),
        digest=read_pinned(request.pinned_digest, "pinned_digest"),
        min_instances=request.min_instances if request.HasField("min_instances") else None,
        max_instances=most if request.HasField("max_instances") else None,
        sampling=read_sampling_defaults(request.sampling_defaults) if request.HasField("sampling_defaults") else None,
        probe=probe,
        canary=canary,
        rules=read_rules(request.placement, "placement") if request.HasField("placement") else None,
    )


def read_rules(rules: pb.PlacementRules, where: str) -> PlacementRules:
    """On which hosts a model is loaded.

    Raises:
        InvalidFieldError: Its selector has what can be no label, or its strategy is none.
    """
    check_selector(rules.selector, f"{where}.selector")
    strategy = rules.strategy or pb.PLACEMENT_STRATEGY_SPREAD
    if strategy not in (each.value for each in PlacementStrategy):
        known = ", ".join(pb.PlacementStrategy.keys()[1:])
        raise InvalidFieldError(f"{where}.strategy is {strategy}; it must be one of {known}", field=f"{where}.strategy")
    return PlacementRules(selector=dict(rules.selector), strategy=PlacementStrategy(strategy), apart=rules.apart)


def write_rules(rules: PlacementRules) -> pb.PlacementRules | None:
    """On which hosts a model is loaded; None where nothing was said."""
    if rules == ANYWHERE:
        return None
    strategy = pb.PlacementStrategy.ValueType(rules.strategy.value)
    return pb.PlacementRules(selector=rules.selector, strategy=strategy, apart=rules.apart)


def read_pinned(digest: str, field: str) -> str:
    """What a model's files must hold; "" for anything.

    Raises:
        InvalidFieldError: It is no digest.
    """
    if not digest:
        return ""
    bare = all(each in hexdigits for each in digest) and len(digest) == SHA256_DIGITS  # as sha256sum writes it
    return f"sha256:{read_digest(f'sha256:{digest.lower()}' if bare else digest, field)}"


def read_traits(model: pb.Model, where: str, limits: RolloutLimits) -> Traits:
    """What is said of a model that is of no version.

    Raises:
        InvalidFieldError: A label, an alias or a prompt of its probe is none.
        LimitExceededError: Its probe is larger than one may be.
    """
    if model.probe.prompts:
        read_probe(model.probe, limits, model.name, f"{where}.probe")
    check_labels(model.labels, f"{where}.labels")
    _check_aliases(model.aliases, f"{where}.aliases")
    wanted = TraitsChange(pin=model.pin, warm=model.warm, labels=model.labels, aliases=tuple(model.aliases))
    return replace(wanted.of(NO_TRAITS), probe=write_probe(model.probe))


def read_traits_change(request: ms.UpdateModelRequest) -> TraitsChange:
    """What is to be otherwise of a model that is of no version.

    Raises:
        InvalidFieldError: A label or an alias is none, or an alias is to come and to go.
    """
    check_labels(request.labels, "labels")
    _check_aliases(request.add_aliases, "add_aliases")
    if both := {*request.add_aliases} & {*request.remove_aliases}:
        message = f"add_aliases and remove_aliases both have {min(both)!r}; leave it out of one of them"
        raise InvalidFieldError(message, field="add_aliases")
    return TraitsChange(
        pin=request.pin if request.HasField("pin") else None,
        warm=request.warm if request.HasField("warm") else None,
        labels=dict(request.labels),
        aliases=tuple(request.add_aliases),
        dropped=tuple(request.remove_aliases),
        probe=write_probe(request.probe) if request.HasField("probe") else None,
    )


def _check_aliases(aliases: Iterable[str], field: str) -> None:
    for number, alias in enumerate(aliases):
        if not is_name(alias):
            raise InvalidFieldError(
                f"{field}[{number}] is {alias[:140]!r}; it must be {NAME_RULE}",
                field=f"{field}[{number}]",
            )


def write_model(model: Model, models: Models) -> pb.Model:
    """A model with its living instances."""
    spec, kept = model.spec, models.kept_prefix(model)
    devices, device_count = models.devices(spec)
    fetch = models.fetches.of(spec.name)
    return pb.Model(
        name=spec.name,
        source=spec.source,
        backend=spec.backend,
        device=spec.device,
        devices=devices,
        settings=spec.settings,
        state=pb.ModelState.ValueType(model.state.value),
        backend_reason=spec.backend_reason,
        error=status_of(model.error, spec.name) if model.error is not None else None,
        instances=[write_instance(instance, model, models) for instance in model.instances.values()],
        size_bytes=spec.size_bytes,
        create_time=timestamp(models.clock, model.created),
        min_instances=spec.min_instances,
        max_instances=spec.max_instances,
        sampling_defaults=write_sampling_defaults(spec.sampling),
        effective_sampling_defaults=write_sampling_defaults(model.effective_sampling.over(ENGINE_DEFAULTS)),
        version=model.serving.number,
        labels=model.traits.labels,
        aliases=model.traits.aliases,
        adapters={each.name: each.path for each in model.traits.adapters},
        pin=model.traits.pin,
        warm=model.traits.warm,
        content_digest=models.digests.known(spec),
        pinned_digest=spec.digest,
        digest_fraction=models.digests.fraction(spec),
        declared=inside(models.declarations.where(spec.name), spec.name),
        rolling=write_version(model.rollout.version, models, model.serving) if model.rollout is not None else None,
        fetch=write_fetch(fetch) if fetch is not None else None,
        kept_prefix_tokens=kept.tokens if kept is not None else 0,
        kept_prefix_bytes=kept.memory.size_bytes if kept is not None else 0,
        placement=write_rules(spec.placement),
        device_count=device_count,
        queue_reason=models.why_held(spec.name),
    )


def write_fetch(fetch: Fetch) -> Fetching:
    """Files on their way."""
    return Fetching(source=fetch.source, done_bytes=fetch.done_bytes, total_bytes=fetch.total_bytes)


def write_fault(fault: Fault) -> ms.DeclarationFault:
    """Why an entry of the configuration is left out."""
    where, field, why = (inside(text, fault.name or None) for text in (fault.where, fault.field, fault.why))
    return ms.DeclarationFault(where=where, field=field, why=why, name=fault.name)


def write_version(version: Version, models: Models, serving: Version | None = None) -> pb.ModelVersion:
    """A version of a model, beside the one that serves where that is given."""
    spec = version.spec
    return pb.ModelVersion(
        number=version.number,
        state=pb.VersionState.ValueType(version.state.value),
        source=spec.source,
        backend=spec.backend,
        backend_reason=spec.backend_reason,
        device=spec.device,
        devices=spec.devices,
        settings=spec.settings,
        sampling_defaults=write_sampling_defaults(spec.sampling),
        size_bytes=spec.size_bytes,
        create_time=timestamp(models.clock, version.created),
        serve_time=timestamp(models.clock, version.served),
        requested_by=inside(version.by, spec.name),
        error=status_of(version.error, spec.name) if version.error is not None else None,
        canary=write_progress(version, serving or version, models.clock),
        content_digest=models.digests.known(spec),
        pinned_digest=spec.digest,
        placement=write_rules(spec.placement),
    )


def write_rollout_plan(plan: RolloutPlan, model: Model) -> ms.RolloutPlan:
    """How a rollout would go."""
    way = pb.RolloutWay.ValueType(plan.way.value)
    serving = f"version {model.serving.number} of model {model.spec.name!r}"
    if plan.load is None:
        what = "only bounds change, at once" if plan.way is RolloutWay.BOUNDS else "that is what serves"
        return ms.RolloutPlan(way=way, reason=f"{what}: {serving}")
    reason = plan.load.reason
    if plan.apart:
        reason = (
            f"{reason}; and both versions have to be loaded for steps (canary): without them the old one goes first"
        )
    if plan.way is RolloutWay.DRAINS:
        reason = (
            f"{serving} takes no new tasks on {plan.load.device_id}, ends those that it has and goes first; new tasks"
            f" wait until the new one is loaded, which {reason}"
        )
    return ms.RolloutPlan(way=way, reason=reason, load=write_plan(plan.load))


def write_instance(instance: Instance, model: Model, models: Models) -> pb.Instance:
    """An instance of a model, with what its worker last told."""
    worker = models.worker(instance)
    facts = instance.facts
    ready = instance.ready
    return pb.Instance(
        instance_id=instance.instance_id,
        model=instance.model,
        state=pb.InstanceState.ValueType(instance.state.value),
        backend=model.versions[instance.version].spec.backend,
        device=instance.device_id,
        devices_beside=instance.beside,
        version=instance.version,
        device_reason=instance.device_reason,
        pid=worker.pid if worker is not None else 0,
        load_fraction=worker.load_fraction if worker is not None else 0.0,
        memory_bytes=worker.memory_bytes if worker is not None else 0,
        running_tasks=len(instance.running),
        max_tasks=facts.max_tasks if facts is not None else 0,
        context_tokens=facts.context_tokens if facts is not None else 0,
        description=facts.description if facts is not None else "",
        load_duration=duration(ready - instance.created) if ready is not None else None,
        error=status_of(instance.error, instance.model) if instance.error is not None else None,
        start_time=timestamp(models.clock, instance.created),
        log_path=inside(worker.log_path, instance.model) if worker is not None else "",
        reserved_bytes=models.reserved_bytes(instance),
        peak_bytes=instance.peak_bytes,
        grown_bytes=instance.grown_bytes,
        lease_id=instance.lease_id,
        need=_write_need(instance.need) if instance.need is not None else None,
        sandbox=_write_sandbox(facts.sandbox) if facts is not None and facts.sandbox is not None else None,
    )


def _write_sandbox(state: State) -> sandbox_pb2.Sandbox:
    return sandbox_pb2.Sandbox(level=sandbox_pb2.SandboxLevel.ValueType(state.level.value), reasons=state.reasons)


def write_plan(plan: LoadPlan) -> ms.LoadPlan:
    """What a load would take."""
    return ms.LoadPlan(
        fits=plan.fits,
        device_id=plan.device_id,
        need=_write_need(plan.need),
        free_bytes=plan.free_bytes,
        capacity_bytes=plan.capacity_bytes,
        evicted_instances=plan.evicted,
        busy_instances=plan.busy,
        lease_ids=plan.leases,
        reason=plan.reason,
        device_reason=plan.device_reason,
        devices_beside=plan.beside,
    )


def _write_need(need: MemoryNeed) -> pb.MemoryNeed:
    return pb.MemoryNeed(
        weights_bytes=need.weights_bytes,
        kv_bytes=need.kv_bytes,
        workspace_bytes=need.workspace_bytes,
        kv_saved_bytes=need.kv_saved_bytes,
        paged_bytes=need.paged_bytes,
        offloaded_bytes=need.offloaded_bytes,
    )
