"""What tasks share, in one loop: KV, places and steps. The loop's beats, one call after the other."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from beats import Engine, Task, greedy, make_engine

from inferd.core.task import FinishReason, Usage
from inferd.engine.token import flights
from inferd.engine.token.limits import EngineLimits
from inferd.errors import BackendFailedError
from inferd.plugin import StepResult, TokenBatch
from inferd.sampling import Sampling, derive

if TYPE_CHECKING:
    from inferd.engine.token.output import StepOutput

WORDS = tuple(97 + n % 23 for n in range(1024))


def count_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the tokens of every step from now on."""
    counts: list[int] = []
    step = engine.model.session.step

    def counted(batch: TokenBatch) -> StepResult:
        counts.append(len(batch.token_ids))
        return step(batch)

    monkeypatch.setattr(engine.model.session, "step", counted)
    return counts


@pytest.mark.parametrize(
    ("salt", "caches", "cached"),
    [(b"t", (True, True), 1024), (b"u", (True, True), 0), (b"t", (False, True), 0), (b"t", (True, False), 0)],
)
def test_second_prompt_is_read_from_the_cache(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    salt: bytes,
    caches: tuple[bool, bool],
    cached: int,
) -> None:
    """Of 1,024 tokens that two prompts of a tenant share the second computes none, if both may; another's all."""
    engine = make_engine(tmp_path, context_tokens=2048)
    engine.submit(1, greedy((*WORDS, 97, 98), max_tokens=5, salt=b"t", prefix_cache=caches[0]))
    engine.finish()
    counts = count_tokens(engine, monkeypatch)
    engine.submit(2, greedy((*WORDS, 99, 98), max_tokens=5, salt=salt, prefix_cache=caches[1]))
    engine.finish()
    assert engine.ended[2].usage == Usage(prompt_tokens=1026, cached_tokens=cached, output_tokens=5)
    assert sum(counts) == 1026 - cached + 4
    assert engine.outputs[2, 0] == list(WORDS[:5])


def test_samples_of_one_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four samples compute the prompt once, each gives what it gives alone, and the task ends with the last of them."""
    sampling = Sampling(temperature=6, seed=5, max_tokens=30, n=4)
    prompt = WORDS[:100]
    alone = make_engine(tmp_path)
    for number in range(4):
        own = derive(sampling, number) if number else sampling
        alone.submit(number, Task(prompt=prompt, sampling=Sampling(temperature=6, seed=own.seed, max_tokens=30)))
    alone.finish()
    engine = make_engine(tmp_path)
    seen: list[StepOutput] = []
    deliver = engine.loop._deliver
    engine.loop._deliver = lambda output: (seen.append(output), deliver(output))[1]  # type: ignore[func-returns-value] # both
    counts = count_tokens(engine, monkeypatch)
    engine.submit(7, Task(prompt=prompt, sampling=sampling))
    engine.finish()
    outputs = [engine.outputs[7, number] for number in range(4)]
    assert outputs == [alone.outputs[number, 0] for number in range(4)]
    assert len({tuple(output) for output in outputs}) == 4
    assert counts[:2] == [100, 4]
    ends = [end for output in seen for end in output.sample_ends]
    assert {(end.handle, end.sample) for end in ends} == {(7, number) for number in range(4)}
    assert [output.ended for output in seen if output.ended] == [[engine.ended[7]]]
    assert engine.ended[7].usage == Usage(prompt_tokens=100, output_tokens=sum(map(len, outputs)))
    assert engine.ended[7].reason is ends[[end.sample for end in ends].index(0)].reason
    assert seen[-1].ended


def test_samples_are_cancelled_together(tmp_path: Path) -> None:
    """Cancelling a task ends all its samples, those that wait for a place too."""
    engine = make_engine(tmp_path, max_sequences=2)
    engine.submit(1, Task(prompt=WORDS[:9], sampling=Sampling(temperature=6, ignore_eos=True, max_tokens=50, n=5)))
    for _ in range(3):
        engine.step()
    engine.cancel(1)
    engine.submit(2, greedy((97, 98), max_tokens=3))
    engine.finish()
    assert engine.ended.keys() == {2}


def test_samples_fail_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the logits of one sample are no numbers its task fails once, and the task beside it goes on."""
    engine = make_engine(tmp_path)
    step = engine.model.session.step

    def broken(batch: TokenBatch) -> StepResult:
        logits = step(batch).logits
        if len(logits) == 4:
            logits[2] = np.nan
        return StepResult(logits=logits)

    monkeypatch.setattr(engine.model.session, "step", broken)
    engine.submit(1, greedy((97, 98), max_tokens=9))
    engine.submit(2, Task(prompt=WORDS[:9], sampling=Sampling(temperature=6, ignore_eos=True, max_tokens=50, n=3)))
    engine.finish()
    assert isinstance(engine.ended[2].error, BackendFailedError)
    assert engine.ended[1].error is None
    assert engine.outputs[1, 0] == [97, 98] * 4 + [97]


def test_failed_step_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    """What a task had computed when a step failed is computed again by the next one."""
    engine = make_engine(tmp_path, fail_step=2)
    engine.submit(1, greedy(WORDS[:64], max_tokens=5))
    engine.finish()
    assert engine.ended[1].error is not None
    engine.submit(2, greedy(WORDS[:64], max_tokens=5))
    engine.finish()
    assert engine.ended[2].usage.cached_tokens == 0


def test_preemption_is_not_heard_of(tmp_path: Path) -> None:
    """Tasks that have not all room run to their ends, with their outputs whole and their usage as ever."""
    engine = make_engine(tmp_path, blocks=12, block_tokens=4, context_tokens=48)
    for handle in range(6):
        engine.submit(handle, greedy((97 + handle, 120, 121), max_tokens=30))
    engine.finish()
    assert engine.places.preempted > 0
    for handle in range(6):
        assert engine.outputs[handle, 0] == [97 + handle, 120, 121] * 10
        assert engine.ended[handle].usage == Usage(prompt_tokens=3, output_tokens=30)


@pytest.mark.parametrize("draft_tokens", [0, 1, 8])
def test_guesses_save_steps_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draft_tokens: int
) -> None:
    """With guesses a text that repeats itself takes fewer steps; greedy or sampled, its tokens are the same."""
    engine = make_engine(tmp_path, EngineLimits(draft_tokens=draft_tokens))
    counts = count_tokens(engine, monkeypatch)
    sampled = Sampling(temperature=2, seed=3, max_tokens=100, stop=("wx",))
    engine.submit(1, greedy(WORDS[:46], max_tokens=100))
    engine.submit(2, Task(prompt=WORDS[:46], sampling=sampled))
    engine.finish()
    plain = make_engine(tmp_path)
    plain.submit(1, greedy(WORDS[:46], max_tokens=100))
    plain.submit(2, Task(prompt=WORDS[:46], sampling=sampled))
    plain.finish()
    assert engine.outputs == plain.outputs
    for handle, ended in engine.ended.items():
        usage = ended.usage
        assert replace(ended, usage=replace(usage, drafted_tokens=0, accepted_tokens=0)) == plain.ended[handle]
        saved = usage.output_tokens - len(counts)
        assert (usage.accepted_tokens > 0) == (usage.drafted_tokens > 0) == (draft_tokens > 0)
        assert saved <= usage.accepted_tokens <= usage.drafted_tokens
    assert len(counts) <= {0: 100, 1: 70, 8: 35}[draft_tokens]


class Machine:
    """A machine on which time passes by the tokens of a step, and only so."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.steps_s: list[float] = []
        compute = engine.model.session.step

        def step(batch: TokenBatch) -> StepResult:
            counts = np.diff(batch.starts)
            seconds = 0.002 * int((counts == 1).sum()) + 0.001 * int(counts[counts > 1].sum())
            self.steps_s.append(seconds)
            self.now += seconds
            return compute(batch)

        monkeypatch.setattr(engine.model.session, "step", step)
        monkeypatch.setattr(flights, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[float, list[float]]:
    """Times between the tokens of 16 streams while a prompt of 4,096 tokens is read, by the configured bound."""
    found = {}
    for gap_s in (0.05, 0.1, 100.0):
        engine = make_engine(tmp_path, EngineLimits(gap_s=gap_s), context_tokens=8192)
        machine = Machine(engine, monkeypatch)
        for handle in range(16):
            engine.submit(handle, greedy((97 + handle, 98), max_tokens=2000))
        for _ in range(50):
            engine.step()
        first = len(machine.steps_s)
        engine.submit(16, greedy(tuple(WORDS * 4), max_tokens=1))
        while 16 not in engine.ended:
            engine.step()
        found[gap_s] = machine.steps_s[first:]
    return found


def test_prompts_that_are_read_alone_keep_the_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams wait for a whole prompt if that is within the bound, and not for more of others right after it."""
    engine = make_engine(tmp_path, EngineLimits(gap_s=1.0), context_tokens=8192)
    machine = Machine(engine, monkeypatch)
    for handle in range(16):
        engine.submit(handle, greedy((97 + handle, 98), max_tokens=2000))
    for _ in range(50):
        engine.step()
    for handle in range(16, 24):
        engine.submit(handle, greedy((97 + handle, *WORDS[:499]), max_tokens=1))
    waits, last, alone = [0.0], machine.now, 0
    while not {*range(16, 24)} <= engine.ended.keys():
        tokens = len(engine.outputs[0, 0])
        engine.step()
        alone += len(engine.outputs[0, 0]) == tokens
        if len(engine.outputs[0, 0]) > tokens:
            waits.append(machine.now - last)
            last = machine.now
    assert alone
    assert 0.5 < max(waits) - 16 * 0.002 <= 0.55


def test_long_prompt_keeps_the_gap(gaps: dict[float, list[float]]) -> None:
    """A long prompt adds nearly half of what it may to the gaps of 16 streams; without a bound far more."""
    alone_s = 16 * 0.002
    for gap_s in (0.05, 0.1):
        assert max(gaps[gap_s]) - alone_s <= gap_s * 0.5
        assert np.median(gaps[gap_s]) - alone_s > gap_s * 0.4
    assert max(gaps[100.0]) - alone_s > 0.4


def test_reasons_of_samples(tmp_path: Path) -> None:
    """The task's reason is that of its first sample, whichever ends last."""
    engine = make_engine(tmp_path)
    engine.submit(1, Task(prompt=(97, 98), sampling=Sampling(temperature=0, max_tokens=4, n=2)))
    engine.finish()
    assert engine.ended[1].reason is FinishReason.MAX_TOKENS
    assert engine.outputs == {(1, 0): [97, 98, 97, 98], (1, 1): [97, 98, 97, 98]}
