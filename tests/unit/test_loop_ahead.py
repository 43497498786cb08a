"""An engine over a session that begins a step before the tokens of the last one were read."""

from pathlib import Path
from typing import Any

import pytest
from ahead_device import Ahead, Device
from beats import Engine, Task, greedy, make_engine

from inferd.core.task import FinishReason
from inferd.engine.token.adapters import Adapters
from inferd.plugin import AheadSession, ReadAdapter
from inferd.plugin.session import AdaptingSession
from inferd.sampling import Sampling


def make_plain(folder: Path, **behaviour: Any) -> Engine:
    folder.mkdir(exist_ok=True)
    return make_engine(folder, **behaviour)


def make(folder: Path, **behaviour: Any) -> Ahead:
    return Ahead(make_plain(folder, **behaviour).model)


def outputs(engine: Engine, tasks: list[Task]) -> dict[Any, list[int]]:
    for handle, task in enumerate(tasks):
        engine.submit(handle, task)
    engine.finish()
    return dict(engine.outputs)


def words(text: bytes, **more: Any) -> Task:
    return Task(prompt=tuple(text), sampling=Sampling(temperature=0, **more))


TASKS = [
    greedy(tuple(b"abcabc"), max_tokens=23),
    greedy(tuple(b"hello "), max_tokens=1),
    greedy(tuple(b"word by word "), max_tokens=40),
    words(b"stop here. stop", max_tokens=60, stop=("ere",)),
    greedy(tuple(b"xy"), max_tokens=64),
]


def test_a_session_that_is_ahead_is_one(tmp_path: Path) -> None:
    """What has `launch` is an `AheadSession`, and other sessions are none."""
    engine = make(tmp_path)
    assert isinstance(engine.device, AheadSession)
    assert not isinstance(engine.device.session, AheadSession)


def test_tokens_are_those_of_one_step_at_a_time(tmp_path: Path) -> None:
    """Steps that are begun before the last one is read give every task what it gets without, and nothing more."""
    plain = make_plain(tmp_path / "plain")
    expected = outputs(plain, TASKS)
    engine = make(tmp_path / "ahead")
    assert outputs(engine, TASKS) == expected
    assert engine.texts == plain.texts
    assert [engine.ended[n].reason for n in range(5)] == [plain.ended[n].reason for n in range(5)]
    assert [engine.ended[n].usage for n in range(5)] == [plain.ended[n].usage for n in range(5)]
    assert engine.ended[3].reason is FinishReason.STOP_STRING
    assert engine.device.behind > engine.device.launched / 2
    assert engine.device.unread == 2


def test_a_single_stream_is_ahead_from_its_prompt_to_its_last_token(tmp_path: Path) -> None:
    """A stream whose end is known has each step but the first begun before one is read, and none too many."""
    engine = make(tmp_path)
    outputs(engine, [greedy((97, 98), max_tokens=12)])
    assert engine.outputs[0, 0] == [97, 98] * 6
    assert (engine.device.launched, engine.device.behind) == (12, 11)


def test_what_was_computed_in_vain_is_found_by_nobody(tmp_path: Path) -> None:
    """A stop string is found when the next step runs: blocks are free, and a task with the same prompt is right."""
    engine = make(tmp_path, block_tokens=4)
    first = words(b"one two one two", max_tokens=50, stop=("two",))
    again = greedy(tuple(b"one two one two"), max_tokens=30)
    outputs(engine, [first])
    engine.submit(7, again)
    engine.finish()
    plain = make_plain(tmp_path / "plain", block_tokens=4)
    plain.submit(7, again)
    plain.finish()
    assert engine.outputs[7, 0] == plain.outputs[7, 0]
    assert engine.places.pool.free == engine.loop.bounds.blocks


def test_a_task_that_needs_its_logits_keeps_none_from_the_device(tmp_path: Path) -> None:
    """Beside a task that tells its probabilities the session chooses for the others, and is ahead again afterwards."""
    engine = make(tmp_path)
    telling = Sampling(temperature=0, max_tokens=3, ignore_eos=True, logprobs=1)
    engine.submit(1, greedy((97, 98), max_tokens=8))
    engine.submit(2, Task(prompt=(99, 100), sampling=telling))
    engine.finish()
    assert engine.outputs[1, 0] == [97, 98] * 4
    assert engine.outputs[2, 0] == [99, 100, 99]
    assert len(engine.logprobs[2, 0]) == 3
    assert engine.device.shown == [1] * 3
    assert engine.device.behind


@pytest.mark.parametrize("max_tokens", [1, 2, 12])
def test_a_prompt_that_was_read_alone_is_not_run_ahead_of_beside_one_that_needs_its_logits(
    tmp_path: Path, max_tokens: int
) -> None:
    """A step behind that of a prompt alone waits for it where a stream beside needs its logits here."""
    telling = Sampling(temperature=0, max_tokens=30, ignore_eos=True, logprobs=1)
    given: list[Engine] = [make_plain(tmp_path / "plain", max_step_tokens=64)]
    given.append(make(tmp_path / "ahead", max_step_tokens=64))
    for engine in given:
        engine.loop._pace._gap_s = 1e9  # however slow a machine is, those that decode wait for the prompt
        engine.submit(1, Task(prompt=(99, 100), sampling=telling))
        for _ in range(6):
            engine.step()
        engine.submit(2, greedy(tuple(b"abcdefgh" * 8), max_tokens=max_tokens))
        engine.finish()
        assert any(step.first_row for step in engine.steps)  # the prompt was read alone
    plain, ahead = given
    assert ahead.outputs == plain.outputs
    assert not [ended.error for ended in ahead.ended.values() if ended.error]


def test_an_adapter_goes_when_nothing_is_on_its_way(tmp_path: Path) -> None:
    """An adapter that the model has no longer is taken out with its last task, when all that was launched was read."""
    engine = make(tmp_path)
    gone: list[int] = []

    class Adapting(Device):
        def read_adapter(self, path: Path) -> Any:
            """Never asked."""

        def add_adapter(self, slot: int, adapter: ReadAdapter) -> None:
            """Nothing is made of it."""

        def remove_adapter(self, slot: int) -> None:
            assert not self._waiting
            gone.append(slot)

    engine.device.__class__ = Adapting
    assert isinstance(engine.device, AdaptingSession)
    adapters = engine.loop._adapters = Adapters(engine.device, engine.loop._fail_task)
    adapters.expect({"sha256:x": "legal"})
    adapters.add("sha256:x", ReadAdapter(content=None, rank=1, targets=(), memory_bytes=1))
    engine.submit(1, words(b"stop here. stop", max_tokens=60, stop=("ere",)))
    adapters.when_there(1, "sha256:x", lambda: None)
    engine.submit(2, greedy((97, 98), max_tokens=40))
    engine.step()
    adapters.expect({})
    assert not gone
    engine.finish()
    assert gone == [0]
    assert engine.outputs[2, 0] == [97, 98] * 20
    assert engine.device.behind


def test_a_step_that_fails_fails_those_that_have_a_place(tmp_path: Path) -> None:
    """What a launched step raises ends its tasks once, and tasks that come later are served."""
    engine = make(tmp_path)
    engine.device.failing = 5
    outputs(engine, [greedy((97, 98), max_tokens=30), greedy((99, 100), max_tokens=30)])
    assert {ended.error.reason for ended in engine.ended.values() if ended.error} == {"BACKEND_FAILED"}
    assert len(engine.ended) == 2
    engine.submit(5, greedy((97, 98), max_tokens=30))
    engine.finish()
    assert engine.outputs[5, 0] == [97, 98] * 15


def test_a_launch_that_is_refused_has_its_tasks_run_alone(tmp_path: Path) -> None:
    """A batch that is refused behind another one costs no token: its tasks go on, each alone."""
    engine = make(tmp_path)
    engine.expects_refusals = True
    engine.device.refusing = 4
    tasks = [greedy((97, 98), max_tokens=12), greedy((99, 100), max_tokens=12)]
    assert outputs(engine, tasks) == {(0, 0): [97, 98] * 6, (1, 0): [99, 100] * 6}
    assert engine.loop.refusals == 1


def test_several_samples_follow_what_was_read(tmp_path: Path) -> None:
    """Samples take over the prompt of the first one when it was read, and all are as without."""
    sampling = Sampling(temperature=0, max_tokens=20, ignore_eos=True, n=3)
    task = Task(prompt=tuple(b"abcab"), sampling=sampling)
    expected = outputs(make_plain(tmp_path / "plain"), [task])
    engine = make(tmp_path / "ahead")
    assert outputs(engine, [task]) == expected
    assert engine.device.behind


def test_a_pool_that_is_full_is_not_run_ahead_of(tmp_path: Path) -> None:
    """Where a next token needs a block that is not free, the last step is read first, and somebody gives way."""
    behaviour: dict[str, Any] = {"block_tokens": 4, "blocks": 16, "max_sequences": 4, "context_tokens": 48}
    tasks = [greedy(tuple(b"abcdefgh"), max_tokens=36) for _ in range(4)]
    expected = outputs(make_plain(tmp_path / "plain", **behaviour), tasks)
    engine = make(tmp_path / "ahead", **behaviour)
    assert outputs(engine, tasks) == expected
    assert engine.preempted
    assert engine.device.behind
