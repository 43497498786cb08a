"""Who goes first, in one loop. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.core.priority import Priority
from inferd.core.task import Sampling
from inferd.engine.limits import EngineLimits

LOW, NORMAL, HIGH = Priority


def submit(
    engine: Engine, handle: int, priority: Priority, *, prompt: int = 4, max_tokens: int = 20, start_s: float = 0.0
) -> None:
    task = greedy((97 + handle,) * prompt, max_tokens=max_tokens, priority=priority)
    engine.submit(handle, replace(task, virtual_start=start_s))


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
        read.append({s.handle: int(engine.places.computed[s.row]) for s in engine.places.rows})
    assert read == [{0: 8}, {1: 8, 0: 8}, {2: 8, 1: 8, 0: 8}]
    first: list[int] = []
    while engine.step():
        first += [handle for handle, _ in engine.outputs if engine.outputs[handle, 0] and handle not in first]
    assert first == [2, 12, 1, 11, 0, 10]
    assert outputs_are_whole(engine)


def test_prompts_of_a_class_are_read_by_their_virtual_start(tmp_path: Path) -> None:
    """The prompt of a tenant with one task is read before those of one with many, and before the rest of a begun one.

    A tenant's own prompts are read in their order.
    """
    engine = make_engine(tmp_path, EngineLimits(step_tokens=8))
    for number in range(4):
        submit(engine, number, NORMAL, prompt=20, start_s=2.0 + number)
    engine.step()
    submit(engine, 4, NORMAL, prompt=8, start_s=1.0)
    submit(engine, 5, NORMAL, prompt=8, start_s=2.0)
    engine.step()
    assert {s.handle: int(engine.places.computed[s.row]) for s in engine.places.rows} == {4: 8, 0: 8}
    first: list[int] = []
    while engine.step():
        first += [handle for handle, _ in engine.outputs if engine.outputs[handle, 0] and handle not in first]
    assert first == [4, 0, 5, 1, 2, 3]
    assert outputs_are_whole(engine)


def test_the_last_virtual_start_gives_way(tmp_path: Path) -> None:
    """Where blocks are short, the sequence whose virtual start is last gives its own back, not the newest one."""
    engine = make_engine(tmp_path, blocks=8, block_tokens=4, context_tokens=32)
    submit(engine, 0, NORMAL, prompt=8, start_s=5.0)
    submit(engine, 1, NORMAL, prompt=8, start_s=1.0)
    while len(engine.running) == 2 or not engine.running:
        engine.step()
    assert engine.running == [1]
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
    assert [(s.handle, s.sample) for s in sorted(engine.places.rows, key=lambda s: s.rank)] == [
        (4, 0),
        (4, 1),
        (4, 2),
        (0, 0),
    ]
    engine.finish()
