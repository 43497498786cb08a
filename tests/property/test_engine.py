"""Random schedules over the fake backend: the beats of the loop, one call after the other.

`make property EXAMPLES=1500` tries as many of them.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from ahead_device import Ahead
from amounts import examples
from beats import Engine, Task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inferd.core.priority import Priority
from inferd.core.task_events import PromptOutput
from inferd.engine.token.limits import EngineLimits, GrammarLimits
from inferd.engine.token.submission import Share
from inferd.engine.work import Embedding
from inferd.errors import LeaseEndedError
from inferd.plugin import LoadedModel, LoadRequest, least_window_blocks
from inferd.plugin.backend import Pooling
from inferd.sampling import Grammar, GrammarKind, Sampling, derive
from inferd.testing.fake import FakeBackend

Event = tuple[str, int]

BEGINNINGS = [(), (97, 98) * 8, (99,) * 20]  # what prompts share, so that the prefix cache finds something
MOST_TOKENS = 64  # of a sequence

prompts = st.builds(
    lambda begin, end: (*begin, *end),
    st.sampled_from(BEGINNINGS),
    st.lists(st.integers(97, 100), min_size=1, max_size=24),
)
PLAIN: dict[str, st.SearchStrategy[object]] = {  # with these alone tokens may be guessed
    "max_tokens": st.integers(1, 20),
    "temperature": st.sampled_from([0.0, 1.0, 6.0]),
    "top_k": st.sampled_from([0, 0, 5]),
    "top_p": st.sampled_from([1.0, 1.0, 0.5]),
    "min_p": st.sampled_from([0.0, 0.0, 0.2]),
    "seed": st.integers(0, 2**64 - 1),
    "n": st.sampled_from([1, 1, 1, 2, 3]),
    "stop": st.sampled_from([(), (), ("ab",), ("ba", "dd"), ("abcabc",)]),
    "stop_token_ids": st.sampled_from([(), (), (), (99,)]),
    "ignore_eos": st.booleans(),
    "prompt_logprobs": st.sampled_from([None, None, None, 0, 2]),
    "echo": st.booleans(),
    "logit_bias": st.sampled_from([(), (), ((98, 4.0),), ((97, -50.0), (99, 2.0))]),
}
REGEXES = ("[a-d]{3,30}", "([ab]c*)+d?")
RULES: dict[str, st.SearchStrategy[object]] = {
    "repetition_penalty": st.sampled_from([1.0, 1.0, 1.5]),
    "frequency_penalty": st.sampled_from([0.0, 0.0, 1.5]),
    "presence_penalty": st.sampled_from([0.0, 0.0, -1.0]),
    "grammar": st.sampled_from([None, None, None, *(Grammar(GrammarKind.REGEX, source) for source in REGEXES)]),
    "logprobs": st.sampled_from([None, 0, 3]),
    "bad_words": st.sampled_from([(), ("b",), ("aa", "cd")]),
}
usual = st.one_of(st.builds(Sampling, **PLAIN), st.builds(Sampling, **PLAIN, **RULES))


def at_least(sampling: Sampling, part: float) -> Sampling:
    """With a least number of tokens, where no grammar may be at its end before."""
    least = int(part * (sampling.max_tokens or 0))
    return sampling if sampling.grammar is not None else replace(sampling, min_tokens=least)


samplings = st.builds(at_least, usual, st.sampled_from([0.0, 0.0, 0.5, 1.0]))
weights = st.sampled_from([0.5, 1.0, 3.0])
POOLINGS = [pooling for pooling in Pooling if pooling is not Pooling.RANK]  # which needs a model with a head
embeddings = st.sampled_from([None] * 6 + [Embedding(pooling=pooling) for pooling in POOLINGS])
tasks = st.builds(
    Task,
    prompt=prompts,
    sampling=samplings,
    salt=st.sampled_from([b"a", b"b"]),
    prefix_cache=st.booleans(),
    priority=st.sampled_from(Priority),
    share=st.builds(Share, tenant=st.sampled_from(["a", "b"]), expected_tokens=st.integers(0, 60), weight=weights),
    embedding=embeddings,
    lease_id=st.sampled_from(["", "", "l0", "l1"]),
    alone=st.sampled_from([False, False, False, True]),
)
sessions = st.fixed_dictionaries(
    {
        "block_tokens": st.sampled_from([1, 3, 4, 16]),
        "max_sequences": st.integers(1, 6),
        "max_step_tokens": st.integers(1, 24),
    }
)
engines = st.builds(
    EngineLimits,
    draft_tokens=st.sampled_from([0, 0, 1, 5]),
    gap_s=st.sampled_from([1e-9, 1.0]),
    grammar=st.builds(GrammarLimits, wait_s=st.sampled_from([60.0, 60.0, 0.0])),  # with 0 none answers in time
)
kinds = st.sampled_from(["submit", "step", "step", "step", "preempt", "cancel", "suspend", "resume", "hold"])
events = st.lists(st.tuples(kinds, st.integers(0, 99)), max_size=80)
EXAMPLES = examples(20)
relaxed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def load(**behaviour: int) -> LoadedModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fake"
        path.write_text(json.dumps(behaviour))
        return FakeBackend().load(LoadRequest(path=path, device="fake:0", capacity_bytes=1 << 30), lambda _: None)


def least_window_blocks_of(session: Mapping[str, int], window: int) -> int:
    """The smallest pool in which the windows of all sequences of a session have room."""
    return least_window_blocks(
        window_tokens=window,
        block_tokens=session["block_tokens"],
        sequences=min(session["max_sequences"], session["max_step_tokens"]),
        step_tokens=session["max_step_tokens"],
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What one sample is given that has an engine for itself: tokens, text, how likely they were, and of its prompt."""

    tokens: list[int]
    text: str
    logprobs: list[float]
    prompt: PromptOutput | None


def likely(engine: Engine, place: tuple[int, int]) -> list[float]:
    """All log probabilities that were told of the tokens of a sample."""
    return [x for told in engine.logprobs[place] for x in (*told.logprobs, *told.top_logprobs)]


@cache
def alone(prompt: tuple[int, ...], sampling: Sampling) -> Given:
    """What one sample is given that has an engine for itself."""
    engine = Engine(load())
    engine.submit(0, Task(prompt=prompt, sampling=replace(sampling, n=1), prefix_cache=False))
    engine.finish()
    assert engine.ended[0].error is None
    return Given(engine.outputs[0, 0], engine.texts[0, 0], likely(engine, (0, 0)), engine.prompts.get(0))


@cache
def vector_alone(prompt: tuple[int, ...], embedding: Embedding) -> tuple[float, ...]:
    """The embedding that a task gets that has an engine for itself."""
    engine = Engine(load())
    engine.submit(0, Task(prompt=prompt, sampling=Sampling(), embedding=embedding))
    engine.finish()
    return engine.vectors[0]


def expected(task: Task, sample: int) -> Given:
    return alone(task.prompt, derive(task.sampling, sample) if sample else task.sampling)


def check_told(engine: Engine, handle: int, task: Task) -> None:
    """Beside its tokens, a task that came to its end was told what each of its samples is told alone."""
    for sample in range(task.sampling.n):
        given = expected(task, sample)
        assert engine.texts[handle, sample] == given.text
        assert likely(engine, (handle, sample)) == pytest.approx(given.logprobs, abs=1e-6)
    prompt, whole = engine.prompts.get(handle), expected(task, 0).prompt
    assert (prompt is None) == (whole is None)
    if prompt is not None and whole is not None:
        assert (prompt.text, list(prompt.token_ids)) == (whole.text, list(whole.token_ids))
        assert (prompt.logprobs is None) == (whole.logprobs is None)
        if prompt.logprobs is not None and whole.logprobs is not None:
            assert list(prompt.logprobs.logprobs) == pytest.approx(list(whole.logprobs.logprobs), abs=1e-6)


def test_a_task_that_comes_back_when_its_lease_has_ended_keeps_what_it_told() -> None:
    """What is suspended and refused when it resumes has told the beginning of its output, and nothing else."""
    engine = Engine(load())
    task = Task(prompt=(97, 98), sampling=Sampling(temperature=0, max_tokens=8, ignore_eos=True), lease_id="l1")
    engine.submit(0, task)
    for _ in range(3):
        engine.step()
    engine.suspend(0)
    engine.hold("l1", rows=1, blocks=1)
    engine.hold("l1", rows=0, blocks=0)
    engine.resume(0)
    engine.finish()
    assert isinstance(engine.ended[0].error, LeaseEndedError)
    assert 0 < len(engine.outputs[0, 0]) < 8
    assert engine.outputs[0, 0] == expected(task, 0).tokens[: len(engine.outputs[0, 0])]


@relaxed
@given(
    some=st.lists(tasks, min_size=1, max_size=12),
    session=sessions,
    limits=engines,
    room=st.integers(MOST_TOKENS, 2 * MOST_TOKENS),
    window=st.sampled_from([0, 0, 1, 5, 17]),
    ahead=st.booleans(),
    events=events,
)
def test_output_does_not_depend_on_the_schedule(  # noqa: PLR0917 - hypothesis gives them by name
    some: list[Task],
    session: Mapping[str, int],
    limits: EngineLimits,
    room: int,
    window: int,
    ahead: bool,  # noqa: FBT001 - as above
    events: list[Event],
) -> None:
    """Batched, in chunks, preempted, suspended, cached, one of several, with drafts and holds, late grammars: as alone.

    So too where a session is a step ahead of what was read of it.

    That is tokens, text up to a stop string, log probabilities, and what is told of the prompt. A cancelled task gives
    a part of its output. No block is lost, and nothing is told twice. What a lease holds is free or its own in every
    step, and all that fits beside it comes to its end. What layers with a window see is there, in a pool of just the
    size of all windows.
    """
    if window:
        session = {**session, "window_tokens": window, "window_blocks": least_window_blocks_of(session, window)}
    kind = Ahead if ahead else Engine
    engine = kind(load(**session, blocks=-(-room // session["block_tokens"])), limits)
    cancelled = engine.play(some, events)
    for (handle, sample), tokens in engine.outputs.items():
        whole = [] if some[handle].embedding else expected(some[handle], sample).tokens
        cut = handle in cancelled or handle in engine.refused  # the latter may have told something and been suspended
        assert tokens == (whole[: len(tokens)] if cut else whole)
    assert engine.ended.keys() == set(range(len(some))) - cancelled
    for handle, ended in engine.ended.items():
        if handle in engine.refused:
            assert isinstance(ended.error, LeaseEndedError)
            continue
        assert ended.error is None
        assert ended.usage.prompt_tokens == len(some[handle].prompt)
        assert ended.usage.output_tokens == sum(
            len(tokens) for (owner, _), tokens in engine.outputs.items() if owner == handle
        )
        wanted = some[handle].embedding
        if wanted is None:
            check_told(engine, handle, some[handle])
        assert engine.vectors.get(handle) == (None if wanted is None else vector_alone(some[handle].prompt, wanted))


@settings(max_examples=examples(6), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), room=st.integers(MOST_TOKENS, 12 * MOST_TOKENS), ahead=st.booleans(), events=events
)
def test_many_ragged_sequences(seed: int, room: int, ahead: bool, events: list[Event]) -> None:  # noqa: FBT001 - as above
    """64 sequences of many lengths in a pool that holds a few of them give what each gives alone."""
    lengths = [1 + (seed >> place % 32) % 40 + place % 3 for place in range(64)]
    some = [
        Task(
            prompt=tuple(97 + (place * n) % 5 for n in range(length)),
            sampling=Sampling(temperature=0, max_tokens=1 + (length + place) % 20),
            priority=1 + place % 3,
        )
        for place, length in enumerate(lengths)
    ]
    engine = (Ahead if ahead else Engine)(load(block_tokens=4, blocks=-(-room // 4), max_step_tokens=96))
    cancelled = engine.play(some, events)
    for (handle, _), tokens in engine.outputs.items():
        whole = expected(some[handle], 0).tokens
        assert tokens == (whole[: len(tokens)] if handle in cancelled else whole)
