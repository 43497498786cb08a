import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferd.engine.token.logprobs import measure
from inferd.engine.token.penalties import Penalties, penalize
from inferd.engine.token.rules import RuledRow, Rules, change
from inferd.engine.token.sampler import Sampler
from inferd.sampling import Sampling

CASES = json.loads((Path(__file__).parents[1] / "reference" / "sampling.json").read_text(encoding="utf-8"))["cases"]
Case = dict[str, Any]


def logits_of(case: Case) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array([case["logits"]], np.float32)


def sampling_of(case: Case) -> Sampling:
    names = ("repetition_penalty", "min_tokens", "temperature", "top_k", "top_p", "min_p")
    bias = tuple((int(token_id), bias) for token_id, bias in case["logit_bias"].items())
    return Sampling(**{name: case[name] for name in names}, logit_bias=bias)


def rules_of(case: Case) -> Rules | None:
    return Rules.of(sampling_of(case), phrases=[tuple(p) for p in case["bad_words"]], ends=case["ends"])


@pytest.mark.parametrize("number", range(len(CASES)))
def test_rules_equal_those_of_transformers(number: int) -> None:
    """Bias, repetition penalty, bad words and least tokens give the logits that transformers gives, to 1e-4."""
    case, logits, rules = CASES[number], logits_of(CASES[number]), rules_of(CASES[number])
    history = np.array(case["prompt"] + case["output"], np.int32)
    row = None if rules is None else RuledRow(rules, tokens=history, prompt_tokens=len(case["prompt"]))
    change(logits, [row], np.array([len(history)], np.int32), None)
    expected = np.array([-np.inf if x is None else x for x in case["expected"]["ruled"]])
    np.testing.assert_allclose(logits[0], expected, atol=1e-4)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_history_that_comes_token_by_token(number: int) -> None:
    """A row that was told of its output token by token, moved meanwhile, is as one that was given it at once."""
    case, rules = CASES[number], rules_of(CASES[number])
    history = np.array(case["prompt"] + case["output"], np.int32)
    prompt = len(case["prompt"])
    assert rules is not None
    whole = RuledRow(rules, tokens=history, prompt_tokens=prompt)
    grown = RuledRow(rules, tokens=history[:prompt], prompt_tokens=prompt)
    for token_id in case["output"]:
        grown.add(token_id)
    one, other = logits_of(case), logits_of(case)
    position = np.array([len(history)], np.int32)
    change(one, [whole], position, None)
    change(other, [grown], position, None)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_filters_equal_those_of_transformers(number: int) -> None:
    """Behind the rules, temperature, top-k, top-p and min-p leave the tokens and the probabilities of transformers.

    Chi-squared over 20,000 positions of a fixed seed, at p = 1e-6 (the bound of Wilson and Hilferty).
    """
    case, count = CASES[number], 20_000
    ruled = np.array([-np.inf if x is None else x for x in case["expected"]["ruled"]], np.float32)
    sampler = Sampler(rows=1, vocabulary_size=len(ruled))
    sampler.assign(0, sampling_of(case))
    chosen = sampler.choose(np.tile(ruled, (count, 1)), np.arange(count, dtype=np.int32), rows=np.zeros(count, np.intp))
    seen = np.bincount(chosen, minlength=len(ruled))
    kept = case["expected"]["kept"]
    assert seen.sum() == seen[kept].sum()
    expected = np.array(case["expected"]["probabilities"])[kept] * count
    common = expected >= 5  # the rarer ones are one class
    classes = np.array([*seen[kept][common], seen[kept][~common].sum()])
    means = np.array([*expected[common], max(expected[~common].sum(), 1e-9)])
    degrees = max(1, len(means) - 1)
    bound = degrees * (1 - 2 / (9 * degrees) + 4.7534 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert ((classes - means) ** 2 / means).sum() < bound


@pytest.mark.parametrize("number", range(len(CASES)))
def test_logprobs_equal_those_of_transformers(number: int) -> None:
    """Log probabilities are the log softmax of the raw logits to 1e-4, and the likeliest tokens are the same."""
    case, logits = CASES[number], logits_of(CASES[number])
    expected = case["expected"]["logprobs"]
    (told,) = measure(logits, np.array([number]), [20])
    assert told.token_ids == (number,)
    assert told.logprobs[0] == pytest.approx(expected[number], abs=1e-4)
    assert list(told.top_ids) == case["expected"]["top"]
    assert list(told.top_logprobs) == pytest.approx([expected[i] for i in told.top_ids], abs=1e-4)


def test_frequency_and_presence() -> None:
    """Both count the output only: frequency for each time, presence once; repetition counts the prompt too."""
    prompt, output = np.array([1, 2, 2], np.int32), np.array([2, 3, 3, 3], np.int32)
    row = Penalties(repetition=2.0, frequency=0.5, presence=0.25, prompt=prompt, output=output)
    logits = np.array([[8, 8, -8, 8, 8]], np.float32)
    penalize(logits, [row])
    assert logits[0].tolist() == [8, 4, -16 - 0.5 - 0.25, 4 - 1.5 - 0.25, 8]


def test_penalties_of_many_tokens() -> None:
    """A sequence may hold any number of distinct tokens; its table grows with them."""
    row = Penalties(repetition=1, frequency=1, presence=0, prompt=np.zeros(0, np.int32), output=np.zeros(0, np.int32))
    for token_id in [*range(1000), *range(500)]:
        row.add(token_id)
    logits = np.zeros((2, 1001), np.float32)
    penalize(logits, [None, row])
    assert not logits[0].any()
    assert logits[1].tolist() == [-2.0] * 500 + [-1.0] * 500 + [0.0]


def test_no_rules_where_nothing_is_asked_for() -> None:
    """A task without rules has none, so that its rows cost nothing; rules that do not look back say so."""
    assert Rules.of(Sampling(), ends=[1]) is None
    assert Rules.of(Sampling(min_tokens=3), ends=[]) is None
    biased = Rules.of(Sampling(logit_bias=((1, 2.0),)), phrases=[(4,)])
    assert biased is not None
    assert not biased.reads_history
    phrased = Rules.of(Sampling(), phrases=[(4, 5)])
    assert phrased is not None
    assert phrased.reads_history
