"""Tasks that run alone in their batch. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.engine.token.limits import EngineLimits
from inferd.engine.work import Embedding
from inferd.plugin.backend import Pooling
from inferd.sampling import Sampling

WORDS = tuple(97 + n % 5 for n in range(40))


def kinds(engine: Engine) -> list[int]:
    """The task that each step is for, 0 where it is for all."""
    return [step.alone or 0 for step in engine.steps]


def suspect(**changes: object) -> Task:
    return replace(greedy(WORDS, max_tokens=6), alone=True, **changes)  # type: ignore[arg-type]


def test_a_suspect_runs_alone_until_it_has_told_something(tmp_path: Path) -> None:
    """Others have a step before; then its prompt is read, however long, in steps of its own, told of beforehand."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16))
    engine.submit(1, greedy((97, 98), max_tokens=30))
    engine.step()
    engine.submit(2, suspect())
    for _ in range(6):
        engine.step()
    assert kinds(engine) == [0, 2, 2, 2, 0, 0, 0]
    assert engine.alone == [2]
    assert engine.outputs[2, 0] == [97, 98, 99, 100]
    engine.finish()
    assert engine.outputs[2, 0] == [97, 98, 99, 100, 101, 97]


def test_between_two_suspects_the_others_have_a_step(tmp_path: Path) -> None:
    """Whoever is none waits for one turn at most; one without others follows the other at once."""
    engine = make_engine(tmp_path)
    engine.submit(1, greedy((97, 98), max_tokens=30))
    for handle in (2, 3, 4):
        engine.submit(handle, suspect())
    for _ in range(6):
        engine.step()
    assert kinds(engine) == [2, 0, 3, 0, 4, 0]
    assert engine.alone == [2, 3, 4]
    engine.finish()
    alone = make_engine(tmp_path)
    for handle in (2, 3):
        alone.submit(handle, suspect(sampling=Sampling(temperature=0, max_tokens=1, ignore_eos=True)))
    alone.finish()
    assert kinds(alone) == [2, 3]


def test_each_sample_of_a_suspect_tells_something_in_its_turn(tmp_path: Path) -> None:
    """A task with several samples is past its turn when the last of them has told something."""
    engine = make_engine(tmp_path)
    engine.submit(1, greedy((97, 98), max_tokens=30))
    engine.step()
    engine.submit(2, suspect(sampling=Sampling(n=3, temperature=0, max_tokens=6, ignore_eos=True)))
    for _ in range(4):
        engine.step()
    assert kinds(engine) == [0, 2, 2, 0, 0]
    assert [len(engine.outputs[2, sample]) for sample in range(3)] == [3, 3, 3]
    engine.finish()


def test_others_give_way_to_a_suspect(tmp_path: Path) -> None:
    """Where rows are short the last of those that run gives way, and goes on afterwards as if nothing had been."""
    engine = make_engine(tmp_path, max_sequences=1)
    engine.submit(1, greedy((97, 98), max_tokens=8))
    engine.step()
    engine.submit(2, suspect())
    engine.step()
    assert kinds(engine) == [0, 2]
    engine.finish()
    assert engine.outputs == {(1, 0): [97, 98] * 4, (2, 0): [97, 98, 99, 100, 101, 97]}


def test_a_suspect_that_a_lease_leaves_no_room_waits_and_stops_nobody(tmp_path: Path) -> None:
    """All others go on meanwhile; it has its turn when the lease has ended."""
    engine = make_engine(tmp_path, max_sequences=2)
    engine.hold("l", rows=2, blocks=0)
    engine.submit(1, replace(greedy((97, 98), max_tokens=4), lease_id="l"))
    engine.submit(2, suspect())
    for _ in range(4):
        engine.step()
    assert kinds(engine) == [0] * 4
    assert not engine.step()
    engine.hold("l", rows=0, blocks=0)
    engine.step()
    assert kinds(engine)[-1] == 2
    engine.finish()


def test_nobody_gives_way_to_a_suspect_in_vain(tmp_path: Path) -> None:
    """Long prompts are read to their end beside a suspect that would have no room even without them."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16), blocks=30, block_tokens=4)
    engine.hold("a", rows=1, blocks=21)
    engine.submit(1, suspect())
    engine.submit(2, greedy(WORDS[:30], max_tokens=2))
    for _ in range(6):
        engine.step()
    assert (2, 0) in engine.outputs
    assert not engine.places.preempted
    engine.hold("a", rows=0, blocks=0)
    engine.finish()
    assert engine.outputs[1, 0] == [97, 98, 99, 100, 101, 97]


def test_a_suspect_can_be_cancelled_before_and_in_its_turn(tmp_path: Path) -> None:
    """Then the next one has its turn, and nothing of it is left."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16))
    for handle in (1, 2, 3):
        engine.submit(handle, suspect())
    engine.cancel(2)
    engine.step()
    engine.cancel(1)
    engine.finish()
    assert kinds(engine)[:3] == [1, 3, 3]  # a part of the prompt is found
    assert list(engine.ended) == [3]


def test_a_suspect_that_wants_an_embedding_is_past_its_turn_at_its_end(tmp_path: Path) -> None:
    """Its vector is all that it tells."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16))
    engine.submit(1, greedy((97, 98), max_tokens=30))
    engine.submit(2, suspect(embedding=Embedding(pooling=Pooling.MEAN)))
    for _ in range(5):
        engine.step()
    assert kinds(engine) == [2, 2, 2, 0, 0]
    assert 2 in engine.vectors
    engine.finish()


def test_a_suspect_with_more_samples_than_rows_comes_to_its_end(tmp_path: Path) -> None:
    """In its turn those of its samples that have told something give way to those that have not."""
    task = suspect(sampling=Sampling(n=3, temperature=0, max_tokens=6, ignore_eos=True))
    plain = make_engine(tmp_path)
    plain.submit(1, replace(task, alone=False))
    plain.finish()
    engine = make_engine(tmp_path, max_sequences=1)
    engine.submit(1, task)
    engine.finish()
    assert engine.outputs == plain.outputs
    assert kinds(engine)[:3] == [1, 1, 1]


REFUSED = 120


@pytest.mark.parametrize("limits", [EngineLimits(), EngineLimits(step_tokens=16)], ids=["whole", "in pieces"])
def test_a_step_that_is_refused_ends_the_task_to_blame_alone(tmp_path: Path, limits: EngineLimits) -> None:
    """All others of the step have the tokens that they would have had without it, whatever they want."""
    tasks = {
        1: greedy((97, 98), max_tokens=30),
        2: greedy((*WORDS, REFUSED), max_tokens=6),
        3: Task(prompt=WORDS, sampling=Sampling(n=3, temperature=0, max_tokens=6, ignore_eos=True)),
        4: greedy(WORDS, max_tokens=1, embedding=Embedding(pooling=Pooling.MEAN)),
        5: greedy((99, 100), max_tokens=12),
    }
    engine = make_engine(tmp_path, limits, refuse_token=REFUSED)
    engine.expects_refusals = True
    plain = make_engine(tmp_path, limits)
    for made, chosen in ((engine, tasks), (plain, {n: task for n, task in tasks.items() if n != 2})):
        for handle, task in chosen.items():
            made.submit(handle, task)
        made.finish()
    assert {handle for handle, ended in engine.ended.items() if ended.error is not None} == {2}
    error = engine.ended[2].error
    assert error is not None
    assert f"bad batch: token {REFUSED} is refused" in error.message
    assert {place: ids for place, ids in engine.outputs.items() if place[0] != 2} == plain.outputs
    assert engine.vectors == plain.vectors


def test_a_step_that_is_refused_later_ends_the_task_to_blame_alone(tmp_path: Path) -> None:
    """What a task writes itself can be refused, too; the others lose nothing."""
    engine, plain = make_engine(tmp_path, refuse_token=103), make_engine(tmp_path)
    engine.expects_refusals = True
    prompts = {1: (97, 98), 2: tuple(range(97, 104)), 3: (99, 98, 97)}  # the tokens of a prompt are repeated
    for handle, prompt in prompts.items():
        engine.submit(handle, greedy(prompt, max_tokens=20))
        if handle != 2:
            plain.submit(handle, greedy(prompt, max_tokens=20))
    engine.finish()
    plain.finish()
    assert engine.ended[2].error is not None
    assert {place: ids for place, ids in engine.outputs.items() if place[0] != 2} == plain.outputs


def test_what_is_raised_otherwise_ends_all_of_the_step(tmp_path: Path) -> None:
    """A session that fails in another way may have lost anything: nobody goes on with what it computed."""
    engine = make_engine(tmp_path, fail_on_token=REFUSED)
    engine.submit(1, greedy((97, 98), max_tokens=30))
    engine.submit(2, greedy((97, REFUSED), max_tokens=30))
    engine.finish()
    assert all(engine.ended[handle].error is not None for handle in (1, 2))
