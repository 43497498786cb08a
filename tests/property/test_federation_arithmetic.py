"""The arithmetic of federated rounds: exact sums, what robust means bear, what compression loses and gives back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferd.federation.parts import Parts
from inferd.federation.words import total
from inferd_federation.aggregate import Moments, fed_adam, krum, trimmed_mean
from inferd_federation.compress import Feedback, of_bytes, of_longest, to_bytes, to_longest
from inferd_federation.fixed import FRACTION_BITS, LIMIT, MOST_EXAMPLES, of_words, to_words
from inferd_federation.heads import Recipe, judge, prepare, statistics, train
from inferd_federation.private import clipped, noised
from inferd_federation.sums import compute

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 12), st.integers(1, 40))
def test_the_mean_of_words_is_the_weighted_mean(seed: int, clients: int, size: int) -> None:
    """To half a step of fixed point, whatever the order; numbers beyond the limit are cut to it."""
    random = np.random.default_rng(seed)
    updates = random.normal(0, 3, (clients, size))
    examples = random.integers(1, 1000, clients)
    words = [to_words(update, int(each)) for update, each in zip(updates, examples, strict=True)]
    mean, together = of_words(total(words, size + 1))
    assert total(reversed(words), size + 1) == total(words, size + 1)
    assert together == examples.sum()
    exact = (updates * examples[:, None]).sum(axis=0) / together
    assert np.abs(mean - exact).max() <= 2.0 ** -(FRACTION_BITS + 1) + 1e-12
    assert of_words(to_words(np.array([1e9, -1e9]), MOST_EXAMPLES))[0].tolist() == [LIMIT, -LIMIT]
    for wrong in (0, MOST_EXAMPLES + 1):
        with pytest.raises(ValueError, match="examples"):
            to_words(updates[0], wrong)
    with pytest.raises(ValueError, match="not finite"):
        to_words(np.array([math.nan]), 1)


@given(seeds, st.integers(1, 700))
def test_compression_keeps_what_it_says(seed: int, size: int) -> None:
    """In 8 bits a number is right to half a step of its block; of the longest ones each is right, others are 0."""
    update = np.random.default_rng(seed).normal(0, 1, size)
    found = of_bytes(to_bytes(update), size)
    assert np.abs(found - update).max() <= np.abs(update).max() / 127 / 2 * 1.001 + 1e-7
    keep = max(1, size // 10)
    longest = of_longest(to_longest(update, keep), size)
    assert np.count_nonzero(longest) == keep
    assert np.abs(longest[longest != 0]).min() >= np.sort(np.abs(update))[-keep] * 0.9999
    for wrong in (b"", b"1234567"):
        with pytest.raises(ValueError, match="update"):
            of_longest(wrong, size)
    with pytest.raises(ValueError, match="8 bits"):
        of_bytes(b"", size)


@settings(deadline=None)
@given(seeds, st.sampled_from([0.05, 0.3, None]))
def test_what_compression_leaves_out_comes_with_the_next_update(seed: int, share: float | None) -> None:
    """What was sent and what is still left are together what was to be sent, over all rounds."""
    random = np.random.default_rng(seed)
    feedback, sent, wanted = Feedback(100, share), np.zeros(100), np.zeros(100)
    for turn in range(1, 21):
        update = random.normal(0, 1, 100)
        lost = feedback.compress(update, turn)  # of an attempt that is begun again
        written = feedback.compress(update, turn)
        assert written == lost
        sent += of_bytes(written, 100) if share is None else of_longest(written, 100)
        wanted += update
    assert np.allclose(sent + feedback.left, wanted, atol=1e-6)


@given(seeds, st.integers(1, 3))
def test_robust_means_bear_false_updates(seed: int, false: int) -> None:
    """However long the updates of some are, the trimmed mean and Krum stay among those of the others."""
    random = np.random.default_rng(seed)
    honest = [random.normal(1, 0.1, 20) for _ in range(2 * false + 4)]
    updates = [*honest, *(np.full(20, random.choice([-1e9, 1e9])) for _ in range(false))]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    mean = trimmed_mean(updates, false / len(updates) + 1e-9)
    assert (mean >= low - 1e-9).all()
    assert (mean <= high + 1e-9).all()
    for keep in (1, 3):
        found, chosen = krum(updates, false=false, keep=keep)
        assert len(chosen) == keep
        assert max(chosen) < len(honest)
        assert np.abs(found - 1).max() < 1
    with pytest.raises(ValueError, match="Krum with"):
        krum(updates[: 2 * false + 2], false=false, keep=1)
    with pytest.raises(ValueError, match="leaves none"):
        trimmed_mean(updates[:2], 0.5)


def test_a_trimmed_mean_bears_a_false_update_of_few() -> None:
    """The share is rounded up: also a tenth of five leaves one out at each end; three tenths of ten are three."""
    assert trimmed_mean([*map(np.array, ([1.0], [2.0], [3.0], [4.0], [1e9]))], 0.1)[0] == 3.0
    assert trimmed_mean([np.array([float(n)]) for n in (*range(7), 1e9, 1e9, 1e9)], 0.3)[0] == 4.5


def test_counts_that_no_clients_have_are_refused() -> None:
    """Negative ones, more than rows, and more rows than clients may have; a client bears any that are told."""
    plan = {"clients": [1, 2], "statistics": True, "secure": None, "size": 2}

    def after(*counts: int) -> bytes:
        named = {"update.1": np.array([1, 1, 1], "<i8").tobytes(), "update.2": np.array(counts, "<i8").tobytes()}
        return compute(Parts(plan, named)).named["counts"]

    assert np.frombuffer(after(1, 0, 2), "<i8").tolist() == [2, 1, 3]
    for wrong in ((-1000, 0, 2), (5, 0, 2), (0, 0, 2 << 20), (0, 0, -1)):
        with pytest.raises(ValueError, match="the sum of counts"):
            after(*wrong)
    for told in (-1000, 1 << 62):
        rows = prepare(ROWS, RECIPE, np.full(RECIPE.buckets + 1, told))
        assert all(np.isfinite(each).all() for each in rows.amounts)


def test_fed_adam_is_the_papers() -> None:
    """Two steps by hand, with the betas and tau of Reddi et al. 2021."""
    zero = np.zeros(1)
    step, moments = fed_adam(np.array([2.0]), Moments(zero, zero), 0.1)
    assert step[0] == pytest.approx(0.1 * 0.2 / (math.sqrt(0.04) + 1e-3))
    step, moments = fed_adam(np.array([-1.0]), moments, 0.1)
    assert moments.first[0] == pytest.approx(0.08)
    assert step[0] == pytest.approx(0.1 * 0.08 / (math.sqrt(0.99 * 0.04 + 0.01) + 1e-3))


@given(seeds, st.floats(0.1, 10))
def test_a_clipped_update_is_no_longer_than_its_bound(seed: int, longest: float) -> None:
    """A long one has that length and its direction; a short one is as it was."""
    update = np.random.default_rng(seed).normal(0, 1, 30)
    found = clipped(update, longest)
    length = np.linalg.norm(update)
    assert np.linalg.norm(found) <= longest * 1.000001
    assert np.allclose(found, update * min(1, longest / length))


def test_the_noise_of_the_least_clients_together_is_what_is_accounted() -> None:
    """The sum of so many parts has the standard deviation `multiplier * clip`."""
    generator = np.random.default_rng(1)
    parts = [noised(np.zeros(20_000), clip=2.0, multiplier=1.5, least=7, generator=generator) for _ in range(7)]
    assert np.std(sum(parts)) == pytest.approx(3.0, rel=0.03)


ROWS = [{"text": f"{word} und {word} {n}0", "label": word} for n in range(12) for word in ("eins", "zwei", "drei")]
RECIPE = Recipe(labels=("drei", "eins", "zwei"), buckets=64, epochs=20, batch=4)


def test_heads_learn_and_are_held_by_the_proximal_term() -> None:
    """Rows that tell their label are learned; the same data and turn give the same bits; FedProx stays nearer."""
    rows = prepare(ROWS, RECIPE, statistics(ROWS, RECIPE))
    zero = np.zeros(RECIPE.size, np.float32)
    trained, loss = train(zero, rows, RECIPE, turn=3)
    assert judge(trained, rows, RECIPE) == {"accuracy": 1.0, "macro_f1": 1.0}
    assert loss < 0.5
    assert (train(zero, rows, RECIPE, turn=3)[0] == trained).all()
    held, _ = train(zero, rows, RECIPE, proximal=0.2, turn=3)
    assert np.linalg.norm(held) < np.linalg.norm(trained)
    with pytest.raises(ValueError, match="row 1 has the label 'vier'"):
        prepare([{"text": "x", "label": "vier"}], RECIPE, None)
    with pytest.raises(ValueError, match="recipe of heads"):
        Recipe.read({"labels": ["a"]})


def test_a_round_is_computed_as_its_plan_says() -> None:
    """FedAvg by weights, FedAdam with moments, both robust means, each compression; a wrong update names its client."""
    updates = {1: np.array([1.0, -2.0]), 2: np.array([3.0, 2.0]), 5: np.array([2.0, 0.0])}
    plan = {
        "clients": [1, 2, 5],
        "statistics": False,
        "secure": None,
        "size": 2,
        "aggregation": "fed_avg",
        "learning_rate": 1.0,
        "trim": 0.33,
        "false": 0,
        "keep": 1,
        "compression": "none",
        "examples": {"1": 1, "2": 3, "5": 1},
    }
    plain = {f"update.{n}": to_words(each, plan["examples"][str(n)]) for n, each in updates.items()}
    weights = np.array([10.0, 10.0], "<f4").tobytes()

    def after(named: dict[str, bytes], **changed: object) -> tuple[list[float], Parts]:
        read = Parts.read(Parts({**plan, **changed}, {"weights": weights, **named}).write())
        made = compute(read)
        return np.frombuffer(made.named["weights"], "<f4").tolist(), made

    found, made = after(plain)
    assert found == pytest.approx([12.4, 10.8])
    assert (made.told["examples"], made.told["chosen"]) == (5, [1, 2, 5])
    assert after(plain, aggregation="trimmed_mean")[0] == [12.0, 10.0]
    found, made = after(plain, aggregation="krum")
    assert len(made.told["chosen"]) == 1
    found, made = after(plain, aggregation="fed_adam", learning_rate=0.1)
    again, _ = after(
        {**plain, **{n: made.named[n] for n in ("first", "second")}}, aggregation="fed_adam", learning_rate=0.1
    )
    assert again[0] != found[0]
    short = {f"update.{n}": to_bytes(each) for n, each in updates.items()}
    assert after(short, compression="bytes")[0] == pytest.approx([12.4, 10.8], abs=0.02)
    longest = {f"update.{n}": to_longest(each, 2) for n, each in updates.items()}
    assert after(longest, compression="longest")[0] == pytest.approx([12.4, 10.8])
    with pytest.raises(ValueError, match="client 2 is of 3 examples"):
        after(plain, examples={"1": 1, "2": 2, "5": 1})
    for aggregation in ("trimmed_mean", "krum"):
        with pytest.raises(ValueError, match="client 2 is of 3 examples"):
            after(plain, aggregation=aggregation, examples={"1": 1, "2": 2, "5": 1})
    huge = {**short, "update.5": np.float32(3e38).tobytes() + bytes([127, 127])}
    assert after(huge, compression="bytes", aggregation="trimmed_mean", trim=0.1)[0] == pytest.approx([13, 12], abs=0.1)
    assert np.isfinite(after(huge, compression="bytes", aggregation="krum")[0]).all()
    with pytest.raises(ValueError, match="client 2 has 8 bytes"):
        after({**plain, "update.2": bytes(8)})
