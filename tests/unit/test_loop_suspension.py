"""Tasks that are suspended and resumed, in one loop. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.core.task import Embedding, Grammar, GrammarKind, Pooling, Sampling
from inferd.engine import loop
from inferd.engine.limits import EngineLimits
from inferd.errors import LimitExceededError

WORDS = tuple(97 + n % 5 for n in range(40))
RANDOM = Sampling(temperature=6, seed=7, max_tokens=16, ignore_eos=True)
TASKS = {
    "plain": Task(prompt=WORDS, sampling=RANDOM),
    "greedy": greedy(WORDS, max_tokens=16),
    "uncached": Task(prompt=WORDS, sampling=RANDOM, prefix_cache=False),
    "rules": Task(prompt=WORDS, sampling=replace(RANDOM, repetition_penalty=1.5, frequency_penalty=1, min_tokens=9)),
    "stop": Task(prompt=WORDS, sampling=replace(RANDOM, temperature=0, stop=("deab",))),
    "told": Task(prompt=WORDS, sampling=replace(RANDOM, logprobs=2, prompt_logprobs=1, echo=True)),
    "samples": Task(prompt=WORDS, sampling=replace(RANDOM, n=3)),
    "grammar": Task(
        prompt=WORDS, sampling=replace(RANDOM, grammar=Grammar(GrammarKind.REGEX, source="([a-c]{2}x){4,9}"))
    ),
    "last": Task(prompt=WORDS, sampling=RANDOM, embedding=Embedding(pooling=Pooling.LAST)),
    "mean": Task(prompt=WORDS, sampling=RANDOM, embedding=Embedding(pooling=Pooling.MEAN)),
}


def result(engine: Engine) -> object:
    """All that came out of the first task, without what guesses saved."""
    usage = replace(engine.ended[1].usage, drafted_tokens=0, accepted_tokens=0)
    told = (engine.outputs, engine.texts, engine.logprobs, engine.prompts, engine.vectors)
    return *told, replace(engine.ended[1], usage=usage)


@pytest.mark.parametrize(("step_tokens", "draft_tokens"), [(7, 0), (64, 4)])
@pytest.mark.parametrize("kind", TASKS)
def test_suspended_at_any_step_goes_on_as_ever(tmp_path: Path, kind: str, step_tokens: int, draft_tokens: int) -> None:
    """Suspended behind any number of steps, in its prompt too, a task gives what it gives without, bit by bit."""
    limits = EngineLimits(step_tokens=step_tokens, draft_tokens=draft_tokens)
    plain = make_engine(tmp_path, limits)
    plain.submit(1, TASKS[kind])
    beats = 0
    while plain.step():
        beats += 1
    assert beats > 1 or TASKS[kind].embedding
    for before in range(beats):
        engine = make_engine(tmp_path, limits, block_tokens=4)
        engine.submit(1, TASKS[kind])
        for _ in range(before):
            engine.step()
        engine.suspend(1)
        assert engine.places.pool.free == engine.loop.bounds.blocks
        assert not engine.step()
        engine.resume(1)
        engine.finish()
        assert result(engine) == result(plain)


def test_place_of_a_suspended_task_is_free_before_the_next_step(tmp_path: Path) -> None:
    """With one place another task runs while the first is suspended; resumed, the older one goes before a third."""
    engine = make_engine(tmp_path, max_sequences=1)
    engine.submit(1, greedy((97, 98), max_tokens=4))
    engine.step()
    engine.suspend(1)
    engine.submit(2, greedy((99, 100), max_tokens=3))
    engine.step()
    assert engine.running == [2]
    engine.submit(3, greedy((99, 100), max_tokens=3))
    engine.resume(1)
    engine.finish()
    assert engine.outputs == {(1, 0): [97, 98, 97, 98], (2, 0): [99, 100, 99], (3, 0): [99, 100, 99]}
    assert list(engine.ended) == [2, 1, 3]


def test_blocks_of_a_suspended_task_may_still_be_found(tmp_path: Path) -> None:
    """A task that goes on while nobody needed its memory computes the last block alone."""
    engine = make_engine(tmp_path, block_tokens=4)
    engine.submit(1, greedy(WORDS, max_tokens=9))
    engine.step()
    engine.suspend(1)
    engine.resume(1)
    engine.step()
    assert engine.loop._batcher._starts[1] == 1  # 40 tokens were found, the new one is computed
    engine.finish()


def test_samples_that_wait_for_the_prompt_are_suspended_with_it(tmp_path: Path) -> None:
    """Resumed before the prompt was read, only the first sample waits for a place; the others follow it."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16))
    engine.submit(1, Task(prompt=WORDS, sampling=replace(RANDOM, n=3)))
    engine.step()
    engine.suspend(1)
    engine.resume(1)
    engine.step()
    assert [sequence.sample for sequence in engine.places.rows] == [0]
    for _ in range(3):
        engine.step()
    assert [sequence.sample for sequence in engine.places.rows] == [0, 1, 2]


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_suspended_task_can_be_cancelled(tmp_path: Path, steps: int) -> None:
    """A task that is cancelled while it is suspended is never heard of again, and resuming it changes nothing."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=16))
    engine.submit(1, Task(prompt=WORDS, sampling=replace(RANDOM, n=2)))
    for _ in range(steps):
        engine.step()
    engine.suspend(1)
    engine.cancel(1)
    engine.resume(1)
    engine.finish()
    assert engine.ended == {}
    assert engine.suspended == []


def test_what_cannot_be_suspended_or_resumed(tmp_path: Path) -> None:
    """Unknown tasks, those that have ended, and what is said twice change nothing."""
    engine = make_engine(tmp_path)
    engine.submit(1, greedy((97, 98), max_tokens=2))
    engine.resume(1)
    for handle in (1, 1):
        engine.suspend(handle)
    for handle in (1, 1):
        engine.resume(handle)
    engine.finish()
    for call in (engine.loop.suspend, engine.loop.resume):
        for handle in (1, 99):
            call(handle)
    assert not engine.step()
    assert engine.outputs == {(1, 0): [97, 98]}
    assert engine.suspended == []


def test_suspended_tasks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task more than may be suspended ends with LIMIT_EXCEEDED and its usage; the others go on."""
    monkeypatch.setattr(loop, "MOST_SUSPENDED", 1)
    engine = make_engine(tmp_path)
    for handle in (1, 2):
        engine.submit(handle, greedy((97, 98), max_tokens=4))
    engine.step()
    for handle in (1, 1):
        engine.suspend(handle)
    engine.loop.suspend(2)
    engine.step()
    error = engine.ended[2].error
    assert isinstance(error, LimitExceededError)
    assert error.metadata == {"bound": "suspended", "limit": "1"}
    assert engine.ended[2].usage.output_tokens == 1
    engine.resume(1)
    engine.finish()
    assert engine.outputs[1, 0] == [97, 98, 97, 98]
