"""Random schedules over the fake backend, in one thread: the beats of the loop, one call after the other."""

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferd.core.task import Sampling, TokenInput
from inferd.engine.batcher import Batcher
from inferd.engine.intake import Intake
from inferd.engine.limits import Bounds, EngineLimits
from inferd.engine.sampler import Sampler
from inferd.plugin import LoadedModel, LoadRequest
from inferd.testing.fake import VOCABULARY, FakeBackend

if TYPE_CHECKING:
    from inferd.engine.sequence import Sequence

Task = tuple[tuple[int, ...], Sampling]

prompts = st.lists(st.integers(97, 100), min_size=1, max_size=40).map(tuple)
samplings = st.builds(
    Sampling,
    max_tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 1.0, 6.0]),
    top_k=st.sampled_from([0, 0, 5]),
    top_p=st.sampled_from([1.0, 1.0, 0.5]),
    seed=st.integers(0, 2**64 - 1),
)
tasks = st.lists(st.tuples(prompts, samplings), min_size=1, max_size=10)
sessions = st.fixed_dictionaries(
    {
        "block_tokens": st.sampled_from([1, 3, 4, 16]),
        "max_sequences": st.integers(1, 5),
        "max_step_tokens": st.integers(1, 24),
    }
)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def load(**behaviour: int) -> LoadedModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fake"
        path.write_text(json.dumps(behaviour))
        return FakeBackend().load(LoadRequest(path=path, device="fake:0"), lambda _: None)


class Engine:
    """Intake, batcher, session and sampler, driven by hand."""

    def __init__(self, **behaviour: int) -> None:
        self.session = load(**behaviour).session
        self.bounds = Bounds.of(self.session.limits, EngineLimits())
        self.sampler = Sampler(rows=self.bounds.rows, vocabulary_size=self.bounds.vocabulary_size)
        self.batcher = Batcher(bounds=self.bounds, sampler=self.sampler)
        self.intake = Intake(VOCABULARY, self.bounds, template_timeout_s=60)
        self.outputs: dict[int, list[int]] = {}
        self.living: dict[int, Sequence] = {}

    def submit(self, handle: int, task: Task) -> None:
        self.living[handle] = self.intake.accept(handle, TokenInput(task[0]), task[1])
        self.outputs[handle] = []
        self.batcher.add(self.living[handle])

    def cancel(self, handle: int) -> None:
        if handle in self.living:
            self.batcher.remove(self.living.pop(handle))

    def step(self) -> bool:
        batch = self.batcher.schedule()
        if batch is None:
            return False
        assert len(batch.token_ids) <= self.bounds.step_tokens
        assert len(batch.lengths) <= self.bounds.rows
        ids = self.sampler.choose(self.session.step(batch).logits, self.batcher.sampled_positions)
        self.batcher.commit(ids)
        for sequence, token in zip(self.batcher.sampled, ids.tolist(), strict=True):
            self.outputs[sequence.handle].append(token)
            sequence.accept(token)
            if sequence.finish is not None:
                self.cancel(sequence.handle)
        return True


@cache
def alone(task: Task) -> list[int]:
    """The output of a task that has an engine for itself."""
    engine = Engine()
    engine.submit(0, task)
    while engine.step():
        pass
    return engine.outputs[0]


@relaxed
@given(tasks=tasks, session=sessions, gaps=st.lists(st.integers(0, 6), min_size=10, max_size=10))
def test_output_does_not_depend_on_the_schedule(tasks: list[Task], session: Mapping[str, int], gaps: list[int]) -> None:
    """Whatever runs beside it, and however its prompt is cut, a task's output is that of a run alone."""
    engine = Engine(**session)
    for handle, (task, gap) in enumerate(zip(tasks, gaps, strict=False)):
        engine.submit(handle, task)
        for _ in range(gap):
            engine.step()
    while engine.step():
        pass
    assert engine.outputs == {handle: alone(task) for handle, task in enumerate(tasks)}
    assert engine.batcher.pool.free == engine.bounds.blocks


@relaxed
@given(
    tasks=tasks,
    session=sessions,
    room=st.integers(60, 120),
    events=st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=60),
)
def test_cancellation_disturbs_nobody(
    tasks: list[Task], session: Mapping[str, int], room: int, events: list[int | None]
) -> None:
    """With random cancellations and a small pool, the others' outputs are those of runs alone; no block is lost."""
    engine = Engine(**session, blocks=-(-room // session["block_tokens"]))
    for handle, task in enumerate(tasks):
        engine.submit(handle, task)
    cancelled = set()
    for event in events:
        if event is None:
            engine.step()
        elif event in engine.living:
            engine.cancel(event)
            cancelled.add(event)
    while engine.step():
        pass
    assert not engine.living
    for handle, task in enumerate(tasks):
        whole = alone(task)
        seen = engine.outputs[handle]
        assert seen == (whole[: len(seen)] if handle in cancelled else whole)
    assert engine.batcher.pool.free == engine.bounds.blocks
