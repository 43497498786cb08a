"""Aliases, labels and pins: what holds of a model whichever version serves."""

from dataclasses import replace

import pytest

from inferd.core import events
from inferd.core.elastic import ElasticTimes
from inferd.core.ids import DeviceId, InstanceId, ModelName
from inferd.core.machine import CoreLimits, KernelMachine
from inferd.core.model import InstanceFacts, InstanceState, ModelSpec
from inferd.core.resources import DeviceCapacity, MemoryNeed
from inferd.core.traits import NO_TRAITS, SetTraits, Traits, TraitsChange, whole
from inferd.errors import InvalidFieldError, ModelExistsError, ModelNotFoundError

A, B, CPU = ModelName("a"), ModelName("b"), DeviceId("cpu:0")
SPEC = ModelSpec(
    name=A, source="/m", path="/m", format="gguf", size_bytes=1, backend="cpu", backend_reason="", loader="x:Y",
    devices=(CPU,),
)  # fmt: skip


def two_models(*, idle_s: float = 0.0) -> KernelMachine:
    """A machine that knows two models, on a device with room for one."""
    machine = KernelMachine(CoreLimits(elastic=ElasticTimes(idle_s=idle_s)))
    machine.handle(events.HostJoined((DeviceCapacity(device_id=CPU, memory_bytes=100, cores=2),)), 0.0)
    for name in (A, B):
        machine.handle(events.CreateModel(replace(SPEC, name=name)), 0.0)
    return machine


def give(machine: KernelMachine, name: ModelName, **change: object) -> None:
    machine.handle(SetTraits(name, TraitsChange(**change)), 0.0)  # type: ignore[arg-type] # as they are named


def load(machine: KernelMachine, name: ModelName, now: float) -> InstanceState:
    """The state of an instance of a model that needs all of the device, after its load was asked for."""
    machine.handle(events.LoadModel(name), now)
    instance_id = InstanceId(f"{name}-1")
    machine.handle(events.InstanceNeeds(instance_id, MemoryNeed(weights_bytes=100)), now)
    if machine.fleet.instances[instance_id].state is InstanceState.LOADING:
        facts = InstanceFacts(max_tasks=1, context_tokens=64, description="", memory_bytes=1)
        machine.handle(events.InstanceLoaded(instance_id, facts), now)
    return machine.fleet.instances[instance_id].state


def test_an_alias_moves_from_one_model_to_another_with_one_event() -> None:
    """It stands for one of the two before and after, and goes with the model that has it."""
    machine = two_models()
    give(machine, A, aliases=("prod", "old"))
    give(machine, B, aliases=("prod",))
    assert machine.views.aliases == {"old": A, "prod": B}
    assert (machine.views.model(A).traits.aliases, machine.views.model(B).traits.aliases) == (("old",), ("prod",))
    machine.handle(events.DeleteModel(B), 0.0)
    assert machine.views.aliases == {"old": A}
    give(machine, A, dropped=("old",))
    assert machine.views.aliases == {}


def test_names_and_aliases_are_all_different() -> None:
    """No alias is the name of a model, none of another is taken unasked, and no model is made by one's name."""
    machine = two_models()
    give(machine, A, aliases=("prod",))
    with pytest.raises(ModelExistsError, match="'b' is the name of a model"):
        give(machine, A, aliases=("b",))
    with pytest.raises(ModelExistsError, match="stands for model 'a'; move it"):
        machine.handle(SetTraits(B, whole(Traits(aliases=("prod",)))), 0.0)
    with pytest.raises(ModelExistsError, match="'prod' is an alias of model 'a'"):
        machine.handle(events.CreateModel(replace(SPEC, name=ModelName("prod"))), 0.0)
    with pytest.raises(InvalidFieldError, match="'x' is no alias of model 'a'; it has prod"):
        give(machine, A, dropped=("x",))
    with pytest.raises(InvalidFieldError, match="17 aliases; at most 16"):
        give(machine, B, aliases=tuple(f"n{i}" for i in range(17)))
    assert machine.views.aliases == {"prod": A}


def test_a_wrong_name_is_answered_with_the_nearest_alias() -> None:
    """As with the nearest model; where the own name is needed, an alias is answered with that."""
    machine = two_models()
    give(machine, A, aliases=("production",))
    with pytest.raises(ModelNotFoundError, match="did you mean 'production'"):
        machine.views.model(ModelName("producton"))
    with pytest.raises(ModelNotFoundError, match="an alias of model 'a'"):
        machine.views.model(ModelName("production"))


@pytest.mark.parametrize("pin", [True, False])
def test_a_pinned_model_is_evicted_for_no_other(pin: bool) -> None:  # noqa: FBT001 - of the table
    """Another one that needs its room is refused it; without the pin the idle one goes."""
    machine = two_models()
    give(machine, A, pin=pin)
    assert load(machine, A, 1.0) is InstanceState.READY
    state = load(machine, B, 2.0)
    first = machine.fleet.instances[InstanceId("a-1")].state
    if pin:
        assert (first, state) == (InstanceState.READY, InstanceState.FAILED)
    else:
        assert (first, state) == (InstanceState.STOPPING, InstanceState.WAITING)


def test_a_pinned_model_stays_when_it_is_idle_until_the_pin_goes() -> None:
    """The time for which it had nothing to do does not end it; what ends the pin does."""
    machine = two_models(idle_s=10.0)
    give(machine, A, pin=True)
    load(machine, A, 1.0)
    for now in (11.0, 21.0):
        machine.handle(events.Tick(), now)
        assert machine.fleet.instances[InstanceId("a-1")].state is InstanceState.READY
    give(machine, A, pin=False)
    machine.handle(events.Tick(), 31.0)
    assert machine.fleet.instances[InstanceId("a-1")].state is InstanceState.STOPPING


def test_a_change_of_traits_leaves_the_others() -> None:
    """An empty label goes; a whole one has the model be as it says and nothing else."""
    before = Traits(pin=True, labels={"team": "a", "tier": "1"}, aliases=("x",))
    after = TraitsChange(labels={"tier": "", "stage": "prod"}, aliases=("y",), dropped=("x",)).of(before)
    assert after == Traits(pin=True, labels={"stage": "prod", "team": "a"}, aliases=("y",))
    assert whole(NO_TRAITS, before).of(before) == NO_TRAITS
    assert not TraitsChange()
