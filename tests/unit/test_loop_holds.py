"""What is held for leases, in one loop. The engine checks in every step that what is held and not taken is free."""

from pathlib import Path

import pytest
from beats import Engine, greedy, make_engine

from inferd.core.priority import Priority
from inferd.errors import LeaseEndedError


def load(folder: Path, *, rows: int = 4, blocks: int = 16) -> Engine:
    return make_engine(folder, max_sequences=rows, blocks=blocks, block_tokens=4, context_tokens=64)


def submit(
    engine: Engine, handle: int, *, tokens: int, lease_id: str = "", priority: Priority = Priority.NORMAL
) -> None:
    """Submit a task with a prompt of 4 tokens of its own that ends after so many tokens in all."""
    task = greedy((97 + handle,) * 4, max_tokens=tokens - 4, lease_id=lease_id, priority=priority)
    engine.submit(handle, task)


def outputs_are_whole(engine: Engine, handles: range) -> bool:
    return all(set(engine.outputs[handle, 0]) == {97 + handle} for handle in handles)


def test_rows_of_a_lease_wait_for_its_tasks(tmp_path: Path) -> None:
    """Two of four rows are held: two tasks run, the others wait, and those under the lease start at once."""
    engine = load(tmp_path)
    engine.hold("l", rows=2, blocks=0)
    for handle in range(3):
        submit(engine, handle, tokens=8)
    engine.step()
    assert engine.running == [0, 1]
    for handle in (3, 4):
        submit(engine, handle, tokens=8, lease_id="l")
    engine.step()
    assert engine.running == [0, 1, 3, 4]
    engine.finish()
    assert outputs_are_whole(engine, range(5))


def test_blocks_of_a_lease_wait_for_its_tasks(tmp_path: Path) -> None:
    """Tasks grow up to what is held and then give way to each other; the lease's own finds its blocks, all of them."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=8)
    for handle in range(3):
        submit(engine, handle, tokens=24)  # 6 blocks each; 8 are not held
    for _ in range(15):
        engine.step()
    assert engine.places.preempted == engine.preempted == 2, "each is told once"
    assert engine.running == [0]
    submit(engine, 3, tokens=33, lease_id="l")  # the last token needs no place
    engine.step()
    assert 3 in engine.running
    while 3 in engine.running:
        engine.step()
    assert engine.loop._tasks.keys() <= {1, 2}
    assert engine.ended[3].usage.output_tokens == 29
    engine.finish()
    assert outputs_are_whole(engine, range(4))


def test_hold_on_a_full_pool(tmp_path: Path) -> None:
    """Where too little is free, the youngest of the lowest class give way before the next step, and go on later."""
    engine = load(tmp_path)
    for handle, priority in enumerate((Priority.NORMAL, Priority.LOW, Priority.NORMAL, Priority.NORMAL)):
        submit(engine, handle, tokens=20, priority=priority)
    for _ in range(10):
        engine.step()
    assert len(engine.running) == 4
    engine.hold("l", rows=2, blocks=4)
    engine.step()
    assert engine.running == [0, 2]
    engine.finish()
    assert outputs_are_whole(engine, range(4))


def test_tasks_of_a_lease_go_beyond_its_hold(tmp_path: Path) -> None:
    """What a lease's tasks need beyond its hold they take of what is free, and others may take that back."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=2)
    for handle in range(3):
        submit(engine, handle, tokens=17, lease_id="l")
    engine.step()
    assert engine.running == [0, 1, 2]
    for _ in range(6):
        engine.step()
    engine.hold("m", rows=3, blocks=12)
    engine.step()
    assert engine.running == [0]
    engine.finish()
    assert outputs_are_whole(engine, range(3))


def test_one_lease_does_not_take_what_another_holds(tmp_path: Path) -> None:
    """A task under a lease waits for what another lease holds, and one under that starts."""
    engine = load(tmp_path, rows=2)
    engine.hold("l", rows=1, blocks=4)
    engine.hold("m", rows=1, blocks=12)
    for handle, lease_id in enumerate("llm"):
        submit(engine, handle, tokens=16, lease_id=lease_id)
    engine.step()
    assert engine.running == [0, 2]
    engine.finish()
    assert outputs_are_whole(engine, range(3))


def test_task_that_does_not_fit_beside_the_holds_keeps_nobody_waiting(tmp_path: Path) -> None:
    """It grows as far as it can, and then waits until less is held; the tasks behind it run to their ends."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=8)
    submit(engine, 0, tokens=64)  # the whole pool
    for handle in (1, 2, 3):
        submit(engine, handle, tokens=12)
    while engine.step():
        pass
    assert engine.living == [0]
    assert sorted(engine.ended) == [1, 2, 3]
    assert engine.outputs[0, 0]
    submit(engine, 4, tokens=12)
    submit(engine, 5, tokens=30, lease_id="l")
    while engine.step():
        pass
    assert sorted(engine.ended) == [1, 2, 3, 4, 5]
    engine.hold("l", rows=0, blocks=0)
    engine.finish()
    assert len(engine.outputs[0, 0]) == 60
    assert outputs_are_whole(engine, range(6))


def test_task_under_an_ended_lease_is_refused(tmp_path: Path) -> None:
    """With the token of another grant, or when the hold was given back, a task ends with LEASE_ENDED and no step."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=1)
    engine.loop.hold("l", 2, sequences=1, kv_tokens=4)
    submit(engine, 0, tokens=8, lease_id="l")  # by the first grant
    engine.loop.hold("l", 2, sequences=0, kv_tokens=0)
    engine.held["l"] = type(engine.held["l"])(2, 0, 0)
    submit(engine, 1, tokens=8, lease_id="l")
    submit(engine, 2, tokens=8, lease_id="never held")
    engine.finish()
    for handle in (0, 1):
        error = engine.ended[handle].error
        assert isinstance(error, LeaseEndedError)
        assert error.metadata["lease_id"] == "l"
    assert engine.ended[2].error is None


def test_tasks_of_a_lease_that_gave_its_hold_back_are_like_others(tmp_path: Path) -> None:
    """They keep what they have, grow into what is free, and give way by class and age."""
    engine = load(tmp_path)
    engine.hold("l", rows=2, blocks=16)
    submit(engine, 0, tokens=20, priority=Priority.LOW, lease_id="l")
    engine.step()
    engine.hold("l", rows=0, blocks=0)
    for handle in (1, 2, 3):
        submit(engine, handle, tokens=20)
    for _ in range(13):
        engine.step()
    assert sorted(engine.running) == [1, 2, 3]
    engine.finish()
    assert outputs_are_whole(engine, range(4))


def test_blocks_of_a_lease_do_not_wait_for_those_of_others(tmp_path: Path) -> None:
    """Past a task that waits for blocks goes one that has its own; past one that waits for rows it takes none."""
    engine = load(tmp_path)
    engine.hold("l", rows=0, blocks=8)
    submit(engine, 0, tokens=20)
    submit(engine, 1, tokens=9)
    for _ in range(3):
        engine.step()
    engine.submit(2, greedy((120,) * 24, max_tokens=9))  # 6 blocks and one more
    submit(engine, 3, tokens=16, lease_id="l")
    engine.step()
    assert engine.running == [0, 1, 3]
    submit(engine, 4, tokens=20, priority=Priority.HIGH)
    submit(engine, 5, tokens=8, priority=Priority.HIGH)
    engine.step()
    engine.suspend(4)
    submit(engine, 6, tokens=8, lease_id="l")
    engine.resume(4)
    engine.step()
    assert 4 in engine.running
    assert 6 not in engine.running
    engine.finish()


def test_rows_of_a_lease_do_not_bring_it_blocks(tmp_path: Path) -> None:
    """Past a task that waits for blocks goes none that has only its own row; past one that waits for rows it goes."""
    engine = load(tmp_path)
    engine.hold("l", rows=2, blocks=0)
    submit(engine, 0, tokens=60)
    for _ in range(20):
        engine.step()
    engine.submit(1, greedy((120,) * 44, max_tokens=9))
    submit(engine, 2, tokens=8, lease_id="l", priority=Priority.LOW)  # behind it, though shorter
    engine.step()
    assert engine.running == [0]
    engine.cancel(1)
    submit(engine, 3, tokens=8)
    submit(engine, 4, tokens=8)
    submit(engine, 5, tokens=8, lease_id="l")
    engine.step()
    assert sorted(engine.running) == [0, 2, 3, 5]
    engine.finish()


def test_who_keeps_to_its_hold_does_not_give_way(tmp_path: Path) -> None:
    """Where tasks run out of what is not held, the youngest of them gives way, not a younger one under a lease."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=8)
    submit(engine, 0, tokens=24)
    submit(engine, 1, tokens=24)
    submit(engine, 2, tokens=33, lease_id="l")
    for _ in range(16):
        engine.step()
    assert engine.places.preempted == 1
    assert engine.running == [0, 2]
    engine.finish()


def test_who_keeps_to_its_row_does_not_give_way(tmp_path: Path) -> None:
    """Rows for a new lease come from those under none, not from a younger task that has the row of its lease."""
    engine = load(tmp_path)
    engine.hold("l", rows=1, blocks=0)
    for handle, lease_id in enumerate(("", "", "l")):
        submit(engine, handle, tokens=12, lease_id=lease_id)
    engine.step()
    engine.hold("m", rows=2, blocks=0)
    engine.step()
    assert engine.running == [0, 2]
    assert engine.places.preempted == 1
    engine.finish()


def test_high_takes_nothing_of_a_lease(tmp_path: Path) -> None:
    """A task of class HIGH waits until another ends, rather than take the place of one of class LOW under a lease."""
    engine = load(tmp_path, rows=1)
    engine.hold("l", rows=1, blocks=2)
    submit(engine, 0, tokens=8, priority=Priority.LOW, lease_id="l")
    engine.step()
    engine.hold("l", rows=0, blocks=0)
    submit(engine, 1, tokens=8, priority=Priority.HIGH)
    engine.step()
    assert engine.running == [0]
    engine.finish()


def test_blocks_to_hold_on_a_full_pool(tmp_path: Path) -> None:
    """Where the rows suffice but not the blocks, the youngest give way until they do."""
    engine = load(tmp_path, rows=8)
    for handle in range(4):
        submit(engine, handle, tokens=20)
    for _ in range(10):
        engine.step()
    engine.hold("l", rows=0, blocks=8)
    engine.step()
    assert engine.running == [0, 1]
    engine.finish()
    assert outputs_are_whole(engine, range(4))


@pytest.mark.parametrize(("sequences", "kv_tokens"), [(5, 0), (0, 65)])
def test_hold_of_more_than_there_is(tmp_path: Path, sequences: int, kv_tokens: int) -> None:
    """Such a hold is a defect of the kernel, which was told what there is: it is never cut to size."""
    engine = load(tmp_path)
    engine.loop.hold("l", 1, sequences=4, kv_tokens=64)
    with pytest.raises(ValueError, match="the model has 4 and 64"):
        engine.loop.hold("l", 1, sequences=sequences, kv_tokens=kv_tokens)


def test_holds_that_only_whole_blocks_make_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three holds that fit in tokens but not in blocks: the tasks of all three come to their ends."""
    monkeypatch.setattr(Engine, "_check_holds", lambda _: None)  # what is held cannot all be free here
    engine = load(tmp_path, blocks=4)
    for lease_id, tokens in (("l", 5), ("m", 5), ("n", 6)):
        engine.loop.hold(lease_id, 0, sequences=1, kv_tokens=tokens)
    for handle, lease_id in enumerate("lmn"):
        submit(engine, handle, tokens=9, lease_id=lease_id)
    while engine.step():
        pass
    assert sorted(engine.ended) == [0, 1, 2]
    assert outputs_are_whole(engine, range(3))
