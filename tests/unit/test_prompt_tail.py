"""What is told of the last tokens of a prompt, whose beginning may come from the prefix cache."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beats import Engine, Task, make_engine

from inferd.engine.token.limits import EngineLimits
from inferd.engine.token.logprobs import find_entropies
from inferd.errors import InvalidFieldError, present
from inferd.runtime.kept_events import contents_of, in_blob
from inferd.sampling import Sampling

WORDS = tuple(97 + n % 5 for n in range(41))
ALL = Sampling(temperature=0, max_tokens=0, prompt_logprobs=2, prompt_entropies=True)


def told(engine: Engine, handle: int, sampling: Sampling, prompt: tuple[int, ...] = WORDS) -> Any:
    """What a task tells of its prompt, column by column, and how many of its tokens were found."""
    engine.submit(handle, Task(prompt=prompt, sampling=sampling))
    while engine.step():
        pass
    prompt_told = engine.prompts[handle]
    likely = present(prompt_told.logprobs)
    columns = (likely.token_ids, likely.logprobs, likely.top_ids, likely.top_logprobs, prompt_told.entropies)
    return *map(tuple, columns), engine.ended[handle].usage.cached_tokens


@pytest.mark.parametrize("step_tokens", [3, 64])
@pytest.mark.parametrize("last", [1, 7, 40, 41, 1000])
def test_the_last_tokens_are_told_as_all_are_and_the_others_are_found(
    tmp_path: Path, last: int, step_tokens: int
) -> None:
    """Each number is that of a task that tells of all; of what comes before, all full blocks come from the cache."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=step_tokens), block_tokens=4)
    *every, cached = told(engine, 1, ALL)
    assert cached == 0
    *some, cached = told(engine, 2, replace(ALL, prompt_logprobs_last=last))
    count = min(last, len(WORDS) - 1)
    widths = (1, 1, 2, 2, 1)
    assert some == [column[-count * width :] for column, width in zip(every, widths, strict=True)]
    assert cached == (len(WORDS) - count - 1) // 4 * 4


def test_a_tail_goes_on_where_its_engine_lost_it(tmp_path: Path) -> None:
    """Stopped behind any step, also with its own blocks to be found, it tells the same."""
    sampling = replace(ALL, prompt_logprobs_last=17)
    limits = EngineLimits(step_tokens=5)
    expected = told(make_engine(tmp_path, limits, block_tokens=4), 1, sampling)[:-1]
    for before in range(9):
        engine = make_engine(tmp_path, limits, block_tokens=4)
        engine.submit(1, Task(prompt=WORDS, sampling=sampling))
        for _ in range(before):
            engine.step()
        if 1 in engine.ended:
            continue
        engine.suspend(1)
        engine.resume(1)
        while engine.step():
            pass
        likely = present(engine.prompts[1].logprobs)
        assert tuple(likely.logprobs) == expected[1]
        assert tuple(engine.prompts[1].entropies) == expected[4]


def test_entropies_are_those_of_the_whole_distribution() -> None:
    """They are what the definition says, from one certain token to all alike, and where some cannot come at all."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(300, 1000)).astype(np.float32) * 3
    logits[0], logits[1], logits[2, 1:] = 0, -1e4, -np.inf
    logits[1, 5] = 10
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    likely = weights / weights.sum(axis=1, keepdims=True)
    expected = -(likely * np.log(np.where(likely > 0, likely, 1))).sum(axis=1)
    assert find_entropies(logits) == pytest.approx(expected.tolist(), abs=1e-4)
    assert find_entropies(logits)[0] == pytest.approx(np.log(1000))
    assert find_entropies(logits)[1:3] == [0, 0]


def test_a_tail_counts_for_what_is_told_of_a_prompt() -> None:
    """Of a prompt of which too much would be told, a few tokens may be."""
    with pytest.raises(InvalidFieldError):
        Sampling(prompt_logprobs=20).check_prompt(10_000)
    Sampling(prompt_logprobs=20, prompt_logprobs_last=500).check_prompt(10_000)


def test_what_was_told_is_kept_with_its_entropies(tmp_path: Path) -> None:
    """An event that is kept is read as it was written, with entropies and without."""
    engine = make_engine(tmp_path, EngineLimits(step_tokens=64))
    for handle, sampling in ((1, ALL), (2, replace(ALL, prompt_entropies=False))):
        told(engine, handle, sampling)
        event = engine.prompts[handle]
        blob = contents_of(event)
        read = present(in_blob((1, event), "d", blob.size_bytes)).whole(blob).event  # type: ignore[arg-type]
        assert [round(x, 5) for x in read.entropies] == [round(x, 5) for x in event.entropies]  # type: ignore[union-attr]
        assert len(event.entropies) == (40 if handle == 1 else 0)
