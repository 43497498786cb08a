"""Who goes first, in one loop. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.core.ids import Tenant
from inferd.core.priority import Priority
from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.submission import Share
from inferd.sampling import Sampling

LOW, NORMAL, HIGH = Priority


def submit(
    engine: Engine,
    handle: int,
    priority: Priority,
    *,
    prompt: int = 4,
    max_tokens: int = 20,
    tenant: str = "",
    cost: float = 0.0,
    weight: float = 1.0,
) -> None:
    task = greedy((97 + handle,) * prompt, max_tokens=max_tokens, priority=priority)
    share = Share(tenant=Tenant(tenant), expected_tokens=cost, weight=weight)
    engine.submit(handle, replace(task, share=share))


def first_outputs(engine: Engine) -> list[int]:
    """The tasks in the order of their first tokens, when all have ended."""
    first: list[int] = []
    while engine.step():
        first += [handle for handle, _ in engine.outputs if engine.outputs[handle, 0] and handle not in first]
    return first


def outputs_are_whole(engine: Engine) -> bool:
    return all(set(tokens) == {97 + handle} for (handle, _), tokens in engine.outputs.items())


def test_prompts_are_read_by_class(tmp_path: Path) -> None:
    """A prompt of a higher class goes before those of lower ones that were begun; these go on where they were."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    read: list[dict[int, int]] = []
    for handle, priority in enumerate((LOW, NORMAL, HIGH)):
        submit(engine, handle, priority, prompt=20)
        submit(engine, handle + 10, priority, prompt=20)
        engine.step()
        read.append({s.handle: int(engine.places.computed[s.place.row]) for s in engine.places.rows})
    assert read == [{0: 8}, {1: 8, 0: 8}, {2: 8, 1: 8, 0: 8}]
    first: list[int] = []
    while engine.step():
        first += [handle for handle, _ in engine.outputs if engine.outputs[handle, 0] and handle not in first]
    assert first == [2, 12, 1, 11, 0, 10]
    assert outputs_are_whole(engine)


def test_prompts_are_read_by_tenant(tmp_path: Path) -> None:
    """Prompts of tenants with one task are read before those of one with many, and before the rest of a begun one.

    Of these the shorter one goes first, and prompts of one tenant that are as long as each other in their order.
    """
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    for handle in range(4):
        submit(engine, handle, NORMAL, prompt=20, tenant="flood", cost=40)
    submit(engine, 4, NORMAL, prompt=20, tenant="other", cost=20)
    engine.step()
    submit(engine, 5, NORMAL, prompt=8, tenant="quiet", cost=28)
    assert first_outputs(engine) == [5, 4, 0, 1, 2, 3]
    assert outputs_are_whole(engine)


def test_weight_brings_prompts_forward(tmp_path: Path) -> None:
    """Of two tenants with many tasks each, one with twice the weight has twice as many prompts read as the other."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8), max_sequences=12)
    for handle in range(6):
        submit(engine, handle, NORMAL, prompt=8, tenant="light", cost=20)
    for handle in range(6, 12):
        submit(engine, handle, NORMAL, prompt=8, tenant="heavy", cost=20, weight=2.0)
    order = first_outputs(engine)
    assert [sum(handle >= 6 for handle in order[:most]) for most in (3, 6, 9)] == [2, 4, 6]
    assert [handle for handle in order if handle < 6] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["cancelled", "class"])
def test_a_task_that_jumped_the_queue_moves_nobody_back(tmp_path: Path, how: str) -> None:
    """A newcomer goes before a tenant's prompts, though a later one of these was cancelled or of class HIGH."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    for handle in range(4):
        priority = HIGH if how == "class" and handle == 3 else NORMAL
        submit(engine, handle, priority, prompt=16, tenant="flood", cost=40)
    engine.step()
    if how == "cancelled":
        engine.loop.cancel(3)
    submit(engine, 4, NORMAL, prompt=8, tenant="quiet", cost=20)
    assert [handle for handle in first_outputs(engine) if handle != 3] == [4, 0, 1, 2]


def test_a_tenant_that_comes_late_gets_no_credit(tmp_path: Path) -> None:
    """Its first prompt goes before those of a flood that are not begun, its others in turn with them."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8), max_sequences=12)
    for handle in range(6):
        submit(engine, handle, NORMAL, prompt=8, tenant="flood", cost=40, max_tokens=1)
    for _ in range(3):
        engine.step()
    for handle in range(6, 10):
        submit(engine, handle, NORMAL, prompt=8, tenant="late", cost=40, max_tokens=1)
    order = [handle for handle in first_outputs(engine) if handle > 2]
    assert order == [6, 3, 7, 4, 8, 5, 9]


def test_tenants_start_anew_when_nothing_is_left(tmp_path: Path) -> None:
    """When an engine has had nothing to do, nobody goes behind others for what was before."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    submit(engine, 0, NORMAL, prompt=8, tenant="a", cost=28)
    engine.finish()
    submit(engine, 1, NORMAL, prompt=8, tenant="a", cost=28)
    submit(engine, 2, NORMAL, prompt=8, tenant="b", cost=28)
    assert [handle for handle in first_outputs(engine) if handle] == [1, 2]


def test_what_a_task_did_not_cost_is_given_back(tmp_path: Path) -> None:
    """The next task of a tenant whose last one was far shorter than expected goes before those of a busier one."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    submit(engine, 0, NORMAL, prompt=8, tenant="short", cost=1000, max_tokens=1)
    for handle in range(1, 4):
        submit(engine, handle, NORMAL, prompt=16, tenant="flood", cost=40)
    engine.step()
    submit(engine, 4, NORMAL, prompt=8, tenant="short", cost=10)
    assert first_outputs(engine) == [0, 1, 4, 2, 3]


def test_who_comes_last_gives_way(tmp_path: Path) -> None:
    """Where blocks are short, a sequence of the tenant with more gives its own back, not the newest one."""
    engine = make_engine(tmp_path, blocks=12, block_tokens=4, context_tokens=48)
    for handle, tenant in enumerate(("flood", "flood", "quiet")):
        submit(engine, handle, NORMAL, prompt=8, tenant=tenant, cost=40)
    while len(engine.running) == 3 or not engine.running:
        engine.step()
    assert sorted(engine.running) == [0, 2]
    engine.finish()
    assert outputs_are_whole(engine)


@pytest.mark.parametrize("short", ["rows", "blocks"])
def test_high_starts_in_the_next_step_at_a_full_engine(tmp_path: Path, short: str) -> None:
    """One of class HIGH takes what it needs from the youngest of the lowest class, and no more; all end well."""
    room: dict[str, Any] = (
        {"max_sequences": 4} if short == "rows" else {"blocks": 16, "block_tokens": 4, "context_tokens": 64}
    )
    engine = make_engine(tmp_path, **room)
    for handle, priority in enumerate((LOW, NORMAL, LOW, HIGH)):
        submit(engine, handle, priority)
    for _ in range(9 if short == "blocks" else 1):
        engine.step()
    assert sorted(engine.running) == [0, 1, 2, 3]
    submit(engine, 4, HIGH)
    engine.step()
    assert sorted(engine.running) == [0, 1, 3, 4]
    assert len(engine.outputs[4, 0]) == 1
    engine.finish()
    assert outputs_are_whole(engine)


def test_only_high_takes_places(tmp_path: Path) -> None:
    """One of class NORMAL waits until a place is free, beside any number of class LOW."""
    engine = make_engine(tmp_path, max_sequences=2)
    submit(engine, 0, LOW)
    submit(engine, 1, LOW)
    engine.step()
    submit(engine, 2, NORMAL)
    engine.step()
    assert engine.running == [0, 1]
    engine.finish()
    assert engine.places.preempted == 0


def test_high_preempts_nobody_for_nothing(tmp_path: Path) -> None:
    """Where one of class HIGH would not fit even without the lower classes, nobody gives way."""
    engine = make_engine(tmp_path, blocks=16, block_tokens=4, context_tokens=64)
    submit(engine, 0, HIGH, prompt=30)
    submit(engine, 1, LOW)
    engine.step()
    submit(engine, 2, HIGH, prompt=40)
    engine.step()
    assert engine.running == [0, 1]
    engine.finish()
    assert outputs_are_whole(engine)


def test_high_that_does_not_fit_beside_a_hold_preempts_nobody(tmp_path: Path) -> None:
    """Blocks that samples share are not taken for many: a task that cannot fit now takes them from nobody."""
    engine = make_engine(tmp_path, blocks=16, block_tokens=4, context_tokens=64)
    engine.hold("l", rows=0, blocks=8)
    sampling = Sampling(temperature=0, max_tokens=4, ignore_eos=True, n=2)
    engine.submit(0, Task(prompt=(97,) * 20, sampling=sampling, priority=LOW))
    engine.step()
    engine.step()
    submit(engine, 1, HIGH, prompt=33)
    engine.step()
    assert len(engine.places.rows) == 2
    assert engine.places.preempted == 0
    engine.finish()


def test_all_samples_of_high_start(tmp_path: Path) -> None:
    """The samples of a task of class HIGH take as many rows as they need."""
    engine = make_engine(tmp_path, max_sequences=4)
    for handle in range(4):
        submit(engine, handle, LOW)
    engine.step()
    sampling = Sampling(temperature=0, max_tokens=9, ignore_eos=True, n=3)
    engine.submit(4, Task(prompt=(101,) * 5, sampling=sampling, priority=HIGH))
    engine.step()
    engine.step()
    assert [(s.handle, s.sample) for s in sorted(engine.places.rows, key=lambda s: s.place.rank)] == [
        (4, 0),
        (4, 1),
        (4, 2),
        (0, 0),
    ]
    engine.finish()
