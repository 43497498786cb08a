import numpy as np
import pytest

from inferd.engine.token.philox import philox, uniform

# From the file kat_vectors of Random123, by the authors of the paper: counter, key, result.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_published_vectors() -> None:
    """The words are those that the authors of Philox publish, computed all at once."""
    counters, keys, expected = (np.array([words(row[column]) for row in PUBLISHED], np.uint64).T for column in range(3))
    np.testing.assert_array_equal(philox(counters, keys), expected)


def test_numbers_do_not_depend_on_their_neighbours() -> None:
    """A number is the same alone and among others."""
    seeds = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    positions = np.array([5, 0, 7, 2**31 - 1])
    together = uniform(seeds, positions)
    alone = [uniform(seeds[n : n + 1], positions[n : n + 1])[0] for n in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_numbers_are_made_of_53_bits_of_two_words() -> None:
    """The first number of seed 0 comes from the published words of counter 0."""
    first, second, *_ = words(PUBLISHED[0][2])
    assert uniform(np.zeros(1, np.uint64), np.zeros(1, np.int32))[0] == ((second << 32 | first) >> 11) / 2**53


@pytest.mark.parametrize("varied", ["seed", "position"])
def test_numbers_are_uniform(varied: str) -> None:
    """20,000 numbers, of many seeds or of many positions, pass a Kolmogorov-Smirnov test at p = 1e-6."""
    count = 20_000
    many, one = np.arange(count, dtype=np.uint64), np.full(count, 7, np.uint64)
    numbers = np.sort(uniform(many, one) if varied == "seed" else uniform(one, many))
    distance = np.abs(numbers - np.arange(count) / count).max()
    assert distance < 2.7 / count**0.5  # 2 exp(-2 * 2.7**2) < 1e-6
    assert numbers[0] >= 0
    assert numbers[-1] < 1
