"""Sampling against a definition in plain Python, over logits and parameters that hypothesis makes up."""

import math
from dataclasses import replace

import numpy as np
from amounts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.engine.token.philox import uniform
from inferd.engine.token.rules import Rules
from inferd.engine.token.sampler import NOTHING_LEFT, Sampler
from inferd.sampling import Sampling

MARGIN = 1e-5  # of a probability: closer to an edge than this, rounding to float32 may decide

many = settings(deadline=None, max_examples=examples(60))
samplings = st.builds(
    Sampling,
    temperature=st.floats(0.05, 20),
    top_k=st.one_of(st.just(0), st.integers(1, 40), st.integers(500, 2000)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1)),
    seed=st.integers(0, 2**64 - 1),
)


def weigh(logits: list[float], s: Sampling) -> list[tuple[int, float]]:
    """Each token that the filters leave and its weight relative to the likeliest, best first."""
    order = sorted(range(len(logits)), key=lambda n: (-logits[n], n))
    weights = [(n, math.exp((logits[n] - logits[order[0]]) / s.temperature)) for n in order]
    if 0 < s.top_k < len(order):
        weights = weights[: s.top_k]
    total, mass, kept = sum(w for _, w in weights), 0.0, 0
    while kept < len(weights) and (mass < s.top_p * total or not kept):
        mass += weights[kept][1]
        kept += 1
    if s.top_p < 1:
        weights = weights[:kept]
    return [(n, w) for n, w in weights if w >= s.min_p]


def near_edge(logits: list[float], s: Sampling) -> bool:
    """Whether a filter or the draw is decided by less than the margin."""
    everything = weigh(logits, replace(s, top_p=1.0, min_p=0.0))
    total = sum(w for _, w in everything)
    sums = np.cumsum([w for _, w in everything]) / total
    of_top_p = s.top_p < 1 and bool((abs(sums - s.top_p) < MARGIN).any())
    of_min_p = s.min_p > 0 and any(abs(w - s.min_p) < MARGIN for _, w in everything)
    return of_top_p or of_min_p


@many
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 60, 700, 3000]), st.lists(samplings, min_size=1, max_size=6)
)
def test_every_choice_is_that_of_the_definition(data: int, size: int, rows: list[Sampling]) -> None:
    """Each row, whatever its neighbours, gets a token that its filters leave: the one at its point of the weights."""
    logits = (np.random.default_rng(data).normal(size=(len(rows), size)) * 4).astype(np.float32)
    sampler = Sampler(rows=len(rows), vocabulary_size=size)
    for row, sampling in enumerate(rows):
        sampler.assign(row, sampling)
    positions = np.arange(len(rows), dtype=np.int32)
    chosen = sampler.choose(logits, positions).tolist()
    for row, s in enumerate(rows):
        numbers = logits[row].astype(float).tolist()
        if near_edge(numbers, s):
            continue
        kept = weigh(numbers, s)
        unordered = not (0 < s.top_k < size or s.top_p < 1)
        if unordered:  # where nothing has to be sorted, the tokens stand in the order of their ids
            kept.sort()
        point = uniform(np.array([s.seed], np.uint64), positions[row : row + 1])[0]
        sums = np.cumsum([w for _, w in kept])
        found = int(np.searchsorted(sums, point * sums[-1], side="right"))
        close = {kept[min(max(found + step, 0), len(kept) - 1)][0] for step in (-1, 0, 1)}
        if abs(sums / sums[-1] - point).min() > MARGIN:
            assert chosen[row] == kept[min(found, len(kept) - 1)][0]
        assert chosen[row] in close


@many
@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.lists(samplings, min_size=1, max_size=6))
def test_what_is_not_allowed_is_not_chosen(data: int, size: int, rows: list[Sampling]) -> None:
    """A mask leaves a row the choice that it would have without the other tokens; with none left the row says so."""
    rng = np.random.default_rng(data)
    logits = rng.normal(size=(len(rows), size)).astype(np.float32)
    allowed = rng.random((len(rows), size)) < rng.choice([0.0, 0.1, 0.5, 1.0], len(rows))[:, None]
    bits = np.packbits(np.pad(allowed, ((0, 0), (0, -size % 32))), axis=1, bitorder="little")
    masked = np.where(allowed, logits, -np.inf).astype(np.float32)
    positions = np.arange(len(rows), dtype=np.int32)
    sampler = Sampler(rows=len(rows), vocabulary_size=size)
    for row, sampling in enumerate(rows):
        sampler.assign(row, sampling)
    chosen = sampler.choose(logits, positions, masks=bits.view(np.uint32))
    expected = sampler.choose(masked, positions)
    expected[~allowed.any(axis=1)] = NOTHING_LEFT
    assert chosen.tolist() == expected.tolist()


@many
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_phrases_never_come_true(prompt: list[int], phrases: list[tuple[int, ...]], data: int) -> None:
    """No forbidden sequence of tokens ends in the output, whatever the logits, over rows that are moved meanwhile."""
    rng = np.random.default_rng(data)
    rules = Rules.of(Sampling(), phrases=phrases)
    sampler = Sampler(rows=2, vocabulary_size=10)
    sampler.assign(1, Sampling(), rules=rules, tokens=np.array(prompt, np.int32), prompt_tokens=len(prompt))
    tokens, row = list(prompt), 1
    for _ in range(30):
        position = np.array([len(tokens)], np.int32)
        logits = rng.normal(size=(1, 10)).astype(np.float32)
        (token_id,) = sampler.choose(logits, position, rows=np.array([row])).tolist()
        completed = {
            p[-1] for p in phrases if len(p) <= len(tokens) + 1 and tokens[len(tokens) + 1 - len(p) :] == [*p[:-1]]
        }
        if token_id == NOTHING_LEFT:
            assert completed == set(range(10))
            return
        assert token_id not in completed
        tokens.append(token_id)
        if rng.random() < 0.3:
            sampler.move(row, 1 - row)
            row = 1 - row
