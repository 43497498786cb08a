from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from inferd.engine.token.philox import uniform
from inferd.engine.token.rules import Rules
from inferd.engine.token.sampler import BAD_ROW, NOTHING_LEFT, Sampler, _find
from inferd.sampling import Sampling

GREEDY = Sampling(temperature=0)
Logits = NDArray[np.float32]


def choose(logits: Logits, *rows: Sampling, positions: list[int] | None = None) -> list[int]:
    sampler = Sampler(rows=len(rows), vocabulary_size=logits.shape[1])
    for row, sampling in enumerate(rows):
        sampler.assign(row, sampling)
    chosen: list[int] = sampler.choose(logits, np.array(positions or [0] * len(rows), np.int32)).tolist()
    return chosen


def independent(logits: Logits, sampling: Sampling, position: int) -> int:
    """The same choice, written as it is defined: one row, everything sorted, float64."""
    order = sorted(range(len(logits)), key=lambda n: (-logits[n], n))
    unlimited = sampling.top_k == 0 or sampling.top_k >= len(logits)
    if not unlimited:
        order = order[: sampling.top_k]
    scaled = [(float(logits[n]) - float(logits[order[0]])) / sampling.temperature for n in order]
    weights = np.exp(scaled)
    weights /= weights.sum()
    if sampling.top_p < 1:
        count = int(np.searchsorted(weights.cumsum(), sampling.top_p)) + 1
        order, weights = order[:count], weights[:count]
    if unlimited and sampling.top_p == 1:
        weights = weights[np.argsort(order)]
        order = sorted(order)
    point = uniform(np.array([sampling.seed], np.uint64), np.array([position]))[0] * weights.sum()
    return order[min(int(np.searchsorted(weights.cumsum(), point, side="right")), len(order) - 1)]


def random_logits(rows: int, size: int, seed: int = 0) -> Logits:
    return (np.random.default_rng(seed).normal(size=(rows, size)) * 3).astype(np.float32)


def test_greedy_takes_the_best_and_of_equals_the_lowest() -> None:
    """Temperature 0 is the largest logit; of equal ones the one with the lowest id."""
    logits = np.array([[0, 2, 1, 2], [5, 5, 5, 5]], np.float32)
    assert choose(logits, GREEDY, GREEDY) == [1, 0]


@pytest.mark.parametrize("temperature", [1e-300, 1e-7])
def test_almost_no_temperature_is_greedy(temperature: float) -> None:
    """A temperature that no float32 logit can tell from 0 is greedy, and not a division by zero."""
    assert choose(np.array([[0, 3, 2.9]], np.float32), Sampling(temperature=temperature)) == [1]


@pytest.mark.parametrize("size", [5, 260, 3000, 49152])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(temperature=7),
        Sampling(top_k=1),
        Sampling(top_k=40),
        Sampling(top_k=10**9),
        Sampling(top_p=0.9),
        Sampling(temperature=9, top_p=0.999),
        Sampling(temperature=0.8, top_k=50, top_p=0.7),
        Sampling(top_p=1e-9),
    ],
)
def test_choice_equals_an_independent_one(size: int, sampling: Sampling) -> None:
    """Every filter, and all together, choose what their definition in plain Python chooses."""
    rows = 12
    logits = random_logits(rows, size)
    row_of = [replace(sampling, seed=row * 977) for row in range(rows)]
    chosen = choose(logits, *row_of, positions=list(range(rows)))
    assert chosen == [independent(logits[row], row_of[row], row) for row in range(rows)]


@pytest.mark.parametrize("sampling", [Sampling(temperature=2), Sampling(top_k=6, top_p=0.8, temperature=3)])
def test_frequencies_follow_the_probabilities(sampling: Sampling) -> None:
    """Over 40,000 positions the frequencies of the tokens pass a chi-squared test at p = 1e-6."""
    count, size = 40_000, 12
    logits = np.repeat(random_logits(1, size, seed=3), count, axis=0)
    chosen = choose(logits, *[sampling] * count, positions=list(range(count)))
    order = np.argsort(-logits[0])[: sampling.top_k or size]
    expected = np.exp(logits[0, order].astype(float) / sampling.temperature)
    expected /= expected.sum()
    kept = int(np.searchsorted(expected.cumsum(), sampling.top_p)) + 1 if sampling.top_p < 1 else len(order)
    expected = expected[:kept] / expected[:kept].sum() * count
    seen = np.array([chosen.count(number) for number in order[:kept]])
    assert seen.sum() == count  # nothing that a filter took away is ever chosen
    assert ((seen - expected) ** 2 / expected).sum() < 50  # chi-squared with 11 degrees of freedom: p < 1e-6


def test_equal_logits_at_the_edge_of_top_k() -> None:
    """Of equal logits at the edge, top-k keeps those with the lowest ids, so that exactly k tokens are left."""
    logits = np.zeros((500, 2000), np.float32)
    logits[:, 1500] = 1
    sampling = Sampling(top_k=3, temperature=100)
    chosen = set(choose(logits, *[sampling] * 500, positions=list(range(500))))
    assert chosen == {1500, 0, 1}


def test_nucleus_of_a_flat_distribution() -> None:
    """A nucleus wider than the tokens that are looked at first is found: nine tenths of 3,000 equal ones."""
    logits = np.zeros((300, 3000), np.float32)
    chosen = choose(logits, *[Sampling(top_p=0.9)] * 300, positions=list(range(300)))
    assert max(chosen) < 2701
    assert max(chosen) > 2500


def test_tokens_without_probability_are_never_chosen() -> None:
    """A logit of minus infinity is never chosen, by any filter."""
    logits = np.full((200, 1000), -np.inf, np.float32)
    logits[:, [3, 998]] = 1, 2
    for sampling in (Sampling(temperature=50), Sampling(top_k=10), Sampling(top_p=0.99, temperature=50)):
        assert set(choose(logits, *[sampling] * 200, positions=list(range(200)))) == {3, 998}


def test_point_that_rounds_up_to_the_whole() -> None:
    """A point that rounding puts at the very end finds the last token that has a probability."""
    sums = np.array([[0.25, 0.5, 0.5, 0.5]])
    assert _find(sums, np.array([0.5])).tolist() == [1]


def test_choice_does_not_depend_on_the_batch() -> None:
    """A row chooses the same token alone and among 63 others, whatever their parameters."""
    rows, size = 64, 5000
    logits = random_logits(rows, size)
    kinds = [
        GREEDY,
        Sampling(),
        Sampling(top_k=5),
        Sampling(top_p=0.5),
        Sampling(top_k=900, top_p=0.9),
        Sampling(top_p=1e-3),
    ]
    mixed = [replace(kinds[row % len(kinds)], seed=row) for row in range(rows)]
    together = choose(logits, *mixed, positions=list(range(rows)))
    alone = [choose(logits[row : row + 1], mixed[row], positions=[row])[0] for row in range(rows)]
    assert together == alone


def test_seed_and_position_decide() -> None:
    """The same seed and position give the same token; another seed, or another position, another series."""
    logits = np.zeros((50, 10_000), np.float32)
    positions = list(range(50))
    one, same, other = (choose(logits, *[Sampling(seed=s)] * 50, positions=positions) for s in (1, 1, 2))
    assert one == same
    assert one != other
    assert len(set(one)) > 40


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=2), Sampling(top_p=0.5)])
def test_row_that_is_not_finite_is_marked(wrong: float, sampling: Sampling) -> None:
    """A row with NaN or infinity is marked, and the rows beside it are not disturbed."""
    logits = np.tile(np.array([0, 1, 30, 2], np.float32), (3, 1))
    logits[1, 3] = wrong
    assert choose(logits, *[sampling] * 3) == [2, BAD_ROW, 2]


def test_row_of_minus_infinity_is_marked() -> None:
    """A row in which nothing is possible is marked."""
    assert choose(np.full((1, 9), -np.inf, np.float32), Sampling()) == [BAD_ROW]


def test_rows_without_rules_do_not_change_for_others() -> None:
    """Rules of one row change its choice only, and leave the session's logits as they are."""
    logits = random_logits(3, 50)
    before = logits.copy()
    sampler = Sampler(rows=3, vocabulary_size=50)
    best = logits.argmax(axis=1)
    for row in range(3):
        sampler.assign(row, GREEDY)
    sampler.assign(1, GREEDY, rules=Rules.of(Sampling(logit_bias=((int(best[1]), -100.0),))))
    chosen = sampler.choose(logits, np.zeros(3, np.int32))
    assert (chosen == best).tolist() == [True, False, True]
    np.testing.assert_array_equal(logits, before)


def test_penalties_follow_what_was_chosen() -> None:
    """A row takes note of its own tokens: with a strong penalty it never chooses the same one twice."""
    sampler = Sampler(rows=1, vocabulary_size=20)
    sampler.assign(0, GREEDY, rules=Rules.of(Sampling(presence_penalty=10)))
    logits = random_logits(1, 20)
    chosen = [int(sampler.choose(logits / np.float32(9), np.array([n], np.int32))[0]) for n in range(20)]
    assert sorted(chosen) == list(range(20))
    assert chosen == np.argsort(-logits[0]).tolist()


def test_ends_wait_for_the_least_tokens() -> None:
    """Tokens that end a sequence come behind its least number of tokens, counted from the prompt's end, not before."""
    logits = np.array([[0, 5, 1]], np.float32)
    sampler = Sampler(rows=1, vocabulary_size=3)
    rules = Rules.of(Sampling(min_tokens=2), ends=[1])
    sampler.assign(0, GREEDY, rules=rules, tokens=np.zeros(7, np.int32), prompt_tokens=7)
    assert [sampler.choose(logits, np.array([n], np.int32))[0] for n in (7, 8, 9)] == [2, 2, 1]


def test_a_row_that_is_not_finite_is_marked_under_rules_too() -> None:
    """What the rules forbid does not hide that the logits are broken; what they leave empty is told apart."""
    logits = np.array([[0, np.nan], [0, 1], [0, 1]], np.float32)
    masks = np.array([[1], [0], [1]], np.uint32)
    sampler = Sampler(rows=3, vocabulary_size=2)
    for row in range(3):
        sampler.assign(row, GREEDY)
    assert sampler.choose(logits, np.zeros(3, np.int32), masks=masks).tolist() == [BAD_ROW, NOTHING_LEFT, 0]


def test_logits_of_the_wrong_shape() -> None:
    """Logits of another shape are an error with both shapes."""
    with pytest.raises(ValueError, match=r"\(1, 8\).*\(1, 9\)"):
        Sampler(rows=1, vocabulary_size=9).choose(np.zeros((1, 8), np.float32), np.zeros(1, np.int32))


def test_moved_row_keeps_its_parameters() -> None:
    """A row that is moved chooses as it did before."""
    logits = np.zeros((2, 1000), np.float32)
    sampler = Sampler(rows=2, vocabulary_size=1000)
    sampler.assign(0, GREEDY)
    sampler.assign(1, Sampling(seed=5, top_k=700, top_p=0.9))
    before = sampler.choose(logits, np.array([4, 4], np.int32))[1]
    sampler.move(1, 0)
    assert sampler.choose(logits, np.array([4, 4], np.int32))[0] == before
