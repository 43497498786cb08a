"""Tasks that are dropped and go on behind what they have told. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path

import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.engine.token.limits import EngineLimits
from inferd.engine.work import Embedding
from inferd.plugin.backend import Pooling
from inferd.sampling import Grammar, GrammarKind, Sampling

WORDS = tuple(97 + n % 5 for n in range(40))
RANDOM = Sampling(temperature=6, seed=7, max_tokens=16, ignore_eos=True)
TASKS = {
    "plain": Task(prompt=WORDS, sampling=RANDOM),
    "greedy": greedy(WORDS, max_tokens=16),
    "uncached": Task(prompt=WORDS, sampling=RANDOM, prefix_cache=False),
    "rules": Task(prompt=WORDS, sampling=replace(RANDOM, repetition_penalty=1.5, frequency_penalty=1, min_tokens=9)),
    "shaped": Task(
        prompt=WORDS,
        sampling=replace(
            RANDOM,
            repetition_penalty=1.5,
            penalty_window=5,
            dry_multiplier=2,
            top_n_sigma=2,
            typical_p=0.9,
            xtc_probability=0.5,
        ),
    ),
    "surprise": Task(prompt=WORDS, sampling=replace(RANDOM, mirostat_tau=2, mirostat_eta=0.7, n=2)),
    "ruled surprise": Task(
        prompt=WORDS, sampling=replace(RANDOM, mirostat_tau=1, mirostat_eta=0.5, presence_penalty=2, min_tokens=3)
    ),
    "mute": Task(prompt=WORDS, sampling=replace(RANDOM, max_tokens=0, prompt_logprobs=1, n=2)),
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
@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kind", TASKS)
def test_goes_on_behind_any_step_as_ever(
    tmp_path: Path, kind: str, step_tokens: int, draft_tokens: int, *, moves: bool
) -> None:
    """Dropped behind any step, a task goes on behind what it has told bit by bit as ever, elsewhere too."""
    limits = EngineLimits(step_tokens=step_tokens, draft_tokens=draft_tokens)
    plain = make_engine(tmp_path, limits)
    plain.submit(1, TASKS[kind])
    beats = 0
    while plain.step():
        beats += 1
    assert beats > 1 or TASKS[kind].embedding or TASKS[kind].sampling.max_tokens == 0
    for before in range(beats):
        engine = make_engine(tmp_path, limits, block_tokens=4)
        engine.submit(1, TASKS[kind])
        for _ in range(before):
            engine.step()
        engine.suspend(1)
        assert engine.places.pool.free == engine.loop.bounds.blocks
        assert not engine.step()
        if moves:
            other = make_engine(tmp_path, limits, block_tokens=8)
            engine.move(1, other)
            engine = other
        else:
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
    assert len(engine.steps[-1].batch.token_ids) == 1  # 40 tokens were found, the new one is computed
    engine.finish()


def test_cached_tokens_are_those_of_the_first_reading(tmp_path: Path) -> None:
    """What the prefix cache had of a prompt is told once, and a task that goes on does not count what it computed."""
    engine = make_engine(tmp_path, block_tokens=4)
    engine.submit(1, greedy(WORDS, max_tokens=3))
    engine.finish()
    engine.submit(2, greedy((*WORDS, 97, 98, 99, 100, 101), max_tokens=9))
    for _ in range(3):
        engine.step()
    assert engine.cached[2] == 40
    engine.suspend(2)
    engine.resume(2)
    engine.finish()
    assert engine.ended[2].usage.cached_tokens == 40


def test_samples_that_have_told_nothing_share_the_prompt_when_they_go_on(tmp_path: Path) -> None:
    """Dropped before the prompt was read, the first sample reads it and the others follow it."""
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


@pytest.mark.parametrize("kind", ["stop", "grammar", "samples"])
def test_one_that_has_told_its_last_token_ends_where_it_is_moved_to(tmp_path: Path, kind: str) -> None:
    """The kernel may move a task of whose end it has not heard yet: it ends again, and the engine goes on."""
    engine = make_engine(tmp_path)
    engine.submit(1, TASKS[kind])
    engine.finish()
    other = make_engine(tmp_path)
    engine.stopped.append(1)
    engine.move(1, other)
    other.step()
    told, again = engine.ended[1], other.ended[1]
    assert (again.reason, again.usage.output_tokens) == (told.reason, told.usage.output_tokens)
    other.submit(2, greedy((97, 98), max_tokens=3))
    other.finish()
    assert other.outputs[2, 0] == [97, 98, 97]
