"""Top-n-sigma, typical-p, XTC, DRY and the window of penalties against their definitions in numpy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from numpy_samplers import dried, penalised, probabilities, unsurprising

from inferd.engine.token.dry import Dry, Repeats
from inferd.engine.token.mirostat import Surprise
from inferd.engine.token.philox import uniform
from inferd.engine.token.rules import RuledRow, Rules, change
from inferd.engine.token.sampler import NOTHING_LEFT, Sampler
from inferd.engine.token.shapes import LOT, Cut, Shape
from inferd.sampling import Sampling

TEXTS = [b"a", b"b", b"ab", b"", b":", b"c\n", b"\n\n", b"x"]

many = settings(deadline=None, max_examples=50)
shaped = st.builds(
    Sampling,
    temperature=st.floats(0.1, 5),
    top_k=st.one_of(st.just(0), st.integers(1, 40)),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 1)),
    top_n_sigma=st.one_of(st.just(0.0), st.floats(0.01, 5)),
    typical_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    xtc_probability=st.sampled_from([0.0, 0.5, 1.0]),
    xtc_threshold=st.floats(0, 0.6),
    seed=st.integers(0, 2**64 - 1),
)
dry = st.builds(
    Sampling,
    dry_multiplier=st.floats(0.1, 5),
    dry_base=st.floats(1, 3),
    dry_allowed_length=st.integers(1, 4),
    dry_window=st.integers(1, 40),
    dry_sequence_breakers=st.lists(st.sampled_from([":", "\n", "\n\n", "ba", "b:"]), max_size=3).map(tuple),
)
tokens = st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=60)


def random_logits(data: int, size: int) -> NDArray[np.float32]:
    return (np.random.default_rng(data).normal(size=size) * 3).astype(np.float32)


@many
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 60, 500]), shaped, st.floats(0, 0.999))
def test_probabilities_are_those_of_the_definition(data: int, size: int, s: Sampling, lot: float) -> None:
    """What is left of a row, and how likely each token of it is, is what the definition says, to 1e-6."""
    logits = random_logits(data, size)
    logits[1::5] = -np.inf  # what a grammar does not allow
    shape = Shape.of(s) or Shape(0, 1, 0, 0.1)
    ids, shares = shape.leave(logits, Cut(s.temperature, s.top_k, s.top_p, s.min_p), lot)
    expected = probabilities(logits, s, excludes_top=lot < s.xtc_probability)
    told = np.zeros(size)
    told[ids] = shares
    np.testing.assert_allclose(told, expected, atol=1e-6)
    assert len(ids) >= 1
    assert np.isfinite(logits[ids]).all()


@many
@given(st.integers(2, 50), st.floats(744.5, 745.1), st.floats(0.01, 0.999))
def test_the_least_shares_are_numbers(tops: int, depth: float, typical: float) -> None:
    """Tied tokens far above one whose weight is the least number there is are left as the definition leaves them."""
    logits = np.zeros(tops + 1, np.float32)
    logits[0] = -depth
    s = Sampling(typical_p=typical)
    ids, shares = Shape(0, typical, 0, 0.1).leave(logits, Cut(1, 0, 1, 0), 0)
    told = np.bincount(ids, shares, minlength=tops + 1)
    logits[0] = -np.inf
    np.testing.assert_allclose(told, probabilities(logits, s, excludes_top=False), atol=1e-6)


@many
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([511, 512, 513, 2000, 9000]),
    st.sampled_from([0.01, 1, 3, 8]),
    st.sampled_from([0, 7]),
    st.sampled_from([(0.3, 1.0), (1.0, 0.3), (0.9, 0.95), (0.999, 0.999), (1.0, 0.9999999)]),
)
def test_large_rows_are_left_what_a_whole_order_leaves(
    data: int, size: int, wide: float, digits: int, masses: tuple[float, float]
) -> None:
    """Where few suffice, or many, or tied ones: exactly those are left that the whole row in order leaves."""
    values = np.random.default_rng(data).normal(size=size) * wide
    logits = values.round(digits).astype(np.float32)
    typical, top = masses
    ids, shares = Shape(0, typical, 0, 0.1).leave(logits, Cut(1, 0, top, 0), 0)
    left, expected = np.arange(size), np.exp(logits.astype(np.float64) - logits.max())
    expected /= expected.sum()
    for mass, is_typical in ((typical, True), (top, False)):
        if mass < 1:
            ranks = -expected
            if is_typical:
                surprise = -np.log(expected)
                ranks = np.abs(surprise - (expected * surprise).sum())
            order = np.argsort(ranks, kind="stable")
            some = np.sort(order[: int(np.searchsorted(expected[order].cumsum(), mass)) + 1])
            left, expected = left[some], expected[some] / expected[some].sum()
    np.testing.assert_array_equal(ids, left)
    np.testing.assert_array_equal(shares, expected)


def test_few_tokens_of_a_large_row_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 50,000 tokens not a tenth is put in order where the mass that is asked for is that of few."""
    sizes: list[int] = []
    sort = np.argsort

    def count(values: Any, **options: Any) -> Any:
        sizes.append(len(values))
        return sort(values, **options)

    monkeypatch.setattr(np, "argsort", count)
    Shape(0, 0.2, 0, 0.1).leave(random_logits(5, 50_000) * 3, Cut(1, 0, 0.5, 0), 0)
    assert 0 < sum(sizes) < 5_000


@pytest.mark.parametrize(
    "s",
    [
        Sampling(top_n_sigma=1, temperature=2),
        Sampling(typical_p=0.7),
        Sampling(xtc_probability=0.5, xtc_threshold=0.15, min_p=0.02),
        Sampling(typical_p=0.9, top_k=8, top_p=0.95, xtc_probability=1, temperature=1.5),
    ],
)
def test_frequencies_follow_the_definition(s: Sampling) -> None:
    """Over 5,000 positions of a fixed seed the frequencies of the tokens pass a chi-squared test at p = 1e-6."""
    count, size = 5_000, 12
    logits = random_logits(3, size)
    sampler = Sampler(rows=1, vocabulary_size=size)
    sampler.assign(0, replace(s, seed=11))
    positions = np.arange(count, dtype=np.int32)
    chosen = sampler.choose(np.tile(logits, (count, 1)), positions, rows=np.zeros(count, np.intp))
    with_top, without = (probabilities(logits, s, excludes_top=each) for each in (False, True))
    expected = count * ((1 - s.xtc_probability) * with_top + s.xtc_probability * without)
    seen = np.bincount(chosen, minlength=size)
    assert not seen[expected == 0].any()
    kept = expected > 0
    assert ((seen[kept] - expected[kept]) ** 2 / expected[kept]).sum() < 50  # at most 11 degrees of freedom


@many
@given(st.integers(0, 2**32 - 1), dry, tokens, st.integers(0, 60))
def test_dry_is_that_of_the_definition(data: int, s: Sampling, history: list[int], told: int) -> None:
    """Told at once, or token by token, a history takes of the logits what the definition takes."""
    terms = Dry.of(s, TEXTS)
    assert terms is not None
    told = min(max(1, told), len(history))
    whole = Repeats(terms, np.array(history, np.int32))
    grown = Repeats(terms, np.array(history[:told], np.int32))
    for token_id in history[told:]:
        grown.add(token_id)
    logits = random_logits(data, len(TEXTS))
    one, other = logits.copy(), logits.copy()
    whole.apply(one)
    grown.apply(other)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one, dried(logits, history, TEXTS, s), rtol=1e-6, atol=1e-5)


@many
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 7), min_size=1, max_size=30),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.integers(0, 12),
    st.sampled_from([1.0, 1.5]),
)
def test_penalties_of_a_window_are_those_of_the_definition(
    data: int, history: list[int], lengths: tuple[int, int], window: int, repetition: float
) -> None:
    """Told at once, or token by token, the last tokens are penalised, and no others."""
    s = Sampling(repetition_penalty=repetition, frequency_penalty=0.5, presence_penalty=0.25, penalty_window=window)
    prompt = min(lengths[0], len(history))
    told = min(max(lengths[1], prompt), len(history))
    rules = Rules.of(s)
    assert rules is not None
    whole = RuledRow(rules, tokens=np.array(history, np.int32), prompt_tokens=prompt)
    grown = RuledRow(rules, tokens=np.array(history[:told], np.int32), prompt_tokens=prompt)
    for token_id in history[told:]:
        grown.add(token_id)
    logits = random_logits(data, 8)
    rows = np.stack((logits, logits))
    change(rows, [whole, grown], np.array([len(history)] * 2, np.int32), None)
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_allclose(rows[0], penalised(logits, history, prompt, s), atol=1e-5)


@many
@given(st.integers(0, 2**32 - 1), st.lists(shaped, min_size=1, max_size=5), st.integers(1, 60))
def test_shaped_rows_beside_others(data: int, rows: list[Sampling], size: int) -> None:
    """A row chooses alone as among others, what its mask allows, at the point of its seed and position."""
    rng = np.random.default_rng(data)
    logits = (rng.normal(size=(len(rows), size)) * 3).astype(np.float32)
    allowed = rng.random((len(rows), size)) < 0.5
    bits = np.packbits(np.pad(allowed, ((0, 0), (0, -size % 32))), axis=1, bitorder="little").view(np.uint32)
    positions = np.arange(len(rows), dtype=np.int32)
    sampler = Sampler(rows=len(rows), vocabulary_size=size)
    for row, sampling in enumerate(rows):
        sampler.assign(row, sampling)
    together = sampler.choose(logits, positions, masks=bits).tolist()
    for row, chosen in enumerate(together):
        some = np.array([row])
        assert sampler.choose(logits[some], positions[some], rows=some, masks=bits[some]).tolist() == [chosen]
        assert allowed[row, chosen] if allowed[row].any() else chosen == NOTHING_LEFT


@many
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 7, 60, 500]),
    st.floats(0.1, 8),
    st.floats(0, 1),
    st.floats(0.1, 5),
    st.lists(st.floats(0, 0.999), min_size=1, max_size=12),
)
def test_mirostat_is_that_of_the_definition(  # noqa: PLR0917 - hypothesis draws each by itself
    data: int, size: int, tau: float, eta: float, temperature: float, points: list[float]
) -> None:
    """Token by token what is left of a row is what the definition leaves, to 1e-6, and so is what is learned of it."""
    s = Sampling(mirostat_tau=tau, mirostat_eta=eta, temperature=temperature)
    rng, told = np.random.default_rng(data), np.zeros(len(points) + 1, np.int32)
    surprise, again = (Surprise.of(s, rules=None, tokens=told, prompt_tokens=1) for _ in range(2))
    assert surprise is not None
    assert again is not None
    bound, seen = 2 * tau, []
    for place, point in enumerate(points, start=1):
        logits = (rng.normal(size=size) * 3).astype(np.float32)
        seen.append(logits)
        ids, shares = surprise.leave(logits)
        expected = unsurprising(logits, temperature, bound)
        np.testing.assert_allclose(np.bincount(ids, shares, minlength=size), expected, atol=1e-6)
        told[place] = surprise.pick(logits, point)
        bound -= eta * (-np.log2(expected[told[place]]) - tau)
        assert surprise.bound == pytest.approx(bound, abs=1e-6)
    begin, count = again.count(0, len(points), len(points) + 1)
    assert (begin, count) == (0, len(points))
    again.add(np.stack(seen[:5]), 0)
    begin, count = again.count(5, 100, len(points) + 1)
    if count:
        again.add(np.stack(seen[begin:]), begin)
    assert again.bound == surprise.bound


@many
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from([0, np.nan, np.inf, -np.inf]), min_size=1, max_size=8))
def test_mirostat_passes_over_rows_that_are_no_numbers(data: int, spoilt: list[float]) -> None:
    """Rows with NaN, with infinity or with nothing left raise nothing: what is learned is that of the others."""
    s, size = Sampling(mirostat_tau=3, mirostat_eta=0.3), 20
    rng = np.random.default_rng(data)
    told = rng.integers(0, size, len(spoilt) + 1).astype(np.int32)
    logits = (rng.normal(size=(len(spoilt), size)) * 3).astype(np.float32)
    for row, value in zip(logits, spoilt, strict=True):
        if value:
            row[slice(None) if value < 0 or data % 2 else slice(3)] = value
    surprise = Surprise.of(s, rules=None, tokens=told, prompt_tokens=1)
    assert surprise is not None
    surprise.add(logits, 0)
    bound = 6.0
    for place, (row, value) in enumerate(zip(logits, spoilt, strict=True), start=1):
        if not value:
            expected = unsurprising(row, 1, bound)
            share = expected[told[place]] or expected[expected > 0].min()
            bound -= 0.3 * (-np.log2(share) - 3)
    assert surprise.bound == pytest.approx(bound, abs=1e-6)
    assert surprise.known == len(spoilt)


@many
@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.02), st.floats(1, 2000))
def test_mirostat_weighs_no_token_that_weighs_nothing(data: int, temperature: float, bound: float) -> None:
    """At a low temperature no power is taken that is 0, and what is left is what the definition leaves, to 1e-6."""
    logits = random_logits(data, 300)
    s = Sampling(mirostat_tau=3, mirostat_eta=0.3, temperature=temperature)
    surprise = Surprise.of(s, rules=None, tokens=np.zeros(2, np.int32), prompt_tokens=1)
    assert surprise is not None
    surprise.bound = min(bound, 1000)
    weighed: list[float] = []
    exp = np.exp
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "exp", lambda powers: (weighed.extend(powers), exp(powers))[1])
        ids, shares = surprise.leave(logits)
    assert min(weighed) > -746
    with np.errstate(divide="ignore"):  # of what weighs nothing
        expected = unsurprising(logits, temperature, surprise.bound)
    np.testing.assert_allclose(np.bincount(ids, shares, minlength=300), expected, atol=1e-6)


def test_mirostat_reaches_what_it_aims_at() -> None:
    """Over 3,000 tokens of a fixed seed the surprise is, on average, the one that was asked for."""
    s = Sampling(mirostat_tau=3, mirostat_eta=0.1, temperature=1.5, seed=3)
    told = np.zeros(3001, np.int32)
    surprise = Surprise.of(s, rules=None, tokens=told, prompt_tokens=1)
    sampler = Sampler(rows=1, vocabulary_size=400)
    sampler.assign(0, s, surprise=surprise)
    assert sampler.keeps(None, 1).all()
    logits = random_logits(9, 400)[None]
    bits = []
    for place in range(3000):
        ids, shares = surprise.leave(logits[0]) if surprise is not None else ([], [])
        (token_id,) = sampler.choose(logits, np.array([place], np.int32)).tolist()
        bits.append(-np.log2(dict(zip(ids, shares, strict=True))[token_id]))
    assert np.mean(bits) == pytest.approx(3, abs=0.1)


def test_xtc_is_done_as_often_as_asked() -> None:
    """Whether the likeliest tokens are left out is drawn apart from the token, by seed and position."""
    s = Sampling(xtc_probability=0.25, xtc_threshold=0.4, seed=5)
    count = 4000
    sampler = Sampler(rows=1, vocabulary_size=2)
    sampler.assign(0, s)
    positions = np.arange(count, dtype=np.int32)
    even = np.zeros((count, 2), np.float32)
    even[:, 0] = 0.1  # 0.52 and 0.48: both are likely, and the second stays
    chosen = sampler.choose(even, positions, rows=np.zeros(count, np.intp))
    seeds = np.full(count, s.seed, np.uint64)
    done = uniform(seeds ^ LOT, positions) < s.xtc_probability
    assert chosen[done].tolist() == [1] * int(done.sum())
    assert 900 < done.sum() < 1100
    assert 0.4 < chosen[~done].mean() < 0.56


@pytest.mark.parametrize(
    "said", [{"top_n_sigma": 1.0}, {"typical_p": 0.5}, {"xtc_probability": 0.5}, {"dry_multiplier": 1.0}]
)
def test_a_device_does_not_choose_for_such_rows(said: dict[str, Any]) -> None:
    """Rows with these parameters are chosen for by the engine; beside none of them the device chooses as ever."""
    sampler = Sampler(rows=2, vocabulary_size=8)
    sampler.assign(0, Sampling())
    assert not sampler.keeps(None, 1).any()
    s = Sampling(**said)
    sampler.assign(1, s, rules=Rules.of(s, dry=Dry.of(s, TEXTS)), tokens=np.zeros(1, np.int32), prompt_tokens=1)
    sampler.swap(0, 1)
    assert sampler.keeps(None, 2).tolist() == [True, False]


def test_a_repeated_prompt_is_matched_in_bounded_time() -> None:
    """A prompt that is one token over and over is matched as far as counts, at once or token by token."""
    s = Sampling(dry_multiplier=1, dry_base=1, dry_allowed_length=512)
    terms = Dry.of(s, TEXTS)
    assert terms is not None
    alike = np.zeros(5000, np.int32)
    logits = np.zeros(len(TEXTS), np.float32)
    Repeats(terms, alike).apply(logits)
    assert logits.tolist() == [-1] + [0] * 7


class _Counted(int):
    """A token that counts how often any is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return int.__eq__(self, other)

    __hash__ = int.__hash__


@pytest.mark.parametrize("size", [1, 2, 100, 513])
def test_repeats_are_found_in_work_that_grows_as_the_prompt(size: int) -> None:
    """Of a prompt that is one stretch over and over each token is compared four times at most, whatever is repeated."""
    terms = Dry.of(Sampling(dry_multiplier=1), TEXTS)
    assert terms is not None
    tokens = np.array([_Counted(n % size == 0) for n in range(3000)], object)
    _Counted.compared = 0
    Repeats(terms, tokens)
    assert 0 < _Counted.compared <= 4 * len(tokens)


def test_the_repeats_of_a_prompt_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight samples of one task match their prompt once, and each goes on by itself; another prompt is matched anew."""
    s = Sampling(dry_multiplier=1, dry_allowed_length=1)
    rules = Rules.of(s, dry=Dry.of(s, TEXTS))
    assert rules is not None
    matched: list[int] = []
    match = Repeats._match
    monkeypatch.setattr(Repeats, "_match", lambda self, most: (matched.append(most), match(self, most)))
    prompt = [0, 1, 7, 0, 1]
    rows = [RuledRow(rules, tokens=np.array(prompt, np.int32), prompt_tokens=5) for _ in range(8)]
    assert len(matched) == 1
    for token_id, row in enumerate(rows):
        row.add(token_id)
    logits = np.zeros((8, len(TEXTS)), np.float32)
    change(logits, rows, np.full(8, 6, np.int32), None)
    for token_id, told in enumerate(logits):
        np.testing.assert_allclose(told, dried(np.zeros_like(told), [*prompt, token_id], TEXTS, s), atol=1e-5)
    other = RuledRow(rules, tokens=np.array([1, 1, 1, 1, 1], np.int32), prompt_tokens=5)
    assert len(matched) == 2
    change(logits[:1], [other], np.full(1, 5, np.int32), None)
    assert logits[0, 1] < 0
