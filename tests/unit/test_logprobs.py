import numpy as np
import pytest

from inferd.core.task_events import Logprobs
from inferd.engine.token.logprobs import join, measure
from inferd.engine.token.sampler import Sampler
from inferd.engine.token.scores import PromptScores
from inferd.sampling import Sampling


def test_rows_may_ask_for_different_numbers() -> None:
    """Each row tells as many of its likeliest tokens as it asks for; of equals, those with the lowest ids."""
    logits = np.zeros((3, 8), np.float32)
    logits[:, 5] = 1
    told = measure(logits, np.array([5, 0, 7]), [0, 3, 100])
    assert [each.token_ids for each in told] == [(5,), (0,), (7,)]
    assert [each.top_ids for each in told] == [(), (5, 0, 1), (5, 0, 1, 2, 3, 4, 6, 7)]
    assert told[1].logprobs[0] == pytest.approx(-np.log(7 + np.e))
    assert np.exp(told[2].top_logprobs).sum() == pytest.approx(1)


def test_logits_of_any_size() -> None:
    """Large logits do not overflow, and a token that is impossible has the log probability minus infinity."""
    logits = np.array([[1e30, -1e30, 0], [0, -np.inf, 0]], np.float32)
    first, second = measure(logits, np.array([0, 1]), [0, 0])
    assert first.logprobs == (0.0,)
    assert second.logprobs == (-np.inf,)


def test_groups_are_joined() -> None:
    """More rows than are worked on at once give what each gives alone."""
    logits = np.random.default_rng(1).normal(size=(40, 20_000)).astype(np.float32)
    ids = np.arange(40) * 7
    assert measure(logits, ids, [2] * 40) == [measure(logits[n : n + 1], ids[n : n + 1], [2])[0] for n in range(40)]


def test_join() -> None:
    """Several tokens' values become one, in their order."""
    one, other = Logprobs((1,), (-1.0,), (1, 2), (-1.0, -2.0)), Logprobs((3,), (-3.0,), (4, 5), (-4.0, -5.0))
    assert join([one, other]) == Logprobs((1, 3), (-1.0, -3.0), (1, 2, 4, 5), (-1.0, -2.0, -4.0, -5.0))


def test_sampler_measures_rows_that_ask() -> None:
    """Of the rows of a step, those that ask for it are told of, by their place, unless they have no token."""
    logits = np.zeros((3, 4), np.float32)
    logits[2] = np.nan
    sampler = Sampler(rows=3, vocabulary_size=4)
    for row, asked in enumerate((None, 1, 1)):
        sampler.assign(row, Sampling(temperature=0, logprobs=asked))
    ids = sampler.choose(logits, np.zeros(3, np.int32))
    assert sampler.measure(logits, ids).keys() == {1}
    sampler.move(1, 0)
    assert sampler.measure(logits[:2], ids[:2]).keys() == {0, 1}
    assert sampler.measure(logits[:1], ids[:1], rows=np.array([1])).keys() == {0}


@pytest.mark.parametrize("parts", [[(0, 5)], [(0, 2), (2, 5)], [(0, 3), (0, 2), (2, 5)], [(0, 5), (0, 5)]])
def test_scores_of_a_prompt_in_parts(parts: list[tuple[int, int]]) -> None:
    """A prompt's tokens but the first are told of once each, in whatever parts it is computed, or computed again."""
    prompt = np.array([3, 1, 4, 1, 5], np.int32)
    logits = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    scores = PromptScores(prompt, top=2)
    for begin, end in parts:
        first, count = scores.count(begin, end)
        scores.add(logits[first : first + count], first)
    assert scores.tell() == join(measure(logits[:4], prompt[1:], [2] * 4))


def test_scores_of_one_token() -> None:
    """A prompt of one token has nothing to tell."""
    scores = PromptScores(np.array([1], np.int32), top=2)
    assert scores.count(0, 1) == (0, 0)
    assert scores.tell() == Logprobs((), ())
